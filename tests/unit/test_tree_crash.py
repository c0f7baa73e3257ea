"""Kill a call of tree before every single thing it does to the disk: the next call must find its way.

The engine runs in a forked child whose mutating system calls are counted; before the nth of them the child dies, as
it would at a power cut. What it left behind is then recovered by the next call, itself killed at every step too.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
common = importlib.import_module("test_tree_transaction")
Entry, file, leftovers, put, snapshot = (getattr(common, name) for name in ("Entry", "file", "leftovers", "put", "snapshot"))
tree_transaction = common.tree_transaction
Plan, Tree, TreeError = (getattr(tree_transaction, name) for name in ("Plan", "Tree", "TreeError"))

MUTATING = (
    "mkdir",
    "rmdir",
    "rename",
    "link",
    "symlink",
    "unlink",
    "open",
    "fchown",
    "fchmod",
    "chmod",
    "lchown",
    "fsync",
)
DEAD = 77


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host's files before the call."""
    root = tmp_path_factory.mktemp("old")
    put(root, "etc/changed", "old\n", 0o640)
    put(root, "etc/mode", "x\n", 0o600)
    put(root, "etc/was-file")
    put(root, "etc/d/gone")
    put(root, "etc/d/sub/gone")
    (root / "etc/was-link").symlink_to("changed")
    (root / "etc/folder").mkdir(mode=0o700)
    return root


def plan(**options) -> Plan:
    """Every kind of change there is."""
    entries = [
        file("etc/changed", "new\n"),
        file("etc/mode", "x\n"),
        file("etc/new/sub/added", "added\n"),
        file("etc/was-link", "file\n"),
        Entry("etc/was-file", "link", target="changed"),
        Entry("etc/folder", "folder", mode=0o755),
        Entry("etc/empty", "folder", mode=0o750),
    ]
    return Plan(entries, purge=["etc/d"], **options)


@pytest.fixture(scope="module")
def states(old: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """What is there before, and what shall be there after."""
    new = copy(old, tmp_path_factory.mktemp("new") / "root")
    Tree(plan(), str(new)).apply()
    assert snapshot(new) != snapshot(old)
    return snapshot(old), snapshot(new)


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target, symlinks=True)


@contextlib.contextmanager
def interposed(step: Callable[[str], None]) -> Iterator[None]:
    """Call step before every system call that changes the disk."""
    originals = {name: getattr(os, name) for name in MUTATING}

    def wrap(name: str) -> Callable:
        def call(*args, **kwargs):
            if name != "open" or args[1] & os.O_CREAT:
                step(name)
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in MUTATING:
            setattr(os, name, wrap(name))
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


