"""A task's question is kept on the host, asked with the others from then on, and its answer is taken only where it is the answer to this one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import re
import stat
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible_collections.redoubt.django.plugins.action import host_state, once
from ansible_collections.redoubt.django.plugins.plugin_utils import asked

ROOT = "/\0d\x00755\x000\x000\x004096\0\0"
LOOK = "at /etc/passwd\nat /not/there\n"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where questions are kept, on a host that has not been asked anything."""
    path = tmp_path / "lib/questions"
    monkeypatch.setattr(asked, "FOLDER", str(path))
    monkeypatch.setattr(asked, "ANSWERS", {})
    return path


def action(check: bool = False, delegate_to: str | None = None, become: str | None = "root", user: str = "ops", transport: str = "ssh", pipelining: bool = True):
    """As a task's action that this machine's shell answers."""
    said = []

    def execute(command, sudoable, in_data):
        # Ansible puts this behind every command.
        done = subprocess.run(["/bin/sh", "-c", f"{command} && sleep 0"], input=in_data, capture_output=True, check=False, cwd="/")
        said.append(done)
        return {"rc": done.returncode, "stdout": done.stdout.decode()}

    return SimpleNamespace(
        _connection=SimpleNamespace(is_pipelining_enabled=lambda: pipelining, transport=transport), _task=SimpleNamespace(check_mode=check, delegate_to=delegate_to),
        get_become_option=lambda _name: become, _get_remote_user=lambda: user, _low_level_execute_command=execute, said=said)


def ask(task, question: str = LOOK, kind: str = "look", about: str = "it") -> str | None:
    return asked.ask(task, kind, question, about, {"inventory_hostname": "host"})


SCRIPT = host_state.SCRIPT[host_state.SCRIPT.index("# What its tasks have asked before"):]


def known(folder: Path, terminal: bool = False) -> dict[str, str]:
    """The answers that host_state brings, by question. It is run without an input of its own, for which ssh gives it a terminal."""
    script = "set -e\n" + SCRIPT.replace("/var/lib/redoubt/questions", str(folder))
    ours, theirs = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=theirs) as process:
        os.close(theirs)
        said = b""
        # The end of a terminal is an error.
        with contextlib.suppress(OSError):
            while piece := os.read(ours, 65536):
                said += piece
    os.close(ours)
    assert process.returncode == 0
    kept, *answers = re.split(f"{host_state.AFTER_ANSWER} (\\d+)\n", said.decode().replace("\r\n", "\n"))
    return asked.by_question(host_state.answered(kept, answers))


def test_a_question_is_answered_and_kept_for_root_alone(folder):
    answer = ask(action())
    assert [entry[0] for entry in asked.parsed(answer)[1]] == ["/", "/etc/passwd"]
    [kept] = folder.iterdir()
    assert kept.read_text() == LOOK
    assert [stat.S_IMODE(each.stat().st_mode) for each in (folder.parent, folder, kept)] == [0o755, 0o700, 0o600]


def test_the_same_answer_comes_with_all_others(folder):
    first = ask(action())
    ask(action(), "at /etc/group\n", about="another")
    ask(action(), "echo half; exit 3\n", "sh", "a")
    ask(action(), "echo two\nread -r input || echo none\n", "sh", "b")
    (folder / "something else").write_text("no question")
    (folder / "a folder").mkdir()
    answers = known(folder)
    # What fails is no answer.
    assert len(answers) == 3 and {answers[asked.digest(text)] for text in (LOOK, "at /etc/group\n")} == {answers[asked.digest(LOOK)]}
    there = answers[asked.digest(LOOK)].split("\0")
    assert set(first.split("\0")) <= set(there) and "/etc/group" in there
    assert answers[asked.digest("echo two\nread -r input || echo none\n")] == "two\nnone\n"


def test_a_host_that_has_not_been_asked_has_no_answers(folder):
    assert known(folder) == {}
    folder.mkdir(parents=True)
    assert known(folder) == {}


def test_a_question_that_is_replaced_meanwhile_has_no_answer(folder):
    ask(action())
    ask(action(), f"echo 'at /' >>{folder}/{asked.digest('it')}.look\n", "sh", "other")
    assert known(folder) == {}


def test_what_root_runs_is_roots_alone(folder):
    ask(action())
    assert known(folder)
    for mode, owner in ((0o755, 0), (0o700, 1)):
        folder.chmod(mode)
        os.chown(folder, owner, -1)
        assert known(folder) == {}


