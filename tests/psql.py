"""Enough of psql for the tests of PostgreSQL, run on a web host by the release's own driver, as the application logs in: where the database
is on another host, no role of it is a user there. Reads a script; knows `\\warn` and `\\set ON_ERROR_STOP 0`."""

import re
import sys

import psycopg


def split(script):
    """Statements, and what is to be said between them. Quotes hold what is in them together."""
    for chunk in re.split(r"(?m)^(\\.*)$", script):
        if chunk.startswith("\\"):
            yield chunk
            continue
        yield from (part for part in re.findall(r"(?:[^;'\"]|'[^']*'|\"[^\"]*\")+", chunk) if part.strip())


def main():
    stop = True
    try:
        connection = psycopg.connect(" ".join(sys.argv[1:]), autocommit=True)
    except psycopg.Error as error:
        print(error, file=sys.stderr)
        return 2
    for part in split(sys.stdin.read()):
        if part.startswith("\\warn"):
            print(part.removeprefix("\\warn "), file=sys.stderr, flush=True)
        elif part.startswith("\\set"):
            stop = part.split()[2] != "0"
        else:
            try:
                answer = connection.execute(part).pgresult
            except psycopg.Error as error:
                print(f"ERROR:  {error.diag.message_primary or error}", file=sys.stderr, flush=True)
                if stop:
                    return 3
                continue
            for row in range(answer.ntuples):
                print("|".join((answer.get_value(row, column) or b"").decode() for column in range(answer.nfields)))
    return 0


sys.exit(main())
