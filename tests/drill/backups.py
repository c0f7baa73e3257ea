"""What the drills of backups share: the hosts by what they do, and an intruder who is root on the application's."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import time

AS_POSTGRES = "cd /; setpriv --reuid=postgres --regid=postgres --init-groups"
# A client of restic's server with the host's own key, which root can read.
CLIENT = """
import http.client, json, ssl, sys
address, port, requests = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
context = ssl.create_default_context(cafile="/etc/redoubt/pki/ca.pem")
if len(sys.argv) > 4:
    context.load_cert_chain(sys.argv[4], sys.argv[5])
answers = []
for method, path in requests:
    try:
        connection = http.client.HTTPSConnection(address, port, context=context, timeout=20)
        connection.request(method, path, b"junk" if method == "POST" else None)
        answers.append(connection.getresponse().status)
    except OSError as error:
        answers.append(type(error).__name__)
print(json.dumps(answers))
"""


class Backups:
    """The backups as operators make, list and restore them, and as an intruder sees them."""

    def __init__(self, lab) -> None:
        self.lab = lab
        self.db, self.web = lab.host(lab.groups["db"][0]), lab.host(lab.web)
        self.name, self.store_name = lab.groups["db"][0], lab.groups["backups"][0]
        self.store = lab.host(self.store_name)
        self.app = lab.vars(lab.web)["app_name"]
        self.root = "/var/lib/redoubt-backups"

    # --- As operators do ---

    def play(self, verb: str, check: bool = True, **values):
        return self.lab.playbook(f"playbooks/{verb}.yml", "--extra-vars", json.dumps(values), check=check)

    @staticmethod
    def told(done) -> str:
        """What a playbook printed, on one line."""
        return re.sub(r"\s+", " ", done.stdout + done.stderr)

    def sql(self, statement: str, socket: str = "/run/postgresql", database: str = "") -> str:
        words = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", socket, "-d", database or self.app, "-c", statement]
        return self.db.check_output(f"{AS_POSTGRES} {shlex.join(words)}")

    @property
    def now(self) -> str:
        return self.db.check_output("date -u '+%Y-%m-%d %H:%M:%S.%N+00:00'")

    def archived(self) -> None:
        """All that is committed is in the repository."""
        segment = self.sql("SELECT pg_walfile_name(pg_switch_wal())")
        deadline = time.monotonic() + 60
        while (self.sql(f"SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver") != "t"
               or self.db.run(f"test -e /var/lib/postgresql/pgbackrest-spool/{segment}").rc == 0):
            assert time.monotonic() < deadline, f"{segment} was not archived: {self.db.run('journalctl -u redoubt-backup-send | tail -n 5').stdout}"
            time.sleep(0.2)

    @staticmethod
    @contextlib.contextmanager
    def alert(host, text: str):
        """What is done meanwhile has a line at crit that says so, a moment after."""
        since = host.check_output("date +@%s.%N")
        yield
        deadline = time.monotonic() + 30
        while text not in (said := host.check_output("journalctl --no-pager --output=cat -t redoubt-alert --priority=crit --since=%s", since)):
            assert time.monotonic() < deadline, f"{text!r} is not in {said!r}"
            time.sleep(0.5)

    def send(self) -> int:
        """Back up the files, as the night does; how that ended."""
        return self.web.run("systemctl start redoubt-backup.service").rc

    @property
    def drilled(self) -> dict:
        return json.loads(self.db.check_output(f"cat /var/lib/redoubt/{self.app}/drill.json"))

    @property
    def listing(self) -> dict:
        return json.loads(self.store.check_output("/usr/local/lib/redoubt/backup-server list"))

    def upload(self, name: str, content: str = "", megabytes: int = 0) -> str:
        """A file as the application would have stored one; of random bytes, when it is to be large."""
        path = f"/srv/{self.app}/media/{name}"
        source = f"head -c {megabytes}M /dev/urandom" if megabytes else f"printf %s {content}"
        self.web.check_output(f"setpriv --reuid={self.app} --regid={self.app} --init-groups sh -c {shlex.quote(f'mkdir -p $(dirname {path}); {source} >{path}')}")
        return path

    # --- As an intruder does, who is root on the host of the application ---

    def pgbackrest(self, words: str, feed: str = ""):
        return self.db.run(f"{AS_POSTGRES} sh -c {shlex.quote(f'printf %s {shlex.quote(feed)} | pgbackrest --stanza={self.app} {words}')}")

    def ask(self, *requests: tuple[str, str], key: bool = True) -> list:
        """Statuses of requests to the door of restic's server; the name of the error where there was no answer."""
        words = [self.lab.vars(self.store_name)["lab_ipv4"], "8430", json.dumps(requests), *(["/etc/redoubt/pki/host.pem", "/etc/redoubt/pki/host.key"] if key else [])]
        return json.loads(self.web.check_output(f"python3 -c {shlex.quote(CLIENT)} {shlex.join(words)}"))

    def restic(self, words: str):
        """restic with all that the host knows."""
        address = json.loads(self.web.check_output("cat /etc/redoubt/backup/config.json"))["repository"]
        return self.web.run("umask 077; cat /etc/redoubt/pki/host.pem /etc/redoubt/pki/host.key >/run/drill.pem; restic --no-cache --repo=" + address
                            + f" --password-file=/etc/redoubt/backup/files.pass --cacert=/etc/redoubt/pki/ca.pem --tls-client-cert=/run/drill.pem {words}"
                            + "; code=$?; rm /run/drill.pem; exit $code")
