"""The backups' passphrases are replaced while visitors are there and backups are made: what was there before stays readable, and the old value opens nothing."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import threading
import time

import pytest
from load import Load
from test_rotation import Keys

pytestmark = pytest.mark.once

AS_FILES = "setpriv --reuid=restic-rest-server --regid=restic-rest-server --init-groups --"


class Store:
    """The host of the backups, asked in a way that leaves no passphrase in a command line or in the log of sudo."""

    def __init__(self, lab, backups):
        self.lab, self.backups, self.container = lab, backups, lab.vars(backups.store_name)["lab_container"]

    def run(self, script: str, feed: str = "") -> subprocess.CompletedProcess:
        words = [*(["sudo", "-n"] if os.geteuid() else []), "podman", "exec", "--interactive", self.container, "bash", "-uc", f"cd /; {script}"]
        return subprocess.run(words, input=feed, capture_output=True, text=True, errors="replace", check=False)

    def passphrase(self, kind: str, old: str, new: str, *words: str) -> str:
        done = self.run(f"/usr/local/lib/redoubt/backup-server passphrase {kind} {' '.join(words)}", json.dumps({"old": old, "new": new}))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def files_open(self, passphrase: str, folder: str = "") -> bool:
        where = folder or f"{self.backups.root}/files/{self.lab.web}"
        done = self.run(f"read -r RESTIC_PASSWORD; export RESTIC_PASSWORD; {'' if folder else AS_FILES} restic --repo={where} --no-cache --no-lock snapshots", f"{passphrase}\n")
        assert done.returncode == 0 or "wrong password" in done.stderr, done.stderr
        return done.returncode == 0

    def database_opens(self, passphrase: str, folder: str = "") -> bool:
        where = folder or f"{self.backups.root}/database/{self.backups.name}"
        done = self.run("read -r PGBACKREST_REPO1_CIPHER_PASS; export PGBACKREST_REPO1_CIPHER_PASS; pgbackrest --no-config "
                        f"--repo1-path={where} --repo1-cipher-type=aes-256-cbc --stanza={self.backups.app} --log-level-file=off info --output=json", f"{passphrase}\n")
        found = json.loads(done.stdout, strict=False)
        assert found, done.stdout + done.stderr
        return found[0]["repo"][0]["status"]["code"] == 0

    def opens(self, kind: str, passphrase: str) -> dict[str, bool]:
        """What is there (no name), and each copy that is kept, by its folder; but for the copies of a repository that a drill had emptied."""
        ask, host, filled = (self.files_open, self.lab.web, "") if kind == "files" else (self.database_opens, self.backups.name, f"/backup/{self.backups.app}")
        kept = self.run(f"ls -d {self.backups.root}/kept/*/{kind}/{host}{filled}").stdout.split()
        return {folder: ask(passphrase, folder) for folder in ["", *(each.removesuffix(filled) for each in kept)]}


@pytest.fixture
def store(lab, backups):
    return Store(lab, backups)


@pytest.fixture
def keys(lab, backups):
    return Keys(lab)


@pytest.fixture
def site(lab):
    return f"https://{lab.vars(lab.web)['app_domains'][0]}", lab.vars(lab.web)["vault_app_admin_password"]


@pytest.mark.parametrize("kind", ["files", "database"])
def test_both_open_and_then_one(backups, store, keys, kind) -> None:
    """Another one is let in, and taken away again, as the programs that made the backups see it."""
    if kind == "files":
        assert backups.send() == 0
    own, other = keys.values[f"vault_backup_{kind}_pass"], secrets.token_urlsafe(24)
    ask = store.files_open if kind == "files" else store.database_opens
    assert (ask(own), ask(other)) == (True, False)
    try:
        assert "opens with both" in store.passphrase(kind, own, other)
        assert (ask(own), ask(other)) == (True, True)
        if kind == "database":
            # One that comes now writes the lists with what it knows.
            backups.store.check_output(f"systemctl start redoubt-backup-database@{backups.name}.service")
            assert (ask(own), ask(other)) == (True, True)
    finally:
        store.passphrase(kind, other, own, "--alone")
    assert (ask(own), ask(other)) == (True, False)
    if kind == "database":
        backups.archived()


class Backing:
    """Backups of one kind, one after the other; how each ended."""

    def __init__(self, backups, kind: str):
        self.host, self.unit = (backups.web, "redoubt-backup.service") if kind == "files" else (backups.store, f"redoubt-backup-database@{backups.name}.service")
        self.ended: list[int] = []
        self.stop = threading.Event()

    def make(self) -> None:
        while not self.stop.is_set():
            # systemd lets nothing start six times in ten seconds.
            self.ended.append(self.host.run(f"systemctl reset-failed {self.unit}; systemctl start {self.unit}").rc)

    def __enter__(self):
        self.thread = threading.Thread(target=self.make)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(300)


def beside(backups, **values) -> tuple[str, str]:
    """The word of the drill in a restore that stands beside the service."""
    backups.play("restore", into="rotated", **values)
    try:
        return (backups.sql("SELECT word FROM redoubt.drill", "/run/redoubt-restored-rotated"),
                backups.web.check_output("cat /var/lib/redoubt-restored/rotated/srv/*/media/drill/rotated.txt"))
    finally:
        backups.play("restore", into="rotated", remove=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "database"])
def test_another_passphrase_under_load(lab, backups, store, keys, site, browse, table, kind) -> None:
    name = f"vault_backup_{kind}_pass"
    old, before, after = keys.values[name], secrets.token_hex(8), secrets.token_hex(8)
    backups.upload("drill/rotated.txt", before)
    backups.sql(f"DROP TABLE IF EXISTS redoubt.drill; CREATE TABLE redoubt.drill AS SELECT '{before}' AS word")
    try:
        backups.play("backup")
        at = backups.now
        time.sleep(1)
        with Load(lambda: browse(lab.web), *site) as load, Backing(backups, kind) as backing:
            done = lab.playbook("playbooks/rotate.yml", "--extra-vars", f"secret=backup_{kind}_pass")
            backups.sql(f"UPDATE redoubt.drill SET word = '{after}'")
        backups.upload("drill/rotated.txt", after)
        assert not load.failed, load.failed[:10]
        # One at least has begun with the old one; how many there is time for depends on the machine.
        assert set(backing.ended) == {0}, backing.ended
        values = keys.values
        new = values[name]
        assert new != old and not {f"{name}_next", f"{name}_former"} & set(values)
        for secret in (old, new):
            assert secret not in done.stdout + done.stderr
            for host in (backups.store, backups.web):
                assert secret not in host.check_output("journalctl --no-pager -o cat"), "it is in the log"

        # Dead, also in what is kept; and nothing has it any more.
        opened = store.opens(kind, new)
        assert len(opened) >= 2 and all(opened.values()), opened
        assert not any(store.opens(kind, old).values())
        for container in (store.container, lab.vars(lab.web)["lab_container"]):
            words = [*(["sudo", "-n"] if os.geteuid() else []), "podman", "exec", "--interactive", container, "grep", "--recursive", "--files-with-matches", "--file=-", "/etc", "/run"]
            assert subprocess.run(words, input=f"{old}\n", capture_output=True, text=True, check=False).stdout == ""

        backups.archived()
        backups.play("backup")
        assert beside(backups, at=at) == (before, before)
        assert beside(backups) == (after, after)
        assert backups.play("drill").returncode == 0
        assert "NOT READ" not in backups.told(backups.play("backups"))
        table("rotation", {**load.row(f"backup_{kind}_pass"), "backups meanwhile": len(backing.ended)})
    finally:
        backups.sql("DROP TABLE IF EXISTS redoubt.drill")
    # What the rotation has left is what the inventory asks for.
    lab.forget()
    assert "changed=0" in lab.playbook("playbooks/site.yml").stdout
