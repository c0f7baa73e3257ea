"""Another passphrase on the host that keeps the backups: both open what is there, and then the new one alone, wherever a run was cut off.

restic is a script that keeps the passphrase of a key in the key's file; openssl is the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from test_backup_server import THEM, base, dies, module, needs_root, store  # noqa: F401 (fixtures)

OLD, NEW, OTHER = "old-k3Qx81hfT0pzLwGv", "new-V7nR2mXc9QaZtB5u", "other-J4sW8eY1oPdK6gHi"
RESTIC = r"""#!{python} -SI
import hashlib, json, sys
from pathlib import Path

words = sys.argv[1:]
value = lambda name: next((word.split("=", 1)[1] for word in words if word.startswith(name + "=")), "")
with open({calls!r}, "a") as sink:
    sink.write(" ".join(words) + "\n")
keys = Path(value("--repo")) / "keys"
word = Path(value("--password-file")).read_text().strip()
own = [path.name for path in keys.iterdir() if path.read_text() == word]
if not own:
    sys.exit("Fatal: wrong password or no key found")
if "add" in words:
    new = Path(value("--new-password-file")).read_text().strip()
    (keys / hashlib.sha256(new.encode()).hexdigest()).write_text(new)
if "list" in words:
    print(json.dumps([{{"current": path.name == own[0], "id": path.name[:8]}} for path in keys.iterdir()]))
