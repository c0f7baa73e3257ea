"""Kill a run of the release program at every step: a whole release serves meanwhile, the old one or the new, and the next run ends the work.

Once the real program with commands that kill it, as a power cut or an administrator would while one of them runs; and once, in forked
children, before every single thing that it does to the disk.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")
Host = release_host.Host

# Runs phases of the real program as the module does, one after the other, where its folders are those of the test.
DRIVER = """
import os, subprocess, sys
sys.path.insert(0, {here!r})
import release_host
from pathlib import Path
program = release_host.load()
steps = program.steps
steps.TOOLS, steps.STATE, program.STEADY = Path({tools!r}), Path({state!r}), 0
steps.ask = lambda app, colour, path, timeout: (200 if subprocess.run(["ask", colour or "public", path]).returncode == 0 else 0, "nothing")
os.sync = os.fsync = lambda *_: None
if os.geteuid():
    os.lchown = os.chown = lambda *_: None
token, *phases = sys.argv[1:]
for phase in phases:
    sys.argv = ["release", "--who=ada@desk", "--token=" + token, {config!r}, *phase.split(",")]
    if program.main():
        sys.exit(1)
"""


@pytest.fixture(scope="module")
def program():
    return release_host.load()


@pytest.fixture(scope="module")
def plan_module():
    return release_host.load("module_release_plan", Path(__file__).resolve().parents[2] / "plugins/modules/release_plan.py")


def describe(machine: Host) -> None:
    machine.app |= {
        "source": "pypi",
        "package": "notes",
        "build": ["npm ci"],
        "setup": ["loaddata first"],
        "hooks": {"before_migrate": ["./announce"], "after_switch": ["./tell"]},
        "processes": ["notes-worker.service"],
        "kept": 1,
    }
    (machine.config / "release.json").write_text(json.dumps(machine.app))


def ask_plan(machine: Host, plan_module: types.ModuleType) -> dict:
    plan_module.STATE = str(machine.state)
    config = [str(machine.config / name) for name in ("env", "gunicorn.conf.py")]
    return release_host.run_module(plan_module, app=str(machine.config / "release.json"), config=config)


def phases(plan: dict) -> list[str]:
    """What the role does about a plan."""
    words = {"build": f"build,{plan['release']},{plan['commit']}", "migrate": f"migrate,{plan['release']}",
             "activate": f"activate,{plan['release']},{plan['fingerprint']}"}
    return [words[name] for name in words if plan[name]]


def old_release(machine: Host) -> None:
    """One that serves, and one before it that the next deploy removes."""
    machine.released("older")
    (machine.root / "releases/older/src/code").touch()
    os.utime(machine.home / "releases/older/served", (1, 1))
    machine.serving("old")
    machine.staged("older", "green")
    (machine.home / "setup").unlink()


def whole(machine: Host, new: str, old: str = "old") -> str:
    """The release that visitors get: one that is whole, whose processes run."""
    colour, name = machine.live()
    assert name in (old, new)
    assert (machine.root / "releases" / name / "manifest.json").exists()
    assert f"notes@{colour}.service" in machine.running()
    assert all((machine.root / "colours" / colour / each).exists() for each in ("env", "gunicorn.conf.py"))
    return name


def age(machine: Host) -> None:
    """Let the patience with a run that is cut off pass."""
    path = machine.home / "claim.json"
    if path.exists():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"at": time.time() - 61}))


def finished(machine: Host, new: str) -> None:
    colour, name = machine.live()
    assert name == new
    assert machine.running() == {f"notes@{colour}.service"}
    assert not [path.name for path in machine.home.iterdir() if path.name in ("claim.json", "activating.json")]
    assert json.loads((machine.root / "releases" / new / "manifest.json").read_text())["id"] == new


# --- The real program, killed while a command runs -------------------------------------------------------------------

WORDS = ["fetch", "install", "npm ci", "collectstatic", "inspect_project.py", "./announce", "migrate --noinput", "loaddata first", "daemon-reload",
         "start notes@green.socket", "restart notes@green.service", "ask green /login/", "ask public /login/", "./tell", "restart notes-worker.service",
         "stop notes@blue.service"]
# From here on visitors get the new one.
SWITCHED = WORDS.index("ask public /login/")


@pytest.mark.parametrize("word", WORDS)
def test_a_run_that_is_killed_while_a_command_runs_is_ended_by_the_next(tmp_path, plan_module, word) -> None:
    machine = Host(tmp_path)
    describe(machine)
    old_release(machine)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(here=str(Path(__file__).parent), tools=str(machine.tools), state=str(machine.state), config=str(machine.config / "release.json")))

    def run(token: str) -> subprocess.CompletedProcess:
        plan = ask_plan(machine, plan_module)
        environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
        return subprocess.run([sys.executable, "-B", driver, token, *phases(plan)], env=environment, capture_output=True, text=True, check=False)

    new = ask_plan(machine, plan_module)["release"]
    machine.rule(word, kill="before" if WORDS.index(word) % 2 else "after")
    killed = run("one")
    assert killed.returncode == -signal.SIGKILL, killed.stderr + killed.stdout
    assert whole(machine, new) == (new if WORDS.index(word) >= SWITCHED else "old")
    assert machine.journal() == []

    machine.rule(word)
    if word == "inspect_project.py":
        machine.findings()
    early = run("two")
    assert early.returncode == 1
    assert "Wait until that has ended" in json.loads(early.stdout.splitlines()[-1])["msg"]
    age(machine)
    machine.forget_calls()
    after = run("two")
    assert after.returncode == 0, after.stderr + after.stdout
    assert "Took over from ada@desk" in after.stdout
    finished(machine, new)
    assert machine.results() == [(new, "cut off"), (new, "ok")]
    # A step that was behind it is not taken again.
    assert bool([line for line in machine.calls() if "npm ci" in line]) is (WORDS.index(word) <= WORDS.index("collectstatic"))
    assert phases(ask_plan(machine, plan_module)) == []


def test_the_program_takes_a_rollback_without_a_release(tmp_path) -> None:
    machine = Host(tmp_path)
    describe(machine)
    old_release(machine)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(here=str(Path(__file__).parent), tools=str(machine.tools), state=str(machine.state), config=str(machine.config / "release.json")))
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    answer = subprocess.run([sys.executable, "-B", driver, "one", "rollback"], env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr + answer.stdout
    assert json.loads(answer.stdout)["changed"] is True
    finished(machine, "older")
    assert machine.results() == [("older", "ok")]
    # Its exit says the same as its answer.
    machine.rule("systemctl", code=1)
    answer = subprocess.run([sys.executable, "-B", driver, "two", "rollback"], env=environment, capture_output=True, text=True, check=False)
    assert (answer.returncode, json.loads(answer.stdout)["failed"]) == (1, True)


def test_a_command_that_outlives_its_run_is_waited_for(tmp_path, plan_module, program, monkeypatch) -> None:
    machine = Host(tmp_path)
    describe(machine)
    old_release(machine)
    monkeypatch.setattr(program.steps, "TOOLS", machine.tools)
    monkeypatch.setattr(program.steps, "STATE", machine.state)
    machine.released("r1", served=False)
    (machine.home / "releases/r1/migrate").unlink()
    machine.rule("migrate --noinput", kill="after", sleep=3)
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER.format(here=str(Path(__file__).parent), tools=str(machine.tools), state=str(machine.state), config=str(machine.config / "release.json")))
    # Its output is nobody's: the command that goes on has a pipe of its own.
    assert subprocess.run([sys.executable, "-B", driver, "one", "migrate,r1"], stdout=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
    age(machine)
    machine.rule("migrate --noinput")
    options = argparse.Namespace(step="migrate", release="r1", who="bob@den", token="two", app=machine.config / "release.json", action="deploy")
    answer = program.phase(options, machine.app)
    assert answer["failed"], "the migration still runs"
    assert answer["msg"].startswith("ada@desk is deploying notes since ")
    assert "(step 'migrate')" in answer["msg"]
    deadline = time.monotonic() + 20
    while answer["failed"] and time.monotonic() < deadline:
        time.sleep(0.2)
        answer = program.phase(options, machine.app)
    assert not answer["failed"]
    assert len([line for line in (tmp_path / "ended").read_text().splitlines() if "migrate --noinput" in line]) == 2, "one after the other"


# --- Killed before everything that is done to the disk ---------------------------------------------------------------

CHANGES = {"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "os.utime"}
DEAD = 77


class Killer:
    """Ends the process before the nth change of the disk, in a child that has been forked for it."""

    def __init__(self):
        self.count, self.last, self.on = 0, None, False

    def __call__(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or (event in CHANGES and not (event == "os.mkdir" and os.path.isdir(arguments[0]))):
            self.count += 1
            if self.count == self.last:
                os._exit(DEAD)


@pytest.fixture(scope="module")
def killer() -> Killer:
    found = Killer()
    sys.addaudithook(found)
    return found


@pytest.fixture
def simulated(program, monkeypatch):
    """The program with what it calls in its own process: nothing is started, everything is written down."""
    steps = program.steps
    monkeypatch.setattr(os, "fsync", lambda *_: None)
    monkeypatch.setattr(os, "sync", lambda *_: None)
    if os.geteuid():
        monkeypatch.setattr(os, "lchown", lambda *_: None)
        monkeypatch.setattr(os, "chown", lambda *_: None)

    def prepare(machine: Host) -> None:
        def command(run, mode, release, text):
            if " fetch " in text:
                shutil.rmtree(release / "src", ignore_errors=True)
                (release / "src").mkdir()
                (release / "src/code").touch()
            elif "install" in text:
                (release / "venv").mkdir(exist_ok=True)
            elif "inspect_project" in text:
                return ["redoubt-findings:" + json.dumps(release_host.NOTHING_FOUND)]
            return []

        def systemctl(word, *units):
            for unit in units:
                path = machine.base / "units" / unit
                path.unlink(missing_ok=True) if word == "stop" else path.touch()

        monkeypatch.setattr(steps, "STATE", machine.state)
        monkeypatch.setattr(steps, "ask", lambda *_: (200, "200"))
        monkeypatch.setattr(steps, "ended", lambda _: [])
        monkeypatch.setattr(program, "STEADY", 0)
        monkeypatch.setattr(program, "systemctl", systemctl)
        monkeypatch.setattr(program.Run, "command", command)
        audit = types.SimpleNamespace(communicate=lambda timeout: ('{"dependencies": []}', ""), kill=lambda: None)
        monkeypatch.setattr(program.Run, "begin_audit", lambda run, release: audit)

    return prepare


def take(program: types.ModuleType, machine: Host, words: str, token: str) -> dict:
    step, release, more = (words.split(",") + ["", ""])[:3]
    options = argparse.Namespace(step=step, release=release, commit=more, fingerprint=more, who="ada@desk", token=token,
                                 action="rollback" if step == "rollback" else "deploy", app=machine.config / "release.json")
    return program.phase(options, machine.app)


def killed_at(killer: Killer, number: int, work) -> bool:
    """Do the work in a child that dies before its nth change; whether it died."""
    child = os.fork()
    if not child:
        killer.count, killer.last, killer.on = 0, number, True
        failed = True
        try:
            failed = any(answer["failed"] for answer in work())
        finally:
            os._exit(int(failed))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, DEAD)
    return code == DEAD


def every_change(tmp_path: Path, start: int = 1, step: int = 1):
    """A fresh folder for each number."""
    number = start
    while True:
        folder = tmp_path / str(number)
        folder.mkdir()
        yield number, folder
        shutil.rmtree(folder)
        number += step


def test_a_deploy_that_is_killed_at_any_change_is_ended_by_the_next(tmp_path, program, plan_module, killer, simulated) -> None:
    seen = set()
    for number, folder in every_change(tmp_path):
        machine = Host(folder)
        describe(machine)
        old_release(machine)
        simulated(machine)
        plan = ask_plan(machine, plan_module)
        new = plan["release"]
        dead = killed_at(killer, number, lambda: (take(program, machine, words, "one") for words in phases(plan)))  # noqa: B023 (called at once)
        seen.add(whole(machine, new) == new)
        green = machine.root / "colours/green"
        if (green / "fingerprint").exists():
            # A colour that says what it was started with is that, and not half of something else.
            older = (green / "fingerprint").read_text() == "fingerprint of older\n"
            assert (green / "release").resolve().name == ("older" if older else new), number
            assert (green / "env").read_text() == ("env of then\n" if older else "env of today\n"), number
        if dead:
            age(machine)
            rest = phases(ask_plan(machine, plan_module))
            if whole(machine, new) == "old" or machine.running() != {f"notes@{machine.live()[0]}.service"}:
                assert rest, "who sees half of it done knows that there is something to do"
            for words in rest:
                answer = take(program, machine, words, "two")
                assert not answer["failed"], (number, answer)
            results = [result for _, result in machine.results()]
            # Before its first note nobody knows of it; after its last line in the journal it was over, whatever else was left.
            assert results in (["cut off", "ok"], ["ok"], ["ok", "cut off", "ok"], ["ok", "ok"]), (number, results)
        assert phases(ask_plan(machine, plan_module)) == [], number
        finished(machine, new)
        assert (machine.root / "releases" / new / "src/code").exists()
        if not dead:
            break
    assert seen == {False, True}
    assert number > 60, "the killer has lost sight of the program"


def test_a_rollback_that_is_killed_at_any_change_leaves_one_of_the_two(tmp_path, program, plan_module, killer, simulated) -> None:
    for number, folder in every_change(tmp_path):
        machine = Host(folder)
        describe(machine)
        machine.released("old")
        os.utime(machine.home / "releases/old/served", (1, 1))
        machine.serving("bad", "green")
        machine.staged("old", "blue")
        simulated(machine)
        dead = killed_at(killer, number, lambda: [take(program, machine, "rollback", "one")])  # noqa: B023 (called at once)
        if not dead:
            finished(machine, "old")
            break
        age(machine)
        # Who says it again, the same release in mind, gets it, and not the one that was left.
        ended = bool(machine.results()) and not (machine.home / "claim.json").exists()
        if not ended:
            answer = take(program, machine, "rollback", "two")
            assert not answer["failed"], (number, answer)
            assert machine.journal()[-1]["previous"] == "bad"
        assert whole(machine, "bad") == "old", number
        if not ended:
            finished(machine, "old")
        assert json.loads((machine.home / "held.json").read_text())["releases"] == ["bad"], "the next run of the site keeps what serves"
    assert number > 15, "the killer has lost sight of the program"


def test_a_removal_that_is_killed_leaves_no_half_release(tmp_path, program, plan_module, killer, simulated) -> None:
    """The release that a killed run was about to remove is asked for again."""
    for number, folder in every_change(tmp_path):
        machine = Host(folder)
        describe(machine)
        machine.app["kept"] = 1
        simulated(machine)
        again = ask_plan(machine, plan_module)
        machine.released(again["release"])
        os.utime(machine.home / "releases" / again["release"] / "served", (1, 1))
        (machine.root / "releases" / again["release"] / "src/code").touch()
        machine.serving("old")
        machine.released("other")
        dead = killed_at(killer, number, lambda: [program.steps.prune(machine.app, 1) or {"failed": False}])  # noqa: B023 (called at once)
        for words in phases(ask_plan(machine, plan_module)):
            answer = take(program, machine, words, "two")
            assert not answer["failed"], (number, answer)
        assert (machine.root / "releases" / again["release"] / "src/code").exists(), number
        finished(machine, again["release"])
        if not dead:
            break
    assert number > 10, "the killer has lost sight of the program"
