"""The controller's side of releases: which release an inventory asks for, how the host's program is called, and what is made of its answer."""

from __future__ import annotations

import getpass
import hashlib
import importlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")
Host = release_host.Host
PLUGINS = Path(__file__).resolve().parents[2] / "plugins"


@pytest.fixture(scope="module")
def module():
    return release_host.load("module_release", PLUGINS / "modules/release.py")


@pytest.fixture(scope="module")
def plan_module():
    return release_host.load("module_release_plan", PLUGINS / "modules/release_plan.py")


# --- release ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path, module, monkeypatch):
    """A program that writes down its words and answers as it is told to."""
    path = tmp_path / "release"
    monkeypatch.setattr(module, "PROGRAM", str(path))
    (tmp_path / "release.json").write_text("{}")

    def answers(out: str, err: str = "", code: int = 0) -> None:
        (tmp_path / "out").write_text(out)
        (tmp_path / "err").write_text(err)
        path.write_text(f'#!/bin/sh\ncd {tmp_path}\nfor word; do echo "$word" >> words; done\ncat out\ncat err >&2\nexit {code}\n')
        path.chmod(0o755)

    answers('{"changed": true, "failed": false, "notes": [], "output": [], "seconds": {"fetch": 1.5}}')
    return answers


@pytest.fixture
def call(tmp_path, module):
    def words(**arguments):
        (tmp_path / "words").unlink(missing_ok=True)
        answer = release_host.run_module(module, **{"app": str(tmp_path / "release.json"), "who": "ada@desk", "token": "one two", **arguments})
        asked = (tmp_path / "words").read_text().splitlines() if (tmp_path / "words").exists() else []
        return answer, asked

    return words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"phase": "build", "release": "r1", "commit": "c0ffee", "fingerprint": "f"}, ["build", "r1", "c0ffee"]),
        ({"phase": "migrate", "release": "r1", "commit": "c0ffee"}, ["migrate", "r1"]),
        ({"phase": "activate", "release": "r1", "fingerprint": "f"}, ["activate", "r1", "f"]),
        ({"phase": "rollback"}, ["rollback"]),
        ({"phase": "rollback", "release": "r1"}, ["rollback", "r1"]),
        ({"phase": "restart"}, ["restart"]),
        ({"phase": "list", "release": "r1"}, ["list"]),
    ],
)
def test_the_program_is_called_with_what_the_phase_needs(tmp_path, program, call, arguments, words) -> None:
    answer, asked = call(**arguments, action="night shift")
    assert asked == ["--who=ada@desk", "--token=one two", "--action=night shift", str(tmp_path / "release.json"), *words]
    assert answer == {"changed": True, "notes": [], "output": [], "seconds": {"fetch": 1.5}}


def test_what_the_journal_calls_a_deploy(program, call) -> None:
    assert "--action=deploy" in call(phase="migrate", release="r1")[1]


def test_the_programs_own_parser_takes_these_words(tmp_path, module) -> None:
    """Both ends agree on the arguments: the real program is asked for a list of what is not there."""
    app = tmp_path / "release.json"
    (tmp_path / "srv/notes/releases").mkdir(parents=True)
    app.write_text(json.dumps({"root": str(tmp_path / "srv/notes")}))
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -B {release_host.PROGRAM} "$@"\n')
    wrapper.chmod(0o755)
    before, module.PROGRAM = module.PROGRAM, str(wrapper)
    try:
        answer = release_host.run_module(module, app=str(app), phase="list", who="ada", token="one")
    finally:
        module.PROGRAM = before
    assert answer == {"changed": False, "releases": [], "journal": [], "held": {}, "claim": {}, "live": "", "packages": "", "earlier": [], "previous": ""}


@pytest.mark.parametrize("phase", ["build", "migrate", "activate", "rollback", "restart"])
def test_check_mode_says_that_there_is_something_to_do_and_does_nothing(program, call, phase) -> None:
    answer, asked = call(phase=phase, check=True, app="/nowhere/release.json")
    assert (answer["changed"], asked) == (True, [])
    assert (answer["notes"], answer["output"], answer["seconds"]) == ([], [], {}), "what the role reads is there"


def test_check_mode_lists_all_the_same(program, call) -> None:
    program('{"releases": []}')
    answer, asked = call(phase="list", check=True)
    assert answer == {"changed": False, "releases": []}
    assert asked


def test_a_first_run_that_failed_early_ends_without_a_second_sentence(program, call) -> None:
    answer, asked = call(phase="end", app="/nowhere/release.json")
    assert not answer.get("failed") and not answer["changed"]
    assert asked[-2:] == ["/nowhere/release.json", "end"]


