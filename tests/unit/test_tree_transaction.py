"""The host's side of tree on a temporary root: every outcome that docs/tree.md promises."""

from __future__ import annotations

import importlib
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "module_utils"))
tree_transaction = importlib.import_module("tree_transaction")
Entry, Plan, Tree, TreeError = (getattr(tree_transaction, name) for name in ("Entry", "Plan", "Tree", "TreeError"))

STATE = "var/lib/redoubt"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def file(path: str, content: str | bytes = "x\n", **options) -> Entry:
    return Entry(path, content=content.encode() if isinstance(content, str) else content, **options)


def apply(root: Path, *entries: Entry, check: bool = False, diff: bool = False, **options) -> dict:
    return Tree(Plan(list(entries), **options), str(root), check, diff).apply()


def put(root: Path, path: str, content: str | bytes = "old\n", mode: int = 0o644) -> Path:
    full = root / path
    full.parent.mkdir(parents=True, exist_ok=True)
    full.write_bytes(content.encode() if isinstance(content, str) else content)
    full.chmod(mode)
    return full


def snapshot(root: Path) -> dict[str, tuple]:
    """Everything below the root but tree's own state: kind, mode, owner and contents."""
    found = {}
    for folder, names, files in os.walk(root):
        for name in names + files:
            full = Path(folder, name)
            path = str(full.relative_to(root))
            if path.startswith(STATE) or f"{STATE}/".startswith(f"{path}/"):
                continue
            info = full.lstat()
            content = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(full)
            elif not full.is_dir():
                content = full.read_bytes()
            found[path] = (stat.S_IFMT(info.st_mode), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, content)
    return found


def leftovers(root: Path) -> list[str]:
    return [
        name
        for folder, names, files in os.walk(root)
        for name in names + files
        if name.startswith(tree_transaction.TEMP_PREFIX) or name.endswith((".json", ".new"))
    ]


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.lstat().st_mode):04o}"


# --- what is put in place ----------------------------------------------------------------------------------------


def test_adds_files_and_their_folders(root):
    result = apply(root, file("etc/app/a.conf", "one\n"), file("etc/app/key", "k", mode=0o600))
    assert (root / "etc/app/a.conf").read_text() == "one\n"
    assert mode_of(root / "etc/app/a.conf") == "0644"
    assert mode_of(root / "etc/app/key") == "0600"
    assert mode_of(root / "etc/app") == "0755"
    assert result["changed"]
    assert result["files"] == {
        "/etc/": "added",
        "/etc/app/": "added",
        "/etc/app/a.conf": "added",
        "/etc/app/key": "added",
    }
    assert result["changed_paths"] == list(result["files"])
    assert not leftovers(root)


def test_the_umask_does_not_matter(root):
    old = os.umask(0o077)
    try:
        apply(root, file("etc/app/a.conf"))
    finally:
        os.umask(old)
    assert mode_of(root / "etc") == mode_of(root / "etc/app") == "0755"
    assert mode_of(root / "etc/app/a.conf") == "0644"
    assert mode_of(root / STATE) == "0755"
    assert mode_of(root / STATE / "tree") == "0700"


def test_second_run_changes_and_writes_nothing(root, monkeypatch):
    entries = [file("etc/a"), file("etc/b", b"\0\xff", mode=0o600), Entry("etc/l", "link", target="a")]
    apply(root, *entries)
    before = snapshot(root)
    for name in ("rename", "mkdir", "unlink", "link", "fchmod", "fchown"):
        monkeypatch.setattr(tree_transaction.os, name, lambda *_, **__: pytest.fail("wrote"))
    assert apply(root, *entries)["files"] == {}
    assert snapshot(root) == before


def test_changes_content_only_where_it_differs(root):
    put(root, "etc/a", "old\n")
    untouched = put(root, "etc/b", "same\n").stat()
    result = apply(root, file("etc/a", "new\n"), file("etc/b", "same\n"))
    assert result["files"] == {"/etc/a": "changed"}
    assert (root / "etc/b").stat() == untouched


