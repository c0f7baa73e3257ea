"""The password of a database on its own host is replaced while visitors are there: two roles take turns, and the old one is dead afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from load import Load
from logged import at
from test_rotation import Keys, Members, assert_unchanged, assert_unharmed

PSQL = (Path(__file__).parent.parent / "psql.py").read_text()
# Every command line that a host sees, until it is told to stop.
WATCH = """
import os, pathlib, signal, sys, time
seen, stop = set(), []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
while not stop:
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            seen.add((folder / "cmdline").read_bytes())
        except OSError:
            pass
    time.sleep(0.02)
sys.stdout.buffer.write(b"\\n".join(seen))
"""
RIGHTS = """select r, c.oid::regclass, p from unnest(array['{0}', '{0}_2']) r, pg_class c join pg_namespace n on n.oid = c.relnamespace,
  unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) p
  where n.nspname = 'public' and c.relkind in ('r', 'v') and has_table_privilege(r, c.oid, p)"""


def rotate(secret: str) -> tuple[str, ...]:
    return "playbooks/rotate.yml", "--extra-vars", f"secret={secret}"


@pytest.fixture
def keys(lab):
    return Keys(lab)


@pytest.fixture
def login(lab, fleet):
    """A login over TLS from the first web host, by a password that is said, and in no command line."""
    values = lab.vars(lab.web)["app_database"]

    def run(role: str, password: str) -> subprocess.CompletedProcess:
        words = [f"host={values['host']}", f"dbname={fleet.name}", f"user={role}", "sslmode=verify-full", f"sslrootcert={values['sslrootcert']}"]
        command = ["runuser", "-u", fleet.name, "--", f"/srv/{fleet.name}/live/release/venv/bin/python", "-c", PSQL, *words]
        return subprocess.CompletedProcess([], *json.loads(at(lab, lab.web, f"""
import json, os, subprocess
done = subprocess.run({command!r}, input="SELECT 1", env={{**os.environ, "PGPASSWORD": {password!r}}}, capture_output=True, text=True, cwd="/")
print(json.dumps([done.returncode, done.stdout, done.stderr]))
""")))

    return run


@pytest.fixture
def visitors(lab, fleet, browse, site):
    """A load on both hosts, and members of the site who are logged in."""
    turns = itertools.cycle(fleet.hosts)

    def browser():
        return browse(next(turns))

    password = lab.vars(lab.web)["vault_app_admin_password"]
    return Load(browser, site, password), Members(browser, site, password, ("witness",))


@pytest.fixture
def command_lines(fleet):
    """What every host's command lines were while this was in use."""
    hosts = [*fleet.hosts.values(), fleet.database]
    for host in hosts:
        host.check_output("umask 077; rm -f /run/drill-watch.seen; systemd-run --quiet --collect --unit=drill-watch "
                          "--property=StandardOutput=file:/run/drill-watch.seen python3 -c %s", WATCH)

    def seen() -> str:
        for host in hosts:
            host.check_output("systemctl stop drill-watch")
        return "\n".join(host.check_output("cat /run/drill-watch.seen") for host in hosts)

    yield seen
    for host in hosts:
        host.run("systemctl stop drill-watch; rm -f /run/drill-watch.seen")


def users(fleet) -> set[str]:
    return set(fleet.sql("select distinct usename from pg_stat_activity where client_addr is not null").split())


def asleep(fleet, role: str) -> bool:
    return fleet.sql(f"select not rolcanlogin and rolpassword is null from pg_authid where rolname = '{role}'") == "t"


def logs(fleet, since: str) -> str:
    said = [host.check_output(f"journalctl --no-pager --since=@{since}; cat /var/log/nginx/*.log") for host in fleet.hosts.values()]
    return "\n".join([*said, fleet.database.check_output(f"journalctl --no-pager --since=@{since}; cat /var/log/postgresql/*.log /var/log/postgresql/json/*.json")])


def cut_off(lab, secret: str, reached) -> str:
    """A rotation that is killed once it has got that far; what it has said until then."""
    return killed(lab.start(*rotate(secret), "--diff"), reached)