def test_where_nothing_was_deployed_the_way_to_begin_is_named(program, call) -> None:
    answer, asked = call(phase="rollback", app="/nowhere/release.json")
    assert answer["failed"]
    assert answer["msg"] == "There is no /nowhere/release.json on this host: nothing has been deployed here yet. Run playbooks/site.yml first."
    assert asked == []


def test_a_failing_answer_fails_the_task_with_its_sentence(program, call) -> None:
    program('{"changed": true, "failed": true, "msg": "Step x failed.", "notes": ["n"], "output": ["o"], "seconds": {}}', code=1)
    answer, _ = call(phase="migrate", release="r1")
    assert (answer["failed"], answer["changed"], answer["msg"], answer["notes"], answer["output"]) == (True, True, "Step x failed.", ["n"], ["o"])


def test_the_answer_is_the_last_line(program, call) -> None:
    program('a warning of the interpreter\n{"changed": false, "failed": false}\n\n')
    assert call(phase="migrate", release="r1")[0] == {"changed": False}


@pytest.mark.parametrize(
    ("out", "err", "said"),
    [
        ("", "Traceback\nKeyError: 'root'\n", "`release migrate` ended with 3 and no answer: KeyError: 'root'"),
        ("half {", "", "`release migrate` ended with 3 and no answer: it printed nothing"),
    ],
)
def test_no_answer_is_told_with_the_last_that_was_said(program, call, out, err, said) -> None:
    program(out, err, code=3)
    answer, _ = call(phase="migrate", release="r1")
    assert (answer["failed"], answer["msg"]) == (True, said)
    assert answer["output"] == err.splitlines()


@pytest.mark.parametrize("arguments", [{"phase": "destroy"}, {}, {"phase": "list", "force": True}])
def test_other_arguments_are_refused(program, call, arguments) -> None:
    answer, asked = call(**arguments)
    assert answer["failed"]
    assert asked == []


# --- release_plan ----------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path, monkeypatch, plan_module) -> Host:
    found = Host(tmp_path)
    found.app |= {"source": "pypi", "package": "notes", "version": "1.0", "env": "e1", "build": ["make"], "env_file": "x"}
    monkeypatch.setattr(plan_module, "STATE", str(found.state))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return found


@pytest.fixture
def plan(machine, plan_module):
    def ask(check: bool = False, **arguments: object) -> dict:
        (machine.config / "release.json").write_text(json.dumps(machine.app))
        config = [str(machine.config / "env"), str(machine.config / "gunicorn.conf.py")]
        return release_host.run_module(plan_module, check=check, **{"app": str(machine.config / "release.json"), "config": config, **arguments})

    return ask


def todo(answer: dict) -> str:
    return " ".join(phase for phase in ("build", "migrate", "activate") if answer[phase])


def deployed(machine: Host, plan) -> str:
    """Do what the plan asks for, as far as it looks at it."""
    answer = plan()
    machine.serving(answer["release"])
    (machine.root / "colours/blue/fingerprint").write_text(answer["fingerprint"] + "\n")
    assert todo(plan()) == ""
    return answer["release"]


def test_before_the_first_release_all_is_to_be_done(plan) -> None:
    answer = plan()
    assert todo(answer) == "build migrate activate"
    assert (answer["live"], answer["idle"], answer["held"], answer["changed"], answer["commit"]) == ("", "blue", "", False, "1.0")
    assert answer["release"].startswith("1.0-")
    assert plan() == answer, "the same description has the same name"


def test_check_mode_on_a_blank_host_says_that_all_is_to_be_done(plan_module, tmp_path) -> None:
    answer = release_host.run_module(plan_module, check=True, app=str(tmp_path / "none.json"))
    assert todo(answer) == "build migrate activate"
    assert (answer["release"], answer["held"], answer["idle"], answer["live"]) == ("pending", "", "blue", "")


