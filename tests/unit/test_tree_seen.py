"""A host's own tools say whether a tree has anything to change: never that it has not, where the module would change something."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.redoubt.django.plugins.module_utils.tree_transaction import STATE_DIR, Entry, Plan, Tree, TreeError
from ansible_collections.redoubt.django.plugins.plugin_utils import asked, tree_seen

SECRET = b"token = 'swordfish'\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "the root's"
    folder.mkdir()
    return folder


def wanted() -> Plan:
    """Every kind of entry, with what the tools could stumble over in its name or contents."""
    return Plan(
        [
            Entry("etc/app/main.conf", content=b"a = 1\n"),
            Entry("etc/app/it's $(here) a;b.conf", content=b""),
            Entry("etc/app/secret", content=SECRET, mode=0o600, secret=True),
            Entry("etc/app/ünï.conf", content=bytes(range(256))),
            Entry("etc/app/run", content=b"#!/bin/sh\n", mode=0o4755, owner="root", group="root"),
            Entry("etc/app/link", "link", target="../some where"),
            Entry("var/lib/app", "folder", mode=0o2750, owner="0", group="daemon"),
            Entry("var/lib/as-found", "folder"),
        ],
        purge=["etc/app", "etc/not-there"],
        absent=["etc/old.conf", "opt/nothing/here"],
    )


def look(*files: str, question: str = "") -> str:
    """What the host says; the questions are files or its input."""
    answer = subprocess.run(["/bin/sh", "-c", f'set -- "$@"\n{asked.LOOK}', "sh", *files], input=question.encode(), capture_output=True, check=False, cwd="/", timeout=10)
    assert answer.returncode == 0 and SECRET not in answer.stdout, answer.stderr
    return answer.stdout.decode(errors="surrogateescape")


def is_unchanged(plan: Plan, root: Path) -> bool:
    question = tree_seen.question(plan, str(root))
    assert question is not None and "swordfish" not in question
    return tree_seen.unchanged(plan, str(root), look(question=question))


def changes(plan: Plan, root: Path) -> bool:
    """What the module finds, an error being something to tell of."""
    try:
        result = Tree(plan, str(root), check=True).apply()
    except TreeError:
        return True
    return result["changed"] or bool(result["warnings"])


@pytest.fixture
def applied(root: Path) -> Path:
    Tree(wanted(), str(root)).apply()
    return root


def test_what_is_there_already_needs_no_module(applied):
    assert not changes(wanted(), applied)
    assert is_unchanged(wanted(), applied)


def test_nothing_is_there_yet(root):
    assert not is_unchanged(wanted(), root)


def test_a_plan_without_files(root):
    plan = Plan([Entry("var/lib/app", "folder", mode=0o700)])
    assert not is_unchanged(plan, root)
    Tree(plan, str(root)).apply()
    assert is_unchanged(plan, root)


def journal(root: Path) -> None:
    path = root / STATE_DIR / "00ff.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"phase": "staging", "operations": []}))


def move_behind_a_link(root: Path) -> None:
    (root / "etc").rename(root / "real")
    (root / "etc").symlink_to("real")


def replace_by_its_like(root: Path) -> None:
    (root / "etc/app/main.conf").rename(root / "copy")
    (root / "etc/app/main.conf").symlink_to(root / "copy")


def make_a_pipe(root: Path) -> None:
    (root / "etc/app/main.conf").unlink()
    os.mkfifo(root / "etc/app/main.conf")


def make_an_endless_one(root: Path) -> None:
    (root / "etc/app/it's $(here) a;b.conf").unlink()
    os.mkfifo(root / "etc/app/it's $(here) a;b.conf")


DISTURBANCES = {
    "never ends": make_an_endless_one,
    "takes hours to read": lambda root: os.truncate(root / "etc/app/main.conf", 1 << 40),
    "content": lambda root: (root / "etc/app/main.conf").write_bytes(b"a = 2\n"),
    "longer": lambda root: (root / "etc/app/main.conf").write_bytes(b"a = 1\n\n"),
    "secret": lambda root: (root / "etc/app/secret").write_bytes(SECRET.replace(b"s", b"S")),
    "no longer empty": lambda root: (root / "etc/app/it's $(here) a;b.conf").write_text("x"),
    "binary": lambda root: (root / "etc/app/ünï.conf").write_bytes(bytes(range(256))[::-1]),
    "missing": lambda root: (root / "etc/app/secret").unlink(),
    "mode": lambda root: (root / "etc/app/secret").chmod(0o644),
    "default mode": lambda root: (root / "etc/app/main.conf").chmod(0o600),
    "set-uid": lambda root: (root / "etc/app/run").chmod(0o755),
    "owner": lambda root: os.chown(root / "etc/app/main.conf", 1, 0),
    "group": lambda root: os.chown(root / "etc/app/main.conf", 0, 1),
    "named owner": lambda root: os.chown(root / "etc/app/run", 1, -1),
    "folder's mode": lambda root: (root / "var/lib/app").chmod(0o750),
    "folder's group": lambda root: os.chown(root / "var/lib/app", -1, 0),
    "folder missing": lambda root: (root / "var/lib/as-found").rmdir(),
    "folder is a file": lambda root: ((root / "var/lib/as-found").rmdir(), (root / "var/lib/as-found").touch()),
    "link's target": lambda root: ((root / "etc/app/link").unlink(), (root / "etc/app/link").symlink_to("../elsewhere")),
    "link is a file": lambda root: ((root / "etc/app/link").unlink(), (root / "etc/app/link").write_text("../some where")),
    "file is a link to its like": replace_by_its_like,
    "file is a pipe": make_a_pipe,
    "file is a folder": lambda root: ((root / "etc/app/secret").unlink(), (root / "etc/app/secret").mkdir()),
    "foreign file": lambda root: (root / "etc/app/foreign").touch(),
    "foreign folder": lambda root: (root / "etc/app/etc/app").mkdir(parents=True),
    "foreign dead link": lambda root: (root / "etc/app/dead").symlink_to("nowhere"),
    "foreign name in two lines": lambda root: (root / "etc/app/a\nb").touch(),
    "foreign name that is no text": lambda root: open(os.fsencode(root / "etc/app") + b"/\xff", "wb").close(),
    "purged folder that was not there": lambda root: ((root / "etc/not-there").mkdir(), (root / "etc/not-there/x").touch()),
    "back again": lambda root: (root / "etc/old.conf").touch(),
    "back again as a dead link": lambda root: (root / "etc/old.conf").symlink_to("nowhere"),
    "interrupted": journal,
}


@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
def test_what_the_module_would_change_or_tell_of_is_its_to_judge(applied, disturb):
    disturb(applied)
    assert changes(wanted(), applied)
    assert not is_unchanged(wanted(), applied)


def test_behind_a_link_it_is_the_modules_to_judge(applied):
    """The module follows root's links; what a link leads to is not told of."""
    move_behind_a_link(applied)
    assert not changes(wanted(), applied)
    assert not is_unchanged(wanted(), applied)