"""


@pytest.fixture
def repositories(store):  # noqa: F811
    """A web host's files and a database, opened by OLD, and kept twice; the first of them is of another life of the files' repository."""
    path = store.fakes.bin / "restic"
    path.unlink()
    path.write_text(RESTIC.format(python=sys.executable, calls=str(store.base / "restic-calls")))
    path.chmod(0o755)
    shutil.rmtree(store.files, ignore_errors=True)
    (store.config / "files.pass").write_text(f"{OLD}\n")
    (store.config / "db1.d").mkdir()
    database_pass(store, OLD)
    store.fakes.rule("info --output=json", out=json.dumps([{"name": "notes", "backup": []}]))
    for name in ("aa", "bb"):
        store.put(f"files/web1/keys/{name * 32}", OLD if name == "aa" else OTHER)
    store.put("files/web1/config", "life")
    for name in module.LISTS:
        for end in ("", ".copy"):
            store.put(f"database/db1/{name.format('notes')}{end}").write_bytes(module.cipher(b"[backrest]\n" + name.encode(), OLD))
    return store


def database_pass(store, word: str) -> None:  # noqa: F811
    path, own = store.config / "db1.d/pass.conf", os.geteuid()
    os.seteuid(0)
    path.write_text(f"[global]\nrepo1-cipher-pass={word}\n")
    for each in (path.parent, path):
        os.chown(each, -1, THEM)
    os.seteuid(own)


def lists(folder):
    return [folder / f"{name.format('notes')}{end}" for end in ("", ".copy") for name in module.LISTS]


def by(folder) -> list[str]:
    """With which passphrase each list opens."""
    return [next((name for name, word in (("old", OLD), ("new", NEW)) if module.deciphered(path.read_bytes(), word)), "none") for path in lists(folder)]


def keys(folder) -> set[str]:
    return {path.read_text() for path in (folder / "keys").iterdir()}


def change(store, kind: str, alone: bool, old: str = OLD, new: str = NEW) -> list[str]:  # noqa: F811
    return module.passphrase(store.settings, kind, {"old": old, "new": new}, alone)


@needs_root
def test_files_open_with_both_and_then_with_the_new_one_alone(repositories) -> None:
    module.keep(repositories.settings)
    # Kept before anything was sent.
    (repositories.root / "kept/2026-01-01T000000Z/files/web1").mkdir(parents=True)
    assert change(repositories, "files", False) == ["db1 has sent nothing yet", "web1: opens with both"]
    assert keys(repositories.files) == {OLD, OTHER, NEW}
    assert change(repositories, "files", False)[1] == "web1: opens with both" and len(keys(repositories.files)) == 3
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    assert change(repositories, "files", True) == ["db1 has sent nothing yet", "web1: 2 keys taken away"]
    # What somebody has added who knew the old one is gone too, and what is kept is brought back with what opens it.
    point = repositories.kept()[-1]
    assert keys(repositories.files) == keys(point / "files/web1") == {NEW}
    for path in (point / "files/web1/keys").iterdir():
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (0, repositories.files.stat().st_gid, 0o440)
    assert change(repositories, "files", True)[1] == "web1: 0 keys taken away"


@needs_root
def test_nothing_is_taken_away_before_the_host_has_the_new_one(repositories) -> None:
    with pytest.raises(module.Refused, match=r"^Nothing was taken away, since the files of web1 do not open with what this host has by now"):
        (repositories.config / "files.pass").write_text(f"{OTHER}x\n")
        change(repositories, "files", True)
    assert keys(repositories.files) == {OLD, OTHER, NEW}


@needs_root
def test_a_repository_that_was_begun_with_the_old_one_meanwhile_gets_the_new_one(repositories) -> None:
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    change(repositories, "files", True)
    assert keys(repositories.files) == {NEW}


@needs_root
def test_kept_files_of_another_life_keep_their_key_and_that_is_said(repositories) -> None:
    module.keep(repositories.settings)
    repositories.files.joinpath("config").unlink()
    repositories.put("files/web1/config", "another life")
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    told = change(repositories, "files", True)
    assert told[1] == "web1: 2 keys taken away; 1 kept copies of a repository before this one open with what they had"
    assert keys(repositories.kept()[0] / "files/web1") == {OLD, OTHER}


@needs_root
@pytest.mark.parametrize("where", ["", "keys"])
def test_a_link_of_its_servers_has_nothing_removed_elsewhere(repositories, where) -> None:
    elsewhere, link = repositories.base / "elsewhere", repositories.files / where
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    before = set(elsewhere.rglob("*"))
    with pytest.raises(module.Refused, match="^The keys of .*/files/web1 cannot be read: Not a directory"):
        change(repositories, "files", True)
    assert before <= set(elsewhere.rglob("*"))


@needs_root
def test_neither_passphrase(repositories) -> None:
    with pytest.raises(module.Refused, match="wrong password"):
        change(repositories, "files", False, old=f"{OTHER}x")
    with pytest.raises(module.Refused, match=r"^archive/notes/archive.info of the database on db1 opens neither with"):
        change(repositories, "database", False, old=OTHER)
    assert keys(repositories.files) == {OLD, OTHER} and by(repositories.database) == ["old"] * 4


@needs_root
def test_a_database_opens_with_both_and_then_with_the_new_one_alone(repositories) -> None:
    module.keep(repositories.settings)
    assert change(repositories, "database", False) == ["db1: opens with both"]
    # pgBackRest reads the copy where the list does not open.
    assert by(repositories.database) == ["new", "new", "old", "old"]
    assert all((path.stat().st_uid, path.stat().st_mode & 0o777) == (THEM, 0o640) for path in lists(repositories.database)[:2])
    other = repositories.config / "db1.other"
    assert (other.read_text(), other.stat().st_mode & 0o777, other.stat().st_gid) == (f"{NEW}\n", 0o440, THEM)
    with pytest.raises(module.Refused, match="^The database on db1 goes on to open with the old passphrase"):
        change(repositories, "database", True)
    assert by(repositories.database) == ["new", "new", "old", "old"]
    database_pass(repositories, NEW)
    assert change(repositories, "database", True) == ["db1: opens with the new one alone"]
    (point,) = repositories.kept()
    assert not other.exists()
    assert by(repositories.database) == by(point / "database/db1") == ["new"] * 4
    assert all((path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o440) for path in lists(point / "database/db1"))
    assert module.deciphered(lists(repositories.database)[0].read_bytes(), NEW) == b"[backrest]\n" + module.LISTS[0].encode()
    assert change(repositories, "database", True) == ["db1: opens with the new one alone"]


@needs_root
@pytest.mark.parametrize(("when", "passes"), [("before", ["new", "new", "old", "old"]), ("meanwhile", ["new", "new", "old", "old"]), ("after", ["new"] * 4)])
@pytest.mark.parametrize("fails", [False, True])
def test_a_backup_between_the_steps_leaves_what_opens_with_both(repositories, monkeypatch, when, passes, fails) -> None:
    """It writes both lists with the passphrase that it has read as it began."""
    change(repositories, "database", False)
    if when == "after":
        database_pass(repositories, NEW)
    began = module.database_pass("db1")

    def call(command, *_):
        if "info" in command:
            now = module.database_pass("db1")
            if not any(module.deciphered(path.read_bytes(), now) for path in lists(repositories.database)[1::2]):
                raise module.Refused("unable to load info file")
            return json.dumps([{"backup": [{"type": "full", "label": "20260101-000000F", "timestamp": {"stop": time.time()}}]}])
        for path in lists(repositories.database)[1::2]:
            module.place(path, module.cipher(b"[backrest]\nbackup", began))
        if when == "meanwhile":
            database_pass(repositories, NEW)
        if fails:
            raise module.Refused("full")
        return ""

    monkeypatch.setattr(module, "call", call)
    with module.acting_as("backup-db1"), pytest.raises(module.Refused, match="^full$") if fails else contextlib.nullcontext():
        module.back_up(repositories.settings, "db1", False)
    # Its own list is the second of each; the log's is left as it was.
    assert by(repositories.database) == [passes[0], passes[1], "old", passes[3]]
    assert module.deciphered(lists(repositories.database)[1].read_bytes(), NEW) == b"[backrest]\nbackup"
    database_pass(repositories, NEW)
    change(repositories, "database", True)
    assert by(repositories.database) == ["new"] * 4


@needs_root
def test_killed_anywhere_the_next_run_ends_it(repositories) -> None:
    """Whatever is there opens with one of the two at any moment."""
    calls, whole = ("rename", "unlink"), repositories.base / "whole"
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    database_pass(repositories, NEW)
    module.keep(repositories.settings)
    subprocess.run(["cp", "-a", repositories.root, whole], check=True)
    reached = 0
    for at in range(1, 100, 4):
        shutil.rmtree(repositories.root)
        subprocess.run(["cp", "-a", whole, repositories.root], check=True)
        killed = dies(lambda: [change(repositories, kind, True) for kind in ("database", "files")], at, calls)
        reached += killed
        (point,) = repositories.kept()
        for folder in (repositories.database, point / "database/db1"):
            assert "none" not in by(folder), at
        assert keys(repositories.files) & {OLD, NEW} and keys(point / "files/web1") & {OLD, NEW}, at
        for kind in ("database", "files"):
            change(repositories, kind, True)
        assert by(repositories.database) == by(point / "database/db1") == ["new"] * 4
        assert keys(repositories.files) == keys(point / "files/web1") == {NEW}
        if not killed:
            break
    assert reached > 3


@needs_root
def test_while_a_backup_is_made_its_list_is_not_touched(repositories, monkeypatch) -> None:
    monkeypatch.setattr(module, "WAITS", 1)
    monkeypatch.setattr(module, "WAIT", 1)
    said = r"^A backup of the database on db1 is being made, or its passphrase changed, and does not end"
    with module.untouched(repositories.settings, "db1"), pytest.raises(module.Refused, match=said):
        change(repositories, "database", False)
    assert by(repositories.database) == ["old"] * 4
    assert change(repositories, "database", False) == ["db1: opens with both"]


@needs_root
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_list_that_its_server_has_replaced_leads_nowhere(repositories, kind) -> None:
    """Root's file is not read for whoever owns the repository, and nothing waits for ever."""
    secret, name = repositories.base / "secret", lists(repositories.database)[0]
    secret.write_bytes(module.cipher(b"[backrest]\nroot's", OLD))
    secret.chmod(0o600)
    name.unlink()
    name.symlink_to(secret) if kind == "link" else os.mkfifo(name)
    with pytest.raises(module.Refused, match="opens neither"):
        change(repositories, "database", False)
    assert secret.read_bytes() and module.deciphered(secret.read_bytes(), OLD)


@needs_root
def test_damage_in_what_is_kept_is_said_and_stops_nothing(repositories) -> None:
    module.keep(repositories.settings)
    damaged = lists(repositories.kept()[0] / "database/db1")[3]
    damaged.unlink()
    damaged.write_bytes(b"rubbish")
    database_pass(repositories, NEW)
    assert change(repositories, "database", True) == ["db1: opens with the new one alone; in 1 kept copies a list opens with neither"]


@needs_root
def test_no_passphrase_is_in_a_command_line(repositories) -> None:
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    database_pass(repositories, NEW)
    for kind in ("files", "database"):
        change(repositories, kind, True)
    told = (repositories.base / "restic-calls").read_text() + (repositories.base / "calls").read_text()
    assert "key add" in told and OLD not in told and NEW not in told