def test_a_host_without_a_description_is_a_sentence(plan_module, tmp_path) -> None:
    answer = release_host.run_module(plan_module, app=str(tmp_path / "none.json"))
    assert answer["failed"]
    assert answer["msg"].startswith(f"There is no {tmp_path}/none.json on this host")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hooks", {"after_switch": ["./tell"]}),
        ("audit", {"service": "https://else.test", "refuse": True, "waivers": [{"id": "CVE-1"}]}),
        ("migrate", ["migrate --fake"]),
        ("setup", ["loaddata"]),
        ("kept", 9),
        ("processes", ["notes-worker.service"]),
        ("listening", {"notes-asgi.service": "/run/notes/asgi/socket"}),
        ("probe", {}),
        ("check_fail_level", "WARNING"),
        ("allow_destructive", True),
        ("certificate", "/else"),
        ("run", "/run/else"),
    ],
)
def test_what_is_not_in_a_release_makes_no_other_one(machine, plan, key, value) -> None:
    release = deployed(machine, plan)
    machine.app[key] = value
    assert plan()["release"] == release
    assert todo(plan()) == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [("env", "e2"), ("build", ["make", "make more"]), ("extra", ["psycopg"]), ("python", "/usr/bin/python3.12"), ("files", [{"dest": "x"}]), ("index", "https://i")],
)
def test_what_is_in_a_release_makes_another_one(machine, plan, key, value) -> None:
    release = deployed(machine, plan)
    machine.app[key] = value
    assert plan()["release"] != release
    assert plan()["release"].startswith("1.0-")
    assert todo(plan()) == "build migrate activate"


def test_a_changed_configuration_is_started_with_and_nothing_else(machine, plan) -> None:
    deployed(machine, plan)
    before = plan()["fingerprint"]
    (machine.config / "env").write_text("new\n")
    assert todo(plan()) == "activate"
    assert plan()["fingerprint"] != before
    assert (plan()["live"], plan()["idle"]) == ("blue", "green")


def test_a_configuration_that_check_mode_would_change_is_started_with(machine, plan) -> None:
    deployed(machine, plan)
    assert todo(plan(check=True, config_changed=True)) == "activate"
    assert todo(plan(config_changed=True)) == "", "outside of it the host shows it"
    assert todo(plan(check=True)) == ""


def test_check_mode_foresees_what_another_description_asks_for(machine, plan) -> None:
    deployed(machine, plan)
    for changes, wanted in (({"kept": 9, "processes": ["notes-new.service"], "hooks": {}}, ""), ({"env": "e2"}, "build migrate activate"),
                            ({"version": "2.0"}, "build migrate activate"), ({"repo": "git://else.test/x.git"}, "build migrate activate")):
        description = json.dumps({**machine.app, **changes})
        assert todo(plan(check=True, description=description)) == wanted, changes
        assert todo(plan(description=description)) == "", "outside of it the host has it"


def test_an_activation_that_was_cut_off_is_to_be_done_again(machine, plan) -> None:
    deployed(machine, plan)
    (machine.home / "activating.json").write_text("{}")
    assert todo(plan()) == "activate"


def test_what_is_not_finished_is_to_be_finished(machine, plan) -> None:
    release = deployed(machine, plan)
    (machine.home / "setup").unlink()
    assert todo(plan()) == "migrate"
    (machine.home / "setup").touch()
    (machine.home / "releases" / release / "migrate").unlink()
    assert todo(plan()) == "migrate"
    (machine.home / "releases" / release / "migrate").touch()
    (machine.root / "releases" / release / "manifest.json").unlink()
    assert todo(plan()) == "build migrate", "what was done for a release that is gone counts no more"


def test_a_release_that_was_rolled_back_from_is_held_back(machine, plan) -> None:
    release = deployed(machine, plan)
    machine.released("older")
    machine.staged("older", "green")
    (machine.root / "live").unlink()
    (machine.root / "live").symlink_to("colours/green")
    (machine.home / "held.json").write_text(json.dumps({"releases": ["another", release], "since": "2030-05-17T10:00:00Z", "who": "ada@desk"}))
    answer = plan()
    assert (todo(answer), answer["held"], answer["live"]) == ("", "2030-05-17T10:00:00Z by ada@desk", "green")
    # A secret that is another one since then is not what serves has.
    (machine.root / "colours/green/env").write_bytes((machine.config / "env").read_bytes())
    assert plan()["outdated"] is False and plan(check=True, config_changed=True)["outdated"] is True
    (machine.config / "env").write_text("SMTP_PASSWORD=new\n")
    assert plan()["outdated"] is True and todo(plan()) == ""
    # On purpose it is put in service again, and another version is not held back.
    answer = plan(held="deploy")
    assert (todo(answer), answer["held"], answer["outdated"]) == ("activate", "", False)
    machine.app["version"] = "1.1"
    assert (todo(plan()), plan()["held"]) == ("build migrate activate", "")


def test_the_fingerprint_is_of_every_file_and_the_release(machine, plan) -> None:
    answer = plan()
    digest = hashlib.sha256(answer["release"].encode())
    for name in ("env", "gunicorn.conf.py"):
        digest.update(hashlib.sha256((machine.config / name).read_bytes()).digest())
    assert answer["fingerprint"] == digest.hexdigest()