def killed(run: subprocess.Popen, reached) -> str:
    said = []
    reader = threading.Thread(target=lambda: said.extend(run.communicate()))
    reader.start()
    deadline = time.monotonic() + 420
    try:
        while not reached():
            assert time.monotonic() < deadline and run.poll() is None, "the playbook did not get that far"
            time.sleep(0.2)
    finally:
        # What it has begun has sessions of its own.
        workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split() if run.poll() is None else []
        for pid in (run.pid, *map(int, workers)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reader.join()
    return "".join(said)


def turn(keys, user: str, secret: str = "database") -> tuple[str, str]:
    """The role that logs in, and the one that does not."""
    roles = (user, f"{user}_2")
    return roles[::-1] if keys.values.get(f"vault_app_{secret}_alternate") else roles


def test_a_new_database_password_under_load(lab, fleet, keys, login, visitors, command_lines, table) -> None:
    """Killed after each write of the vault: the last run ends what the first began, and no visitor has noticed."""
    name, since, release = fleet.name, fleet.database.check_output("date +%s"), fleet.serving
    old = keys.values["vault_app_database_password"]
    first, second = turn(keys, name)
    assert login(first, old).returncode == 0 and asleep(fleet, second)

    load, members = visitors
    marks = ("vault_app_database_password_next", "vault_app_database_password_former", [])
    new, said = "", ""
    with load, members:
        for mark in marks:
            said += cut_off(lab, "app_database_password", lambda mark=mark: mark in (keys.values if mark else keys.values.values()))
            found = keys.values.get(marks[0]) or keys.values["vault_app_database_password"]
            assert found == (new or found) != old
            new = found
        done = lab.playbook(*rotate("app_database_password"), "--diff")
    assert_unharmed(load, members)
    assert members.comes_back("witness") == 200
    assert "going on with that" in " ".join(done.stdout.split()), done.stdout
    assert keys.values["vault_app_database_password"] == new and not [each for each in keys.values if each.endswith(("_next", "_former"))]

    # The old one is dead, and by the rules of the server as much as by its password.
    dead = login(first, old)
    assert dead.returncode == 2 and "password authentication failed" in dead.stderr, dead.stderr
    assert asleep(fleet, first) and login(second, old).returncode == 2 and login(second, new).returncode == 0
    assert users(fleet) == {second}
    # It is no other release that serves, and each process of it, the workers too, began with the new one.
    assert fleet.serving == release
    for host in fleet.hosts.values():
        assert host.check_output(f"cut -d: -f4 /etc/{name}/pgpass-{name}") == second
        roles = host.check_output(f"cat $(pgrep -u {name} | sed 's,.*,/proc/&/environ,') | tr '\\0' '\\n' | sed -n 's,^DATABASE_URL=postgres://\\([^@]*\\)@.*,\\1,p' | sort -u")
        assert roles == second
    # Both have the same rights and limits.
    rights = {tuple(line.split("|")) for line in fleet.sql(RIGHTS.format(name)).splitlines()}
    assert {line[1:] for line in rights if line[0] == name} == {line[1:] for line in rights if line[0] != name} != set()
    assert fleet.sql(f"select count(distinct (setconfig)) from pg_db_role_setting join pg_roles r on r.oid = setrole where rolname in ('{name}', '{name}_2')") == "1"

    shown = {"a run": said + done.stdout + done.stderr, "a command line": command_lines(), "a log": logs(fleet, since)}
    assert [where for where, text in shown.items() if old in text or new in text or "SCRAM-SHA-256$" in text] == []
    # Nothing wakes it up.
    assert_unchanged(lab.playbook("playbooks/site.yml"))
    assert asleep(fleet, first)
    table("rotation", {**load.row("database password, cut off three times"), "members": len(members.answers), "logged_out": 0})


def test_the_migrators_password_too(lab, fleet, releases, keys, login, source) -> None:
    name, old = f"{fleet.name}_migrate", keys.values["vault_app_migrate_password"]
    first, second = turn(keys, name, "migrate")
    done = lab.playbook(*rotate("app_migrate_password"))
    new = keys.values["vault_app_migrate_password"]
    assert new != old and login(first, old).returncode == 2 and asleep(fleet, first) and login(second, new).returncode == 0
    assert old not in done.stdout + done.stderr and new not in done.stdout + done.stderr
    # It migrates, and what it makes belongs to the owner.
    migration = (Path(__file__).parent / "test_releases.py").read_text()
    source.commit({"src/notes/migrations/0005_drill.py": re.search(r'MIGRATION = """\n(.*?)"""', migration, re.DOTALL)[1]})
    answer = releases.deploy("drill")
    assert answer.returncode == 0, releases.told(answer)
    assert releases.sql("select tableowner from pg_tables where tablename = 'notes_drill'") == f"{fleet.name}_owner"
    assert json.loads(releases.sql("select to_json(array_agg(usename)) from pg_stat_activity where client_addr is not null"))


def test_a_database_host_that_is_left_out_leaves_the_old_password_good(lab, fleet, keys, login) -> None:
    before, (user, _) = keys.values, turn(keys, fleet.name)
    old = before["vault_app_database_password"]
    done = lab.playbook(*rotate("app_database_password"), "--limit", "web", check=False)
    assert done.returncode != 0 and f"{lab.groups['db'][0]} is left out of this run or did not answer" in " ".join(done.stdout.split()), done.stdout
    assert login(user, old).returncode == 0 and keys.values == before