def dies(action: Callable[[], object], at: int) -> bool:
    """Run in a child that dies before its change number `at`; false when it ended before that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count = 0

            def step(name: str) -> None:
                nonlocal count
                count += 1
                if count == at:
                    os._exit(DEAD)

            with interposed(step), contextlib.suppress(TreeError):
                action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DEAD)
    return status == DEAD


def recover(root: Path) -> None:
    tree_transaction.recover(str(root))


def outcomes(old: Path, root: Path, states: tuple[dict, dict], **options) -> list[str]:
    """For a death at each step in turn: which of the two states the next call recovers, then what that call does."""
    found = []
    for at in range(1, 1000):
        copy(old, root)
        if not dies(Tree(plan(**options), str(root)).apply, at):
            return found
        recover(root)
        assert snapshot(root) in states, f"neither the old nor the new state after a death at step {at}"
        assert not leftovers(root), f"after a death at step {at}"
        found.append("old" if snapshot(root) == states[0] else "new")
        Tree(plan(), str(root)).apply()
        assert snapshot(root) == states[1]
        assert not leftovers(root)
    raise AssertionError("never ended")


def test_death_at_every_step(old, states, tmp_path):
    found = outcomes(old, tmp_path / "root", states)
    # All or nothing, and the old state up to one point in time, the new one from there on.
    assert len(found) > 50
    assert found == sorted(found, reverse=True)
    assert set(found) == {"old", "new"}


def test_death_at_every_step_of_putting_back(old, states, tmp_path):
    found = outcomes(old, tmp_path / "root", states, validate=["false"])
    assert len(found) > 60
    assert set(found) == {"old"}


def test_death_at_every_step_without_hard_links(old, states, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    found = outcomes(old, tmp_path / "root", states)
    assert set(found) == {"old", "new"}


def test_death_at_every_step_of_the_recovery_from_any_death(old, states, tmp_path):
    root = tmp_path / "root"
    deaths = 0
    for at in range(4, 1000, 4):
        for again in range(1, 1000):
            copy(old, root)
            if not dies(Tree(plan(), str(root)).apply, at):
                assert deaths > 100
                return
            if not dies(lambda: recover(root), again):
                break
            deaths += 1
            recover(root)
            assert snapshot(root) in states, f"after deaths at step {at} and step {again} of the recovery"
            assert not leftovers(root)


def test_error_at_every_step_is_undone_at_once(old, states, tmp_path):
    """A full disk, or a lost permission, at any one step: the call itself puts everything back."""
    root = tmp_path / "root"
    failed = 0
    for at in range(1, 1000):
        copy(old, root)
        count = 0

        def step(name: str, at: int = at) -> None:
            nonlocal count
            count += 1
            if count == at:
                raise OSError(errno.ENOSPC, "No space left on device")

        try:
            with interposed(step):
                result = Tree(plan(), str(root)).apply()
        except TreeError as error:
            assert "No space left on device; the previous files are back" in str(error)
            assert snapshot(root) == states[0], f"after an error at step {at}"
            failed += 1
        except OSError:
            assert snapshot(root) == states[0], f"before the transaction, at step {at}"
        else:
            # Too late to matter (or harmless: no hard link, for one): the files are in place.
            assert result["changed"]
            assert states[1].items() <= snapshot(root).items()
        if count < at:
            break
        Tree(plan(), str(root)).apply()
        assert snapshot(root) == states[1]
        assert not leftovers(root)
    assert failed > 30


def test_the_next_call_says_that_it_recovered(old, states, tmp_path):
    root = copy(old, tmp_path / "root")
    assert dies(Tree(plan(), str(root)).apply, 40)
    before = snapshot(root)
    result = Tree(plan(), str(root), check=True).apply()
    assert "interrupted call left a journal" in result["warnings"][0]
    assert snapshot(root) == before
    result = Tree(plan(), str(root)).apply()
    assert "interrupted call was undone" in result["warnings"][0]
    assert result["changed"]
    assert snapshot(root) == states[1]


def test_recovery_leaves_what_others_have_made_since(old, tmp_path):
    root = copy(old, tmp_path / "root")
    added = root / "etc/new/sub/added"
    for at in range(1, 1000):
        copy(old, root)
        assert dies(Tree(plan(), str(root)).apply, at)
        if added.exists():
            break
    added.with_name("other").write_text("mine")
    added.unlink()
    # The same name need not be the same file.
    added.with_name("keep-the-inode-busy").write_text("")
    added.write_text("mine too")
    recover(root)
    assert added.read_text() == "mine too"
    assert added.with_name("other").read_text() == "mine"


def test_journal_that_cannot_be_read_is_an_error_that_names_it(old, tmp_path):
    root = copy(old, tmp_path / "root")
    put(root, "var/lib/redoubt/tree/abc.json", "{")
    with pytest.raises(TreeError, match=r"abc\.json cannot be read"):
        Tree(plan(), str(root)).apply()


def test_journal_is_private_and_holds_no_contents(old, tmp_path, monkeypatch):
    root = copy(old, tmp_path / "root")
    seen = []

    def look(self: Tree, *_: str) -> None:
        (journal,) = (root / "var/lib/redoubt/tree").iterdir()
        seen.append((common.mode_of(journal), common.mode_of(journal.parent), journal.read_text()))

    monkeypatch.setattr(Tree, "run_command", look)
    Tree(Plan([file("etc/key", "hunter2", secret=True)], validate=["true"]), str(root)).apply()
    mode, folder, text = seen[0]
    assert (mode, folder) == ("0600", "0700")
    assert "hunter2" not in text


def test_what_cannot_be_put_back_is_named_and_its_original_kept(old, tmp_path, monkeypatch):
    root = copy(old, tmp_path / "root")
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if source.endswith("-old~") and target.endswith("etc/changed"):
            raise OSError(errno.EROFS, "Read-only file system")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(TreeError, match=r"Could not put back /etc/changed \(Read-only file system\)"):
            Tree(plan(validate=["false"]), str(root)).apply()
    assert leftovers(root)
    recover(root)
    assert snapshot(root) == snapshot(old)
    assert not leftovers(root)


def test_two_calls_at_once_take_turns(old, states, tmp_path):
    root = copy(old, tmp_path / "root")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                Tree(plan(validate=["sleep 0.1"]), str(root)).apply()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert snapshot(root) == states[1]
    assert not leftovers(root)