@pytest.fixture
def repository(tmp_path, machine) -> dict[str, str]:
    """A repository with a branch, a tag that has a page of its own, and a tag and a branch of one name."""
    folder = tmp_path / "repository"
    run = tmp_path / "bin/runuser"
    run.write_text('#!/bin/sh\n[ "$1 $3" = "-u --" ] || exit 9\nshift 3\nexec "$@"\n')
    run.chmod(0o755)

    def git(*words: str) -> str:
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
                       "GIT_COMMITTER_EMAIL": "a@b"}
        return subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, text=True, env=environment).stdout.strip()

    folder.mkdir()
    git("init", "--quiet", "--initial-branch=main")
    commits = {}
    for name in ("first", "second", "third"):
        git("commit", "--quiet", "--allow-empty", "--message", name)
        commits[name] = git("rev-parse", "HEAD")
    git("tag", "--annotate", "--message", "x", "v1", commits["first"])
    git("tag", "v2", commits["second"])
    git("branch", "v2", commits["first"])
    git("branch", "feature/x", commits["second"])
    machine.app |= {"source": "git", "repo": str(folder)}
    return commits


@pytest.mark.parametrize(
    ("version", "commit"), [("main", "third"), ("v1", "first"), ("v2", "second"), ("feature/x", "second"), ("refs/heads/v2", "first"), ("HEAD", "third")]
)
def test_a_version_is_a_branch_or_a_tag(machine, plan, repository, version, commit) -> None:
    machine.app["version"] = version
    answer = plan()
    assert answer["commit"] == repository[commit]
    assert answer["release"].startswith(repository[commit][:12] + "-")


def test_the_name_of_a_version_makes_no_other_release(machine, plan, repository) -> None:
    names = set()
    for version in ("v2", "feature/x", repository["second"]):
        machine.app["version"] = version
        names.add(plan()["release"])
    assert len(names) == 1


def test_a_version_that_is_not_there_is_told_with_those_that_are(machine, plan, repository) -> None:
    machine.app["version"] = "v3"
    answer = plan()
    assert answer["failed"]
    assert answer["msg"].startswith("app_version: 'v3' is no branch or tag of ")
    assert "It has: feature/x, main, v1, v2. Nothing was changed" in answer["msg"]


def test_a_repository_that_cannot_be_read_is_told_with_the_reason(machine, plan, repository) -> None:
    machine.app["repo"] = str(machine.base / "nowhere")
    answer = plan()
    assert answer["failed"]
    assert answer["msg"].startswith(f"app_repo: git cannot read '{machine.base}/nowhere' from this host: '{machine.base}/nowhere' does not appear to be a git repository. ")


def test_git_is_told_the_key_only_where_there_is_one(machine, plan, repository) -> None:
    git = machine.base / "bin/git"
    git.write_text(f'#!/bin/sh\necho "$GIT_SSH_COMMAND" >> {machine.base}/ssh\n/usr/bin/env PATH=/usr/bin:/bin git "$@"\n')
    git.chmod(0o755)
    machine.app["version"] = "main"
    plan()
    (machine.config / "deploy_key").touch()
    plan()
    without, with_key = (machine.base / "ssh").read_text().splitlines()
    assert "IdentityFile" not in without
    assert with_key.endswith(f"-o IdentitiesOnly=yes -o IdentityFile={machine.config}/deploy_key")
    assert f"UserKnownHostsFile={machine.config}/known_hosts" in without


# --- Who runs the playbook -------------------------------------------------------------------------------------------


@pytest.fixture
def controller():
    return importlib.import_module("ansible_collections.redoubt.django.plugins.lookup.controller")


def test_all_tasks_of_a_run_say_the_same_and_another_run_says_something_else(controller) -> None:
    def answer() -> dict:
        return controller.LookupModule().run([])[0]

    here = answer()
    machine = socket.gethostname()
    assert here["who"] == f"{getpass.getuser()}@{machine}"
    assert here["token"].startswith(f"{machine}-{os.getpid()}-") and here["token"].rpartition("-")[2].isdigit()
    # A task's process is forked from the playbook's, and says what that says.
    inside, outside = multiprocessing.Pipe()
    task = multiprocessing.get_context("fork").Process(target=lambda: inside.send(answer()))
    task.start()
    assert outside.poll(10) and outside.recv() == here
    task.join()


def test_a_process_is_known_by_when_it_began(controller) -> None:
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    assert controller.started(os.getpid()) == str(ticks)
    with subprocess.Popen(["sleep", "9"]) as child:
        assert int(controller.started(child.pid)) >= ticks
        child.kill()
    assert controller.started(child.pid) == ""