def test_what_the_module_leaves_alone_is_left_alone(applied):
    (applied / "var/lib/as-found").chmod(0o711)
    (applied / "etc/app/.redoubt-tree-1-old~").touch()
    (applied / "var/lib/app/of somebody else").touch()
    assert not changes(wanted(), applied)
    assert is_unchanged(wanted(), applied)


def test_an_owner_that_does_not_exist_is_the_modules_to_name(applied):
    plan = wanted()
    plan.entries[0].owner = "nobody-has-this-name"
    assert not is_unchanged(plan, applied)


@pytest.mark.parametrize("path", ["etc/two\nlines", "etc/back\\slash"])
def test_a_name_that_sha256sum_would_write_otherwise_is_not_asked_for(path, root):
    assert tree_seen.question(Plan([Entry(path)]), str(root)) is None


def test_a_root_that_depends_on_where_one_is_is_not_asked_for():
    assert tree_seen.question(Plan([Entry("a")]), "relative") is None


def other() -> Plan:
    return Plan([Entry("etc/other/a.conf", content=b"a"), Entry("etc/other/b.conf", content=b"b", group="daemon")], purge=["etc/other"])


@pytest.mark.parametrize(("disturb", "left"), [
    (lambda root: None, (True, True)),
    (lambda root: (root / "etc/other/a.conf").write_text("b"), (True, False)),
    (lambda root: (root / "etc/other/c.conf").touch(), (True, False)),
    (lambda root: (root / "etc/app/main.conf").unlink(), (False, True)),
    # What may never end is not read.
    (make_a_pipe, (False, True)),
])
def test_several_trees_are_looked_at_together(applied, tmp_path, disturb, left):
    Tree(other(), str(applied)).apply()
    for name, plan in (("one", wanted()), ("other", other())):
        (tmp_path / name).write_text(tree_seen.question(plan, str(applied)))
    disturb(applied)
    answer = look(str(tmp_path / "one"), str(tmp_path / "other"))
    assert tuple(tree_seen.unchanged(plan, str(applied), answer) for plan in (wanted(), other())) == left


def test_a_file_below_another_root_is_another(root, tmp_path):
    there, here = tmp_path / "there", root
    there.mkdir()
    Tree(other(), str(there)).apply()
    for name, folder in (("one", there), ("other", here)):
        (tmp_path / name).write_text(tree_seen.question(other(), str(folder)))
    answer = look(str(tmp_path / "one"), str(tmp_path / "other"))
    assert tree_seen.unchanged(other(), str(there), answer) and not tree_seen.unchanged(other(), str(here), answer)
    # One is below the other.
    assert not tree_seen.unchanged(other(), str(tmp_path), look(question=tree_seen.question(other(), str(tmp_path)) + (tmp_path / "one").read_text()))


def test_a_question_takes_the_place_of_one_about_the_same():
    plan = other()
    before = tree_seen.about(plan, "/")
    plan.entries[0].content, plan.entries[1].group = b"new", "root"
    assert tree_seen.about(plan, "/") == before
    assert len({before, tree_seen.about(plan, "/mnt"), tree_seen.about(wanted(), "/")}) == 3


ROOT = "/\0d\x00755\x000\x000\x004096\0\0"


@pytest.mark.parametrize("answer", ["", "0\0", f"0\x000\0\0\0{ROOT}same\0", f"0\x000\0\0\0{ROOT}/a\0f\0same\0\0", f"x\0y\0\0\0{ROOT}same\0\0",
                                    f"0\x000\0\0\0{ROOT}\0\0", "0\x000\0\0\0same\0\0", f"0\x000\0\0\0{ROOT}failed\0same\0\0"])
def test_half_an_answer_is_none(answer, root):
    assert not tree_seen.unchanged(Plan(absent=["a"], entries=[]), str(root), answer)


def test_a_whole_one_is_one(root):
    assert tree_seen.unchanged(Plan(absent=["a"], entries=[]), str(root), f"0\x000\0\0\0{ROOT}same\0\0")
