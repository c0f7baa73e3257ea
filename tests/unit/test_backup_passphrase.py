"""Another passphrase on the host that keeps the backups: both open what is there, and then the new one alone, wherever a run was cut off.

restic is a script that keeps the passphrase of a key in the key's file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from test_backup_server import base, dies, module, needs_root, store  # noqa: F401 (fixtures)

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
    """A web host's files, opened by OLD and by what somebody has added."""
    path = store.fakes.bin / "restic"
    path.unlink()
    path.write_text(RESTIC.format(python=sys.executable, calls=str(store.base / "restic-calls")))
    path.chmod(0o755)
    shutil.rmtree(store.files, ignore_errors=True)
    (store.config / "files.pass").write_text(f"{OLD}\n")
    for name in ("aa", "bb"):
        store.put(f"files/web1/keys/{name * 32}", OLD if name == "aa" else OTHER)
    store.put("files/web1/config", "life")
    return store


def keys(folder) -> set[str]:
    return {path.read_text() for path in (folder / "keys").iterdir()}


def change(store, alone: bool, old: str = OLD, new: str = NEW) -> list[str]:  # noqa: F811
    return module.passphrase(store.settings, {"old": old, "new": new}, alone)


@needs_root
def test_files_open_with_both_and_then_with_the_new_one_alone(repositories) -> None:
    module.keep(repositories.settings)
    # Kept before anything was sent.
    (repositories.root / "kept/2026-01-01T000000Z/files/web1").mkdir(parents=True)
    assert change(repositories, False) == ["db1 has sent nothing yet", "web1: opens with both"]
    assert keys(repositories.files) == {OLD, OTHER, NEW}
    assert change(repositories, False)[1] == "web1: opens with both" and len(keys(repositories.files)) == 3
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    assert change(repositories, True) == ["db1 has sent nothing yet", "web1: 2 keys taken away"]
    # What somebody has added who knew the old one is gone too, and what is kept is brought back with what opens it.
    point = repositories.kept()[-1]
    assert keys(repositories.files) == keys(point / "files/web1") == {NEW}
    for path in (point / "files/web1/keys").iterdir():
        assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (0, repositories.files.stat().st_gid, 0o440)
    assert change(repositories, True)[1] == "web1: 0 keys taken away"


@needs_root
def test_nothing_is_taken_away_before_the_host_has_the_new_one(repositories) -> None:
    with pytest.raises(module.Refused, match=r"^Nothing was taken away, since the files of web1 do not open with what this host has by now"):
        (repositories.config / "files.pass").write_text(f"{OTHER}x\n")
        change(repositories, True)
    assert keys(repositories.files) == {OLD, OTHER, NEW}


@needs_root
def test_a_repository_that_was_begun_with_the_old_one_meanwhile_gets_the_new_one(repositories) -> None:
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    change(repositories, True)
    assert keys(repositories.files) == {NEW}


@needs_root
def test_kept_files_of_another_life_keep_their_key_and_that_is_said(repositories) -> None:
    module.keep(repositories.settings)
    repositories.files.joinpath("config").unlink()
    repositories.put("files/web1/config", "another life")
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    told = change(repositories, True)
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
        change(repositories, True)
    assert before <= set(elsewhere.rglob("*"))


@needs_root
def test_neither_passphrase(repositories) -> None:
    with pytest.raises(module.Refused, match="wrong password"):
        change(repositories, False, old=f"{OTHER}x")
    assert keys(repositories.files) == {OLD, OTHER}


@needs_root
def test_killed_anywhere_the_next_run_ends_it(repositories) -> None:
    """Whatever is there opens with one of the two at any moment."""
    calls, whole = ("rename", "unlink"), repositories.base / "whole"
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    module.keep(repositories.settings)
    subprocess.run(["cp", "-a", repositories.root, whole], check=True)
    reached = 0
    for at in range(1, 100):
        shutil.rmtree(repositories.root)
        subprocess.run(["cp", "-a", whole, repositories.root], check=True)
        killed = dies(lambda: change(repositories, True), at, calls)
        reached += killed
        (point,) = repositories.kept()
        assert keys(repositories.files) & {OLD, NEW} and keys(point / "files/web1") & {OLD, NEW}, at
        change(repositories, True)
        assert keys(repositories.files) == keys(point / "files/web1") == {NEW}
        if not killed:
            break
    assert reached > 3


@needs_root
def test_no_passphrase_is_in_a_command_line(repositories) -> None:
    (repositories.config / "files.pass").write_text(f"{NEW}\n")
    change(repositories, True)
    told = (repositories.base / "restic-calls").read_text() + (repositories.base / "calls").read_text()
    assert "key add" in told and OLD not in told and NEW not in told