def test_same_size_different_content_is_a_change(root):
    put(root, "etc/a", "old\n")
    assert apply(root, file("etc/a", "new\n"))["files"] == {"/etc/a": "changed"}


def test_mode_only(root):
    full = put(root, "etc/a", "x\n", 0o600)
    inode = full.stat().st_ino
    assert apply(root, file("etc/a"))["files"] == {"/etc/a": "mode"}
    assert mode_of(full) == "0644"
    assert full.stat().st_ino == inode


@needs_root
def test_owner_only(root):
    full = put(root, "etc/a", "x\n")
    assert apply(root, file("etc/a", owner="daemon", group="2"))["files"] == {"/etc/a": "owner"}
    assert (full.stat().st_uid, full.stat().st_gid) == (1, 2)
    assert apply(root, file("etc/a"))["files"] == {"/etc/a": "owner"}
    assert (full.stat().st_uid, full.stat().st_gid) == (0, 0)


@needs_root
def test_set_id_bits_survive_the_change_of_owner(root):
    apply(root, file("bin/tool", mode=0o4755, owner="daemon", group="daemon"))
    assert mode_of(root / "bin/tool") == "4755"


def test_binary_content_arrives_as_it_is(root):
    content = bytes(range(256)) * 3
    apply(root, file("bin/blob", content))
    assert (root / "bin/blob").read_bytes() == content


def test_unknown_user_is_an_error_that_names_file_and_user(root):
    with pytest.raises(TreeError, match=r"/etc/a is to belong to the user 'nobody-here', which does not exist"):
        apply(root, file("etc/a", owner="nobody-here", group="0"))
    assert snapshot(root) == {}


def test_unknown_user_and_group_are_no_error_in_check_mode(root):
    result = apply(root, file("etc/a", owner="nobody-here", group="nor-this"), check=True, diff=True)
    assert result["files"]["/etc/a"] == "added"
    assert "nobody-here:nor-this 0644" in result["diff"][-1]["after_header"]
    put(root, "etc/a", "x\n")
    assert apply(root, file("etc/a", owner="nobody-here", group="0"), check=True)["files"] == {"/etc/a": "owner"}


# --- folders, links, absent, purge -------------------------------------------------------------------------------


def test_empty_folders(root):
    entry = Entry("srv/data", "folder", mode=0o2750)
    assert apply(root, entry)["files"] == {"/srv/": "added", "/srv/data/": "added"}
    assert mode_of(root / "srv/data") == "2750"
    assert not apply(root, entry)["changed"]


def test_existing_folder_keeps_what_is_not_given(root):
    (root / "srv").mkdir(mode=0o711)
    assert not apply(root, Entry("srv", "folder"))["changed"]
    assert not apply(root, file("srv/a"))["files"].get("/srv/")
    assert mode_of(root / "srv") == "0711"
    assert apply(root, Entry("srv", "folder", mode=0o700))["files"] == {"/srv/": "mode"}


@needs_root
def test_existing_folder_gets_the_owner_only(root):
    (root / "srv").mkdir(mode=0o711)
    entry = Entry("srv", "folder", owner="daemon", group="daemon")
    assert apply(root, entry)["files"] == {"/srv/": "owner"}
    assert mode_of(root / "srv") == "0711"
    assert (root / "srv").stat().st_uid == 1


def test_links(root):
    put(root, "etc/plain")
    entries = [Entry("etc/new", "link", target="nowhere"), Entry("etc/plain", "link", target="../b")]
    assert apply(root, *entries)["files"] == {"/etc/new": "added", "/etc/plain": "changed"}
    assert os.readlink(root / "etc/new") == "nowhere"
    assert os.readlink(root / "etc/plain") == "../b"
    assert not apply(root, *entries)["changed"]
    assert apply(root, Entry("etc/new", "link", target="else"))["files"] == {"/etc/new": "changed"}


