"""A host that is lost with its disk, while people write: its inventory, the vault and the backups give back the service on a blank one.

Or, where even the inventory is lost: the lines of docs/lost-host.md, as they stand there.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
from backups import Backups

PAGE = Path(__file__).resolve().parents[2] / "docs/lost-host.md"

WRITER = """
CREATE TABLE IF NOT EXISTS redoubt.drill (at timestamptz NOT NULL DEFAULT clock_timestamp());
DO $$ BEGIN LOOP INSERT INTO redoubt.drill DEFAULT VALUES; COMMIT; PERFORM pg_sleep(0.05); END LOOP; END $$;
"""


def podman(*words: str, **options: object) -> str:
    done = subprocess.run([*(["sudo", "-n"] if os.geteuid() else []), "podman", *words], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_host_is_lost(lab, backups, browse, table) -> None:
    if lab.web not in lab.groups["db"]:
        pytest.skip("one host for the site and its database is lost here")
    word = f"lost-{time.time_ns()}"
    backups.upload(f"drill/{word}.txt", word)
    backups.play("backup")
    backups.db.check_output(f"cat >/run/drill.sql <<'END'\n{WRITER}\nEND\nchown postgres /run/drill.sql; systemd-run --quiet --unit=drill-writer "
                            f"--property=User=postgres psql -XAtq -d {backups.app} -f /run/drill.sql")
    time.sleep(130)
    last = float(backups.sql("SELECT extract(epoch FROM max(at)) FROM redoubt.drill"))
    written = int(backups.sql("SELECT count(*) FROM redoubt.drill"))
    container = lab.vars(lab.web)["lab_container"]
    podman("rm", "--force", "--time", "0", "--volumes", container)
    lab.hang_up()
    lab.playbook("molecule/lab/create.yml", "--extra-vars", f"lab={lab.name}")
    lab.forget()
    new = lab.vars(lab.web)
    for name in (f"{lab.web}.test", *new["app_domains"]):
        lab.dns(name, a=[new["lab_ipv4"]], aaaa=[new["lab_ipv6"]] if new["lab_ipv6"] else [])
    began = time.monotonic()
    lab.playbook("playbooks/site.yml")
    made = time.monotonic()

    # The blank host's own emptiness is not sent in the place of what is there.
    again = Backups(lab)
    again.web.run("systemctl start redoubt-backup.service")
    status = again.db.check_output("/usr/local/lib/redoubt/backup status")
    assert "are of another cluster than the one that runs here" in status
    assert "has files that an earlier" in again.web.check_output("journalctl --no-pager -o cat -u redoubt-backup.service")
    again.play("restore", confirm=again.app)
    restored = time.monotonic()

    there = float(again.sql("SELECT extract(epoch FROM max(at)) FROM redoubt.drill"))
    kept = int(again.sql("SELECT count(*) FROM redoubt.drill"))
    table("backup_lost_host", {"case": "host and disk lost", "rows written": written, "rows restored": kept, "missing_s": round(last - there, 1),
                               "site_s": round(made - began, 1), "restore_s": round(restored - made, 1)})
    assert last - there <= 60
    assert again.web.check_output(f"cat /srv/{again.app}/media/drill/{word}.txt") == word
    assert browse(lab.web).get(f"https://{lab.vars(lab.web)['app_domains'][0]}/", timeout=60).status_code == 200
    # And it is backed up again: log, files, and a drill of both.
    again.archived()
    again.sql("DROP TABLE redoubt.drill")
    again.play("backup")
    assert again.play("drill").returncode == 0


@pytest.fixture
def bare(lab, backups):
    """Any machine of the database's Debian release, which has the folder of the repositories and has never heard of the kit."""
    like, name = lab.vars(backups.name)["lab_container"], f"redoubt-{lab.name}-bare"
    words = [word for word in json.loads(podman("inspect", like))[0]["Config"]["CreateCommand"][1:] if not word.startswith(("--publish", "--ip", "--mac-address"))]
    for option, value in (("--name", name), ("--hostname", "bare.test")):
        words[words.index(option) + 1] = value
    podman(*words)
    try:
        podman("start", name)
        podman("exec", name, "sh", "-c", "systemctl is-system-running --wait || true; install -d -m 0700 /mnt/redoubt-backups")
        store = lab.vars(backups.store_name)["lab_container"]
        copy = f"podman exec {store} tar --create --directory {backups.root} database files | podman exec --interactive {name} tar --extract --directory /mnt/redoubt-backups"
        subprocess.run([*(["sudo", "-n"] if os.geteuid() else []), "bash", "-euo", "pipefail", "-c", copy], check=True)
        yield lambda script: podman("exec", "--interactive", name, "timeout", "900", "bash", "-euo", "pipefail", "-s", input=script)
    finally:
        podman("rm", "--force", "--time", "0", "--volumes", name)


@pytest.mark.slow
def test_nothing_is_left_but_the_repositories_and_the_vault(lab, backups, request) -> None:
    word, values = secrets.token_hex(8), lab.vars(backups.name)
    backups.upload(f"drill/{word}.txt", word)
    backups.sql(f"CREATE TABLE redoubt.drill AS SELECT '{word}' AS word")
    backups.play("backup")
    backups.sql(f"UPDATE redoubt.drill SET word = 'later than {word}'")
    backups.archived()
    run = request.getfixturevalue("bare")

    blocks = [textwrap.dedent(block) for block in re.findall(r"^ +```\n(.*?)^ +```$", PAGE.read_text().split("## Nothing is left but")[1], re.DOTALL | re.MULTILINE)]
    major = backups.db.check_output("ls /etc/postgresql")
    for name, value in {"FOLDER": "/mnt/redoubt-backups", "APP": backups.app, "DATABASE_HOST": backups.name, "FILES_HOST": lab.web, "MAJOR": major,
                        "DATABASE_PASS": values["app_backup_database_pass"], "FILES_PASS": values["app_backup_files_pass"]}.items():
        blocks[0], found = re.subn(rf"\b{name}=\S+", lambda _, name=name, value=value: f"{name}={shlex.quote(value)}", blocks[0])
        assert found == 1, f"the page gives no value to {name}"
    *lines, tidy = blocks
    look = f"""
        runuser -u postgres -- psql -XAtd "$APP" -c 'SELECT word FROM redoubt.drill'
        runuser -u postgres -- psql -XAtd "$APP-dump" -c 'SELECT word FROM redoubt.drill'
        cat "/srv/by-hand/files/srv/$APP/media/drill/{word}.txt"
    """
    try:
        told = run("\n".join([*lines, "echo BEGIN", look]))
    finally:
        backups.sql("DROP TABLE redoubt.drill")
    # The database to the last archived change, the dump and the files as of the backup.
    assert told.split("BEGIN\n")[1].split("\n")[:3] == [f"later than {word}", word, word]
    run(f"{blocks[0]}\n{tidy}")
    assert run("ls -d /srv/by-hand /root/files.pass 2>/dev/null || true") == ""
