"""The database of several web hosts is replaced while all of them stand still, or not at all."""

from __future__ import annotations

import secrets
import time

import pytest


@pytest.fixture(scope="module", autouse=True)
def converged(lab):
    """After a restore the next run asks the database anew which migrations it has: that is done when others look for changes."""
    yield
    lab.playbook("playbooks/site.yml")


@pytest.fixture
def row(backups):
    backups.sql("CREATE TABLE redoubt.drill AS SELECT 'before' AS word")
    yield lambda: backups.sql("SELECT word FROM redoubt.drill")
    backups.sql("DROP TABLE redoubt.drill")


def running(lab, backups) -> dict[str, str]:
    words = f"systemctl list-units --plain --no-legend --state=active '{backups.app}@*' '{backups.app}-*' | cut -d' ' -f1"
    return {name: lab.host(name).check_output(words) for name in lab.groups["web"]}


def test_what_was_lost_is_back_on_every_host(lab, backups, browse, site, row) -> None:
    word, before = secrets.token_hex(8), running(lab, backups)
    path = backups.upload(f"drill/{word}.txt", word)
    backups.play("backup")
    at = backups.now
    time.sleep(0.1)
    backups.sql("UPDATE redoubt.drill SET word = 'after'")
    backups.web.check_output(f"rm {path}")
    backups.archived()
    backups.play("restore", confirm=backups.app, at=at)
    assert row() == "before"
    assert backups.web.check_output(f"cat {path}") == word
    assert running(lab, backups) == before
    for name in lab.groups["web"]:
        assert browse(name).get(f"{site}/", timeout=30).status_code == 200
    # The database is backed up on its new timeline, and proven to come back.
    backups.store.check_output(f"systemctl start redoubt-backup-database@{backups.name}.service")
    backups.play("backup")
    assert backups.play("drill").returncode == 0


def test_nothing_is_replaced_below_a_host_that_does_not_stop(lab, backups, browse, site, row) -> None:
    before, other = running(lab, backups), sorted(lab.groups["web"])[1]
    lab.host(other).check_output("chmod a-x /usr/local/lib/redoubt/backup")
    try:
        done = backups.play("restore", check=False, confirm=backups.app)
    finally:
        lab.host(other).check_output("chmod a+x /usr/local/lib/redoubt/backup")
    assert done.returncode != 0
    assert f"Nothing was restored: {other} could not be stopped, and would go on to write." in backups.told(done)
    assert row() == "before"
    assert running(lab, backups) == before
    done = backups.play("restore", check=False, confirm=backups.app, part="database")
    assert done.returncode == 0, done.stdout
    # With a limit the web hosts are not reached, and go on.
    done = lab.playbook("playbooks/restore.yml", "--extra-vars", f"confirm={backups.app}", "--limit", backups.name, check=False)
    assert done.returncode != 0
    assert "Reach all hosts of `web`, without --limit" in backups.told(done)
    for name in lab.groups["web"]:
        assert browse(name).get(f"{site}/", timeout=30).status_code == 200