def test_link_at_a_destination_is_replaced_and_its_target_left(root):
    target = put(root, "elsewhere", "precious\n")
    (root / "etc").mkdir()
    (root / "etc/a").symlink_to(target)
    result = apply(root, file("etc/a", "new\n"), diff=True)
    assert result["files"] == {"/etc/a": "changed"}
    assert result["diff"][0]["before"] == f"symbolic link to {target}\n"
    assert not (root / "etc/a").is_symlink()
    assert target.read_text() == "precious\n"


def test_link_to_a_folder_on_the_way_is_followed(root):
    (root / "real").mkdir()
    (root / "etc").symlink_to("real")
    assert apply(root, file("etc/a"))["files"] == {"/etc/a": "added"}
    assert (root / "real/a").exists()
    assert (root / "etc").is_symlink()


@needs_root
@pytest.mark.parametrize("options", [{}, {"absent": ["srv/link/x"]}, {"purge": ["srv/link"]}])
def test_link_of_another_user_on_the_way_is_not_followed(root, options):
    put(root, "real/x")
    (root / "srv").mkdir()
    (root / "srv/link").symlink_to("../real")
    os.lchown(root / "srv/link", 1, 1)
    entries = [] if options else [file("srv/link/a")]
    with pytest.raises(TreeError, match="/srv/link is a symbolic link that belongs to daemon"):
        apply(root, *entries, **options)
    assert sorted(os.listdir(root / "real")) == ["x"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_folder_in_the_way(root, kind):
    (root / "etc/a").mkdir(parents=True)
    with pytest.raises(TreeError, match=f"/etc/a is to be a {kind}, but a folder is in the way"):
        apply(root, file("etc/b"), Entry("etc/a", kind, target="x"))
    assert not (root / "etc/b").exists()


def test_special_file_in_the_way(root):
    os.mkfifo(root / "a")
    with pytest.raises(TreeError, match="a special file is in the way"):
        apply(root, file("a"))


def test_file_in_the_way_of_a_folder(root):
    put(root, "etc/a")
    with pytest.raises(TreeError, match="/etc/a is to be a folder, but something else is in the way"):
        apply(root, file("etc/a/b"))


def test_dangling_link_in_the_way_of_a_folder(root):
    (root / "etc").symlink_to("nowhere")
    with pytest.raises(TreeError, match="/etc is to be a folder"):
        apply(root, file("etc/b"))


def test_purge_removes_what_nothing_names(root):
    put(root, "etc/d/old")
    put(root, "etc/d/sub/deep/old")
    put(root, "etc/d/kept/old")
    put(root, "etc/other")
    (root / "etc/d/link").symlink_to("../other")
    (root / "etc/d/empty").mkdir()
    result = apply(root, file("etc/d/kept/new"), purge=["etc/d", "etc/missing"])
    assert result["files"] == {
        "/etc/d/kept/new": "added",
        "/etc/d/empty/": "removed",
        "/etc/d/kept/old": "removed",
        "/etc/d/link": "removed",
        "/etc/d/old": "removed",
        "/etc/d/sub/": "removed",
        "/etc/d/sub/deep/": "removed",
        "/etc/d/sub/deep/old": "removed",
    }
    assert sorted(snapshot(root)) == ["etc", "etc/d", "etc/d/kept", "etc/d/kept/new", "etc/other"]
    assert not leftovers(root)


def test_purge_through_a_link_keeps_to_the_folder(root):
    put(root, "elsewhere/file")
    (root / "etc/d").mkdir(parents=True)
    (root / "etc/d/link").symlink_to("../../elsewhere")
    apply(root, purge=["etc/d"])
    assert os.listdir(root / "etc/d") == []
    assert (root / "elsewhere/file").exists()


def test_purge_leaves_temporary_names_to_recovery(root):
    name = f"{tree_transaction.TEMP_PREFIX}abc-0-old{tree_transaction.TEMP_SUFFIX}"
    put(root, f"etc/d/{name}")
    assert not apply(root, purge=["etc/d"])["changed"]
    assert (root / "etc/d" / name).exists()


def test_names_that_are_not_utf8(root):
    (root / "etc").mkdir()
    name = b"\xff"
    with open(os.path.join(os.fsencode(root), b"etc", name), "w") as strange:
        strange.write("x\n")
    os.symlink(name, os.path.join(os.fsencode(root), b"etc", b"link"))
    result = apply(root, purge=["etc"], diff=True, validate=["true"])
    assert set(result["files"]) == {"/etc/\ufffd", "/etc/link"}
    assert "symbolic link to \ufffd\n" in [diff["before"] for diff in result["diff"]]
    str(result).encode()
    assert os.listdir(root / "etc") == []


def test_absent(root):
    put(root, "etc/a")
    put(root, "etc/d-x/f")
    put(root, "etc/d/f")
    put(root, "etc/d/sub/f")
    result = apply(root, absent=["etc/a", "etc/d", "etc/d-x", "etc/none", "etc/a/below-a-file"])
    assert set(result["files"].values()) == {"removed"}
    assert sorted(snapshot(root)) == ["etc"]
    assert not apply(root, absent=["etc/a", "etc/d"])["changed"]


# --- diff --------------------------------------------------------------------------------------------------------


def diffs(root: Path, *entries: Entry, **options) -> dict:
    return apply(root, *entries, check=True, diff=True, **options)["diff"]


def owner() -> str:
    return tree_transaction.describe(tree_transaction.State("file", 0, os.geteuid(), os.getegid(), 0)).split()[0]


def test_diff_of_each_kind(root):
    put(root, "changed", "old\n")
    put(root, "gone/file", "gone\n")
    put(root, "mode", "x\n", 0o600)
    changed, added, mode, folder, removed = diffs(root, file("changed", "new\n"), file("new"), file("mode"), absent=["gone"])
    assert changed == {
        "before_header": f"/changed ({owner()} 0644)",
        "after_header": f"/changed ({owner()} 0644)",
        "before": "old\n",
        "after": "new\n",
    }
    assert (added["before_header"], added["before"], added["after"]) == ("/new (absent)", "", "x\n")
    assert mode == {"prepared": f"--- before: /mode ({owner()} 0600)\n+++ after: /mode ({owner()} 0644)\n"}
    assert folder["prepared"].endswith("+++ after: /gone (absent)\n")
    assert (removed["before"], removed["after"], removed["after_header"]) == ("gone\n", "", "/gone/file (absent)")


def test_no_diff_unless_asked(root):
    assert "diff" not in apply(root, file("a"))


@pytest.mark.parametrize("options", [{}, {"secret": ["etc/key"]}, {"secret": ["etc/"]}])
def test_secret_contents_are_hidden(root, options):
    put(root, "etc/key", "old-secret\n")
    (diff,) = diffs(root, file("etc/key", "new-secret\n", secret=not options), **options)
    assert "secret" not in str(diff).replace("contents hidden", "")
    assert diff["prepared"].count("contents hidden") == 2


def test_secret_stays_hidden_when_it_is_removed(root):
    put(root, "etc/key", "old-secret\n")
    assert "old-secret" not in str(diffs(root, purge=["etc"], secret=["etc/key"]))


def test_removed_file_that_not_everybody_may_read_is_hidden(root):
    put(root, "etc/unknown", "old-secret\n", 0o640)
    (diff,) = diffs(root, purge=["etc"])
    assert "contents hidden" in diff["prepared"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b"])
def test_binary_contents_are_not_shown(root, content):
    put(root, "a", "text\n")
    (diff,) = diffs(root, file("a", content))
    assert ", binary)" in diff["prepared"]


def test_long_contents_are_not_shown(root):
    put(root, "a", "y" * 200_000)
    assert "too long" in diffs(root, file("a"))[0]["prepared"]
    assert "too long" in diffs(root, file("b", "y" * 200_000))[0]["prepared"]


# --- check mode --------------------------------------------------------------------------------------------------


def test_check_mode_writes_nothing_and_predicts_all(root):
    put(root, "etc/changed")
    put(root, "etc/mode", "x\n", 0o600)
    put(root, "etc/d/gone")
    plan = {
        "purge": ["etc/d"],
        "validate": ["true"],
        "before": ["false"],
    }
    entries = [file("etc/changed"), file("etc/mode"), file("etc/new/file"), Entry("etc/l", "link", target="x")]
    before = snapshot(root)
    predicted = apply(root, *entries, check=True, diff=True, **plan)
    assert snapshot(root) == before
    assert not (root / "var").exists()
    done = apply(root, *entries, diff=True, **{**plan, "before": []})
    for key in ("changed", "files", "changed_paths", "diff"):
        assert predicted[key] == done[key], key


# --- validators --------------------------------------------------------------------------------------------------


def test_validator_sees_the_new_files(root):
    result = apply(root, file("etc/a", "good\n"), validate=[f"grep -q good {root}/etc/a"])
    assert result["validated"]


def test_validator_does_not_run_when_nothing_changes(root):
    apply(root, file("etc/a"))
    assert not apply(root, file("etc/a"), validate=["false"])["changed"]


def test_failing_validator_puts_everything_back(root):
    put(root, "etc/changed", "old\n", 0o640)
    put(root, "etc/mode", "x\n", 0o600)
    put(root, "etc/d/sub/gone")
    put(root, "etc/was-file", "file\n")
    (root / "etc/was-link").symlink_to("changed")
    (root / "etc/folder").mkdir(mode=0o700)
    before = snapshot(root)
    times = {path: os.lstat(root / path).st_mtime_ns for path in before if not (root / path).is_dir()}
    with pytest.raises(TreeError) as error:
        apply(
            root,
            file("etc/changed", "new\n"),
            file("etc/mode"),
            file("etc/new/file"),
            file("etc/was-link"),
            Entry("etc/was-file", "link", target="x"),
            Entry("etc/folder", "folder", mode=0o755),
            purge=["etc/d"],
            validate=["sh -c 'seq 20; echo line 3: bad value >&2; exit 3'"],
        )
    assert snapshot(root) == before
    assert times == {path: os.lstat(root / path).st_mtime_ns for path in times}
    assert not leftovers(root)
    message = str(error.value)
    assert "exit code 3); the previous files are back" in message
    assert message.endswith("20\nline 3: bad value")
    assert "\n10\n" not in message


def test_second_validator_counts_too(root):
    with pytest.raises(TreeError, match="`false` failed"):
        apply(root, file("etc/a"), validate=["true", "false"])
    assert snapshot(root) == {}


def test_validator_output_does_not_give_a_secret_away(root):
    entry = file("etc/key", 'password = "hunter2hunter2"\n', secret=True)
    with pytest.raises(TreeError) as error:
        apply(root, entry, validate=[f"sh -c 'cat {root}/etc/key; exit 1'"])
    assert "hunter2" not in str(error.value)


def test_missing_validator_is_an_error_before_anything_is_touched(root):
    with pytest.raises(TreeError, match="'no-such-command' is not on this host; nothing was changed"):
        apply(root, file("etc/a"), validate=["no-such-command -t"], before=[f"touch {root}/ran"])
    assert snapshot(root) == {}


@pytest.mark.parametrize("command", ["no-such-command {root}", "no-such-command"])
def test_missing_validator_in_check_mode_is_only_told(root, command):
    result = apply(root, file("etc/a"), validate=[command], check=True)
    assert result["changed"]
    assert result["validated"] is False


@pytest.mark.parametrize("check", [True, False])
def test_staged_validator_fails_before_anything_is_touched(root, check):
    put(root, "etc/a", "old\n")
    before = snapshot(root)
    command = "sh -c 'grep -q bad {root}/etc/a && echo {root}/etc/a, line 1: bad && exit 4'"
    with pytest.raises(TreeError, match=r"{root}/etc/a .* failed \(exit code 4\); nothing was changed. It said:\n/etc/a, line 1: bad$"):
        apply(root, file("etc/a", "bad\n"), validate=[command], before=[f"touch {root}/ran"], check=check)
    assert snapshot(root) == before


def test_staged_root_holds_all_files_and_is_private_and_removed(root, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    put(root, "etc/same", "same\n")
    script = "cd {root}; find . -printf '%P %y %m %l\\n' | sort; cat etc/same etc/a; stat -c %a ."
    entries = [
        file("etc/same", "same\n"),
        file("etc/a", "new\n", mode=0o600),
        Entry("etc/l", "link", target="a"),
        Entry("srv/d", "folder", mode=0o750),
    ]
    plan = Plan(entries, validate=[f"sh -c {tree_transaction.shlex.quote(script + '; exit 1')}"])
    with pytest.raises(TreeError) as error:
        Tree(plan, str(root), check=True, tmp=str(scratch)).apply()
    said = str(error.value).split("It said:\n")[1].splitlines()
    assert said[-3:-1] == ["same", "new"]
    assert said[-1] == "700"
    assert {"etc/a f 600 ", "etc/same f 644 ", "etc/l l 777 a", "srv/d d 750 "} <= set(said)
    assert os.listdir(scratch) == []


def test_staged_validator_passing_in_check_mode(root):
    result = apply(root, file("etc/a"), validate=["test -f {root}/etc/a"], check=True)
    assert result["validated"] is True


def test_staged_validator_runs_once(root, tmp_path):
    log = tmp_path / "log"
    apply(root, file("etc/a"), validate=[f"sh -c 'echo {{root}} >> {log}'"])
    (line,) = log.read_text().splitlines()
    assert line.startswith("/")


# --- before ------------------------------------------------------------------------------------------------------


def test_before_runs_once_before_the_first_swap_and_only_when_needed(root, tmp_path):
    log = tmp_path / "log"
    before = [f"sh -c 'cat {root}/a {root}/b >> {log}; echo ran >> {log}'"]
    put(root, "a", "old\n")
    put(root, "b", "old\n")
    apply(root, file("a", "new\n"), file("b", "new\n"), before=before)
    assert log.read_text() == "old\nold\nran\n"
    apply(root, file("a", "new\n"), file("b", "new\n"), before=before)
    assert log.read_text() == "old\nold\nran\n"


def test_failing_before_changes_nothing(root):
    with pytest.raises(TreeError, match=r"`false` failed \(exit code 1\); nothing was changed"):
        apply(root, file("etc/a"), before=["false"])
    assert snapshot(root) == {}
    assert not leftovers(root)


def test_nothing_is_written_through_a_planted_link(root, monkeypatch):
    monkeypatch.setattr(tree_transaction.secrets, "token_hex", lambda _: "abc")
    target = put(root, "precious", "precious\n", 0o600)
    staged = Tree(Plan([])).operations([tree_transaction.Change("etc/a", "added", file("etc/a"), None)])[0]["staged"]
    (root / "etc").mkdir()
    (root / staged).symlink_to(target)
    with pytest.raises(TreeError, match="File exists"):
        apply(root, file("etc/a", "new\n"))
    assert (target.read_text(), mode_of(target)) == ("precious\n", "0600")


def test_mode_is_not_set_through_a_link_slipped_in(root):
    target = put(root, "precious", "x\n", 0o600)
    (root / "a").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        tree_transaction.set_attributes(str(root / "a"), {"uid": os.geteuid(), "gid": os.getegid(), "mode": 0o666})
    assert mode_of(target) == "0600"


# --- many files --------------------------------------------------------------------------------------------------


def test_flushes_do_not_grow_with_the_number_of_files(root, monkeypatch):
    calls = []
    monkeypatch.setattr(tree_transaction.os, "fsync", lambda _: calls.append("fsync"))
    monkeypatch.setattr(tree_transaction.os, "sync", lambda: calls.append("sync"))
    entries = [file(f"etc/{number % 7}/{number}", f"{number}\n") for number in range(2000)]
    assert len(apply(root, *entries)["files"]) == 2008
    assert calls.count("sync") == 1
    assert calls.count("fsync") < 60
    assert not apply(root, *entries)["changed"]


def test_flushes_each_of_a_few_files_before_the_swap(root, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.rename

    def log_fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def log_rename(old, new):
        events.append(f"→{os.path.basename(new)}")
        rename(old, new)

    monkeypatch.setattr(tree_transaction.os, "fsync", log_fsync)
    monkeypatch.setattr(tree_transaction.os, "rename", log_rename)
    apply(root, file("etc/a"), file("etc/b"))
    first_swap = events.index("→a")
    staged = [event for event in events[:first_swap] if event.startswith(tree_transaction.TEMP_PREFIX)]
    assert len(staged) == 2
    assert events[first_swap - 1] == "tree"  # the journal's folder: its second phase is on disk before the first swap


def test_temporary_names_are_taken_for_configuration_by_nobody():
    operations = Tree(Plan([])).operations([tree_transaction.Change("etc/a.conf", "added", file("etc/a.conf"), None)])
    name = os.path.basename(operations[0]["staged"])
    assert name.startswith(".") and name.endswith("~")
    assert tree_transaction.is_temporary(name)


# --- properties --------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c.conf", ".d"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o400, 0o2755])
things = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=20), modes),
    st.tuples(st.just("link"), st.sampled_from(["x", "../y", "/nowhere/z"]), st.none()),
    st.tuples(st.just("folder"), st.none(), st.sampled_from([0o755, 0o700])),
)


def without_conflicts(tree: dict) -> list[Entry]:
    """Only what can exist together: nothing below a file or a link."""
    entries = []
    for path in sorted(tree):
        kind, content, mode = tree[path]
        full = f"top/{path}"
        if any(entry.path in tree_transaction.parents(full) and entry.kind != "folder" for entry in entries):
            continue
        if kind == "file":
            entries.append(Entry(full, content=content, mode=mode))
        else:
            entries.append(Entry(full, kind, target=content, mode=mode))
    return entries


trees = st.dictionaries(paths, things, max_size=6).map(without_conflicts)
hypothetical = settings(max_examples=80, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def expected(entries: list[Entry]) -> dict:
    found = {}
    for entry in entries:
        for folder in tree_transaction.parents(entry.path):
            found.setdefault(folder, ("folder", None))
        content = entry.content if entry.kind == "file" else entry.target
        found[entry.path] = (entry.kind, None if entry.kind == "folder" else content)
    return found


def actual(root: Path) -> dict:
    kinds = {stat.S_IFREG: "file", stat.S_IFLNK: "link", stat.S_IFDIR: "folder"}
    return {path: (kinds[state[0]], state[4]) for path, state in snapshot(root).items()}


@hypothetical
@given(first=trees, second=trees)
def test_any_tree_over_any_other(tmp_path_factory, first, second):
    root = tmp_path_factory.mktemp("root")
    apply(root, *first)
    assert actual(root) == expected(first)
    assert not apply(root, *first)["changed"]

    before = snapshot(root)
    try:
        predicted = apply(root, *second, purge=["top"], check=True, diff=True)
    except TreeError as error:
        assert "in the way" in str(error)
        with pytest.raises(TreeError, match="in the way"):
            apply(root, *second, purge=["top"])
        assert snapshot(root) == before
        return
    assert snapshot(root) == before
    done = apply(root, *second, purge=["top"], diff=True)
    assert (done["files"], done["diff"]) == (predicted["files"], predicted["diff"])
    # The folder that is purged stays, even when nothing is wanted in it any more.
    assert actual(root) == {**expected(second), **({"top": ("folder", None)} if "top" in before else {})}
    for entry in second:
        if entry.kind != "link":
            assert mode_of(root / entry.path) == f"{entry.mode:04o}"
    assert not apply(root, *second, purge=["top"])["changed"]
    assert not leftovers(root)


@hypothetical
@given(first=trees, second=trees)
def test_any_failed_change_leaves_no_trace(tmp_path_factory, first, second):
    root = tmp_path_factory.mktemp("root")
    apply(root, *first)
    before = snapshot(root)
    try:
        changed = apply(root, *second, purge=["top"], validate=["false"])["changed"]
    except TreeError:
        changed = False
    assert not changed
    assert snapshot(root) == before
    assert not leftovers(root)
