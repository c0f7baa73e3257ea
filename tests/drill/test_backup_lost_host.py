"""A host that is lost with its disk, while people write: its inventory, the vault and the backups give back the service on a blank one."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from backups import Backups

WRITER = """
CREATE TABLE IF NOT EXISTS redoubt.drill (at timestamptz NOT NULL DEFAULT clock_timestamp());
DO $$ BEGIN LOOP INSERT INTO redoubt.drill DEFAULT VALUES; COMMIT; PERFORM pg_sleep(0.05); END LOOP; END $$;
"""


@pytest.fixture
def backups(lab):
    if not lab.groups.get("backups"):
        pytest.skip("no host of this inventory keeps backups")
    if lab.web not in lab.groups["db"]:
        pytest.skip("one host for the site and its database is lost here")
    return Backups(lab)


def podman(*words: str) -> None:
    subprocess.run([*(["sudo", "-n"] if os.geteuid() else []), "podman", *words], check=True, capture_output=True)


@pytest.mark.slow
def test_a_host_is_lost(lab, backups, browse, table) -> None:
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