def test_a_terminal_changes_no_name(folder, tmp_path):
    path = tmp_path / "ünï\tc"
    path.write_text("it")
    question = f"at {path}\nsame 2 {hashlib.sha256(b'it').hexdigest()}  {path}\n"
    ask(action(), question)
    _, there, same = asked.parsed(known(folder, terminal=True)[asked.digest(question)])
    assert [entry[0] for entry in there] == ["/", str(path)] and same == {str(path)}


@pytest.mark.parametrize("which", ["-files0-from", "-mindepth"])
@pytest.mark.parametrize("broken", ["exit 2", "kill -9 $$"])
def test_a_look_that_goes_wrong_is_no_answer(folder, tmp_path, monkeypatch, which, broken):
    find = tmp_path / "bin/find"
    find.parent.mkdir()
    find.write_text(f"#!/bin/sh\ncase $* in *{which}*) {broken};; *) exec /usr/bin/find \"$@\";; esac\n")
    find.chmod(0o755)
    monkeypatch.setenv("PATH", f"{find.parent}:{os.environ['PATH']}")
    answer = ask(action())
    with pytest.raises(ValueError):
        asked.parsed(answer)


def test_a_damaged_question_answers_no_other(folder):
    ask(action())
    [kept] = folder.iterdir()
    kept.write_text(LOOK[:-3])
    assert asked.digest(LOOK) not in known(folder)


def test_answers_that_cannot_be_told_apart_are_none(folder):
    ask(action(), f"echo {host_state.AFTER_ANSWER} 0\n", "sh")
    assert known(folder) == {}


def test_what_is_known_is_not_asked(folder):
    asked.ANSWERS["host"] = {asked.digest(LOOK): "known"}
    task = action()
    assert ask(task) == "known" and task.said == []
    assert ask(task, LOOK + "at /\n") != "known" and len(task.said) == 1


@pytest.mark.parametrize("other", [
    {"delegate_to": "another"}, {"become": "postgres"}, {"become": None}, {"transport": "local"},
])
def test_another_host_or_user_is_asked_and_nothing_kept(folder, other):
    asked.ANSWERS["host"] = {asked.digest(LOOK): "known"}
    answer = ask(action(**other))
    assert answer != "known" and "/etc/passwd" in answer.split("\0") and not folder.exists()


def test_root_himself_is_the_hosts_root(folder):
    asked.ANSWERS["host"] = {asked.digest(LOOK): "known"}
    assert ask(action(become=None, user="root")) == "known"


def test_a_prediction_keeps_nothing_and_takes_what_is_known(folder):
    assert "/etc/passwd" in ask(action(check=True)).split("\0") and not folder.exists()
    asked.ANSWERS["host"] = {asked.digest(LOOK): "known"}
    assert ask(action(check=True)) == "known"


def test_without_pipelining_the_module_is_to_do_it(folder):
    task = action(pipelining=False)
    assert ask(task) is None and task.said == []


def test_what_fails_is_no_answer(folder):
    assert ask(action(), "echo half; exit 1\n", "sh") is None
    folder.with_name("file").write_text("")
    asked.FOLDER = str(folder.with_name("file") / "questions")
    assert ask(action()) is None


def test_a_question_takes_the_place_of_an_earlier_one_about_the_same(folder):
    for question in (LOOK, "at /\n"):
        ask(action(), question)
    ask(action(), about="another")
    assert sorted(each.read_text() for each in folder.iterdir()) == ["at /\n", LOOK]


def test_what_nobody_asks_any_more_is_forgotten(folder):
    ask(action(), about="an old one")
    [old] = folder.iterdir()
    for days, left in ((29, 2), (32, 2)):
        os.utime(old, (old.stat().st_atime, old.stat().st_mtime - days * 86400))
        ask(action(), about=f"days {days}")
        assert len(list(folder.iterdir())) == left
    assert not old.exists()


@pytest.mark.parametrize(("fields", "there"), [
    (["/it", "f"], True), (["/it", "d"], True), (["/it", "l"], False), (["/other", "l", "/it"], False), ([], False), (["half"], False),
])
def test_what_a_command_leaves_is_there_where_it_is_itself(monkeypatch, fields, there):
    path, kind, target = (fields + ["", "", ""])[:3]
    entry = f"{path}\x00{kind}\x00644\x000\x000\x001\x00{target}" + "\0" if kind else "\0".join(fields)
    monkeypatch.setattr(once, "ask", lambda *_args: f"0\x000\0\0\0{ROOT}{entry}same\0\0")
    assert once.ActionModule.is_there(None, "/it", {}) is there


@pytest.mark.parametrize("path", ["it", "/two\nlines"])
def test_what_is_no_plain_path_is_not_asked_for(monkeypatch, path):
    monkeypatch.setattr(once, "ask", None)
    assert once.ActionModule.is_there(None, path, {}) is False
