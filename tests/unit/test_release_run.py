"""The phases of a release on a host in a folder: whose turn it is, what is done in which order, and what serves when a step fails."""

from __future__ import annotations

import argparse
import datetime
import fcntl
import gzip
import importlib
import json
import os
import shutil
import socket
import sys
import time
import types
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
release_host = importlib.import_module("release_host")
Host = release_host.Host

TODAY = datetime.date(2030, 5, 17)
MANAGE = "python manage.py"


@pytest.fixture(scope="module")
def program():
    return release_host.load()


@pytest.fixture
def machine(tmp_path, monkeypatch, program) -> Host:
    """A host whose public site is the live colour, as the program's own functions would find it."""
    found = Host(tmp_path)
    steps = program.steps
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setattr(steps, "TOOLS", found.tools)
    monkeypatch.setattr(steps, "STATE", found.state)
    if os.geteuid():
        monkeypatch.setattr(os, "lchown", lambda *_: None)
        monkeypatch.setattr(os, "chown", lambda *_: None)
    found.asked, found.sick = [], set()
    found.public = 200

    def probe(app, colour):
        found.asked.append(colour)
        name = (found.root / "colours" / colour / "release").resolve().name if colour else f"public {found.live()[1]}"
        if name in found.sick:
            raise steps.Refused(f"https://notes.test/ answered 500 of {name}")
        return []

    monkeypatch.setattr(program, "STEADY", 0)
    monkeypatch.setattr(steps, "probe", probe)
    monkeypatch.setattr(steps, "ask", lambda app, colour, path, timeout: (found.public, str(found.public)))
    return found


@pytest.fixture
def phase(program, machine):
    """Take one phase as the module does."""

    def take(step: str, release: str = "", token: str = "one", who: str = "ada@desk", **more: str) -> dict:
        names = {"commit": "c0ffee", "fingerprint": f"fingerprint of {release}", "action": "deploy"} | more
        options = argparse.Namespace(step=step, release=release, who=who, token=token, app=machine.config / "release.json", **names)
        return program.phase(options, machine.app)

    return take


def claim(machine: Host, program, **more: object) -> dict:
    """Leave the note of a run that is between two phases."""
    note = {"token": "another", "who": "bob@den", "action": "deploy", "since": "2030-05-17T10:00:00Z", "boot": program.Run.boot(), "seconds": {"fetch": 1.5},
            "migrations": [], "previous": "old", "step": "build", "at": time.time(), "release": "theirs"} | more
    program.write(machine.home / "claim.json", note)
    return note


# --- One at a time ---------------------------------------------------------------------------------------------------


def test_who_comes_second_is_told_who_is_there(program, machine, phase) -> None:
    claim(machine, program)
    with (machine.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = phase("build", "r1")
        assert answer["failed"]
        assert answer["msg"] == (
            "bob@den is deploying notes since 2030-05-17T10:00:00Z (step 'build'). Wait until that has ended, then run this again."
        )
    assert machine.calls() == []
    assert machine.journal() == []


def test_who_comes_before_the_first_note_is_told_too(machine, phase) -> None:
    machine.home.mkdir()
    with (machine.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert phase("build", "r1")["msg"].startswith("Somebody is deploying notes since just now (step '?').")


def test_the_lock_is_free_after_a_phase(machine, phase) -> None:
    assert not phase("build", "r1")["failed"]
    with (machine.home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_lock_is_held_while_a_command_runs(program, machine, phase, monkeypatch) -> None:
    tried = []

    def place(app, release):
        tried.append(phase("build", "r2", token="two")["msg"])

    monkeypatch.setattr(program.steps, "place", place)
    assert not phase("build", "r1")["failed"]
    assert tried
    assert tried[0].startswith("ada@desk is deploying notes since ")
    assert "(step 'place')" in tried[0]


@pytest.mark.parametrize("age", [0, 30, 59])
def test_between_two_phases_of_a_run_no_other_begins(program, machine, phase, age) -> None:
    note = claim(machine, program, at=time.time() - age)
    answer = phase("build", "r1")
    assert answer["failed"]
    assert answer["msg"].startswith(f"bob@den began to deploy notes at 2030-05-17T10:00:00Z and was heard of {age} seconds ago (step 'build').")
    assert answer["msg"].endswith(f"the next run takes over in {60 - age} seconds.")
    assert json.loads((machine.home / "claim.json").read_text()) == note
    assert (machine.calls(), machine.journal()) == ([], [])


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"at": -61}, id="older than the patience"),
        pytest.param({"at": 3600}, id="from a clock that was ahead"),
        pytest.param({"at": -1, "boot": "another"}, id="from before a reboot"),
    ],
)
def test_a_run_that_was_cut_off_is_journaled_and_taken_over(program, machine, phase, more) -> None:
    claim(machine, program, **more | {"at": time.time() + more["at"]})
    answer = phase("build", "r1")
    assert not answer["failed"]
    assert answer["notes"] == ["Took over from bob@den, whose run of 2030-05-17T10:00:00Z was cut off after step 'build'."]
    (entry,) = machine.journal()
    assert (entry["who"], entry["release"], entry["result"], entry["step"], entry["previous"], entry["seconds"]) == (
        "bob@den", "theirs", "cut off", "build", "old", {"fetch": 1.5},
    )
    mine = json.loads((machine.home / "claim.json").read_text())
    assert (mine["who"], mine["release"], mine["previous"]) == ("ada@desk", "r1", "")
    assert "fetch" in mine["seconds"]
    assert mine["seconds"]["fetch"] < 1.5, "the other run's seconds are its own"


def test_a_run_that_was_cut_off_is_journaled_once(program, machine, phase) -> None:
    claim(machine, program, at=0)
    for _ in range(2):
        assert phase("rollback", action="rollback")["failed"]
    assert machine.results() == [("theirs", "cut off")]


def test_the_same_run_goes_on(program, machine, phase) -> None:
    phase("build", "r1")
    before = json.loads((machine.home / "claim.json").read_text())
    assert before["step"] == "seal"
    answer = phase("migrate", "r1")
    assert answer["notes"] == []
    after = json.loads((machine.home / "claim.json").read_text())
    assert after["since"] == before["since"]
    assert set(before["seconds"]) < set(after["seconds"])
    assert not phase("activate", "r1")["failed"]
    assert not (machine.home / "claim.json").exists()
    (entry,) = machine.journal()
    assert (entry["release"], entry["commit"], entry["version"], entry["result"], entry["previous"], entry["who"], entry["action"]) == (
        "r1", "c0ffee", "v1", "ok", "", "ada@desk", "deploy",
    )
    assert {"fetch", "check", "migrate", "switch", "prune"} <= set(entry["seconds"])


def test_a_note_that_was_cut_short_is_none(machine, phase) -> None:
    machine.home.mkdir()
    (machine.home / "claim.json").write_text("")
    assert not phase("build", "r1")["failed"]


# --- build -----------------------------------------------------------------------------------------------------------


def test_a_build_leaves_room_for_the_database_and_the_logs(program, machine, phase, monkeypatch) -> None:
    steps = program.steps
    code = machine.serving("old") / "src/code"
    code.write_bytes(os.urandom(3 * 2**20))
    free = 0
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free))
    free = steps.RESERVE + 2 * 2**20
    answer = phase("build", "r1")
    assert answer["msg"].startswith(f"Step 'room' of release r1 failed: {machine.root} has 514 MiB left, and a release like the one that serves wants 515: its own 3 and 512 ")
    assert answer["msg"].endswith("Make room there. The release that was live still is.")
    assert machine.calls() == [] and not (machine.root / "releases/r1").exists() and machine.results() == [("r1", "failed")]
    free = steps.RESERVE + 4 * 2**20
    assert not phase("build", "r1")["failed"]
    # The first one of all has nothing to go by.
    (machine.root / "live").unlink()
    free = steps.RESERVE - 1
    assert phase("build", "r2")["failed"]
    free = steps.RESERVE
    assert not phase("build", "r2")["failed"]


def test_a_build_takes_each_step_once(machine, phase) -> None:
    machine.app["build"] = ["npm ci", "{manage} compress"]
    answer = phase("build", "r1")
    assert (answer["failed"], answer["changed"]) == (False, True)
    assert machine.calls() == [
        "notes-run build r1 release release.json fetch r1 c0ffee",
        "notes-run build r1 release release.json install r1",
        # Commands of the project get its settings only where they need them.
        "notes-run build r1 npm ci",
        f"notes-run settings r1 {MANAGE} compress",
        f"notes-run settings r1 {MANAGE} collectstatic --noinput",
    ]
    manifest = json.loads((machine.root / "releases/r1/manifest.json").read_text())
    assert (manifest["id"], manifest["commit"], manifest["version"]) == ("r1", "c0ffee", "v1")
    machine.forget_calls()
    answer = phase("build", "r1")
    assert (machine.calls(), answer["changed"]) == ([], False)


def test_a_commit_is_one_word_of_the_command(machine, phase) -> None:
    phase("build", "r1", commit="1.0; reboot")
    assert machine.calls()[0] == "notes-run build r1 release release.json fetch r1 '1.0; reboot'"


def test_static_files_are_collected_only_where_it_is_said(machine, phase) -> None:
    machine.app["collectstatic"] = False
    phase("build", "r1")
    assert not [line for line in machine.calls() if "collectstatic" in line]


def test_each_run_leaves_a_line_in_the_hosts_log_without_what_was_printed(program, machine, phase, monkeypatch, tmp_path) -> None:
    machine.serving("old")
    machine.app["build"] = ["npm ci"]
    machine.rule("npm ci", code=7, err="hunter2")
    monkeypatch.setattr(program, "SYSTEM_LOG", str(tmp_path / "log"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(program.SYSTEM_LOG)
        log.settimeout(10)
        phase("build", "r1")
        said = log.recv(1 << 16).decode()
        machine.rule("npm ci")
        phase("build", "r1", token="two")
        machine.released("r1", served=False)
        phase("activate", "r1", token="two")
        then = log.recv(1 << 16).decode()
    assert "hunter2" not in said
    fields = dict(line.split("=", 1) for line in said.splitlines())
    assert (fields["SYSLOG_IDENTIFIER"], fields["PRIORITY"]) == ("redoubt-release", "4")
    line = json.loads(fields["MESSAGE"])
    assert {name: line[name] for name in ("app", "who", "action", "release", "previous", "result", "step")} == {
        "app": "notes", "who": "ada@desk", "action": "deploy", "release": "r1", "previous": "old", "result": "failed", "step": "build"}
    assert json.loads(dict(line.split("=", 1) for line in then.splitlines())["MESSAGE"])["result"] == "ok"
    # Without a log there is no line, and the run ends as it would.
    assert not phase("rollback", "old", token="three")["failed"]


def test_a_build_goes_on_where_it_failed(machine, phase) -> None:
    machine.serving("old")
    machine.app["build"] = ["npm ci"]
    machine.rule("npm ci", code=7, out="much", err="no such package")
    answer = phase("build", "r1")
    assert answer["failed"]
    assert answer["msg"] == (
        "Step 'build' of release r1 failed: `npm ci` exited with 7: no such package. Check app_build, app_collectstatic and app_env. "
        "The release that was live still is."
    )
    assert answer["output"][-2:] == ["much", "no such package"]
    (entry,) = machine.journal()
    assert (entry["release"], entry["result"], entry["step"], entry["previous"]) == ("r1", "failed", "build", "old")
    assert entry["reason"] == "`npm ci` exited with 7: no such package"
    assert not (machine.home / "claim.json").exists(), "who mends it does not have to wait"
    assert not (machine.root / "releases/r1/manifest.json").exists()
    assert machine.live() == ("blue", "old")
    machine.rule("npm ci")
    machine.forget_calls()
    assert not phase("build", "r1", token="two")["failed"]
    assert machine.calls() == ["notes-run build r1 npm ci", f"notes-run settings r1 {MANAGE} collectstatic --noinput"]


def test_a_command_that_prints_nothing_is_said_to(machine, phase) -> None:
    machine.rule("fetch", code=3)
    assert "exited with 3: it printed nothing. Check app_repo and app_version. There was none before it" in phase("build", "r1")["msg"]


def test_what_was_done_for_a_pruned_release_is_done_again(machine, phase) -> None:
    first = phase("build", "r1") and machine.calls()
    phase("migrate", "r1")
    for path in sorted((machine.root / "releases/r1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (machine.root / "releases/r1").rmdir()
    machine.forget_calls()
    phase("build", "r1")
    assert machine.calls() == first
    assert not (machine.home / "releases/r1/migrate").exists()


def test_what_is_left_of_a_release_is_not_built_upon(machine, phase) -> None:
    phase("build", "r1")
    first = machine.calls()
    machine.forget_calls()
    # A removal that was cut off: what is remembered goes first.
    machine.forget_state("r1")
    (machine.root / "releases/r1/src").mkdir()
    (machine.root / "releases/r1/src/half").touch()
    phase("build", "r1")
    assert machine.calls() == first
    assert not (machine.root / "releases/r1/src/half").exists()


def test_an_audit_goes_on_beside_the_build_and_is_told_at_its_end(machine, phase) -> None:
    machine.audit(json.dumps({"dependencies": [FOUND]}), sleep=0.3, code=1)
    answer = phase("build", "r1")
    assert answer["notes"] == ["Known vulnerability: django 5.2 PYSEC-1, mended in 5.2.1, 6.0"]
    assert not answer["failed"]


def test_an_audit_may_refuse(machine, phase) -> None:
    machine.app["audit"]["refuse"] = True
    machine.audit(json.dumps({"dependencies": [FOUND]}))
    answer = phase("build", "r1")
    assert answer["msg"].startswith("Step 'audit' of release r1 failed: known vulnerabilities: django 5.2 PYSEC-1, mended in 5.2.1, 6.0. Update the packages")
    # Waived or mended, the same release goes on.
    machine.app["audit"]["waivers"] = [{"id": "CVE-1", "until": "2999-01-01"}]
    assert not phase("build", "r1")["failed"]


def test_who_cannot_be_asked_about_the_packages_stops_nothing(machine, phase) -> None:
    machine.app["audit"]["refuse"] = True
    machine.audit("", err="Name or service not known", code=1)
    answer = phase("build", "r1")
    assert answer["notes"] == ["The packages were not audited, https://osv.test could not be asked: Name or service not known"]
    assert not answer["failed"]


def test_an_audit_ends_with_the_build_that_failed(program, machine, phase, monkeypatch) -> None:
    machine.audit("", sleep=30)
    begun = []
    begin = program.Run.begin_audit
    monkeypatch.setattr(program.Run, "begin_audit", lambda run, release: begun.append(begin(run, release)) or begun[-1])
    machine.rule("collectstatic", code=1)
    assert phase("build", "r1")["failed"]
    assert begun[0].wait(5) == -9


# --- What is known of the packages -----------------------------------------------------------------------------------

FOUND = {"name": "django", "version": "5.2", "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-1", "GHSA-1"], "fix_versions": ["5.2.1", "6.0"]}]}
SAID = "django 5.2 PYSEC-1, mended in 5.2.1, 6.0"


@pytest.mark.parametrize(
    ("waivers", "found"),
    [
        pytest.param([], [SAID], id="none"),
        pytest.param([("PYSEC-1", "2030-05-18")], [], id="by its name"),
        pytest.param([("GHSA-1", "2030-05-18")], [], id="by another name"),
        pytest.param([("CVE-2", "2030-05-18")], [SAID], id="of another"),
        pytest.param([("CVE-1", "2030-05-17")], [], id="until today"),
        pytest.param([("CVE-1", "2030-05-16")], [SAID + " (its waiver ended on 2030-05-16)"], id="until yesterday"),
        pytest.param([("CVE-1", "2030-05-16"), ("GHSA-1", "2030-06-01")], [], id="one ended, one not"),
        pytest.param([("CVE-1", "2030-06-01"), ("GHSA-1", "2030-05-16")], [], id="one not, one ended"),
    ],
)
def test_a_waiver_counts_to_its_last_day(program, waivers, found) -> None:
    listed = [{"id": name, "until": until, "reason": "x"} for name, until in waivers]
    assert program.judge_audit(json.dumps({"dependencies": [FOUND]}), "", listed, TODAY) == (found, "")


def test_what_is_not_mended_is_told(program) -> None:
    rows = [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "version": "2", "vulns": [{"id": "CVE-3"}]}, {"name": "c", "skip_reason": "not there"}]
    assert program.judge_audit("Found 1\n" + json.dumps({"dependencies": rows}), "", [], TODAY) == (["b 2 CVE-3, mended in no version"], "")


@pytest.mark.parametrize(
    ("out", "err", "reason"),
    [
        pytest.param('{"dependencies": [{"name": "a", "skip_reason": "HTTP 503"}]}', "", "HTTP 503", id="all skipped"),
        pytest.param('{"dependencies": [{"name": "a"}]}', "", "no answer", id="all skipped without a reason"),
        pytest.param("", "", "no answer", id="nothing"),
        pytest.param("no JSON", "one\nConnection refused\n\n`pip-audit` exited with 1\n", "Connection refused", id="its own last line is not why"),
        pytest.param('{"dependencies": [', "", "no answer", id="cut short"),
        pytest.param('{"else": 1}', "x" * 300, "x" * 200, id="another answer, said at length"),
    ],
)
def test_no_answer_about_the_packages_is_told_as_such(program, out, err, reason) -> None:
    assert program.judge_audit(out, err, [], TODAY) == ([], reason)


def test_no_packages_are_sound(program) -> None:
    assert program.judge_audit('{"dependencies": []}', "", [], TODAY) == ([], "")


# --- migrate ---------------------------------------------------------------------------------------------------------


def test_migrations_run_once_with_the_hooks_before_and_the_setup_after(machine, phase) -> None:
    machine.app |= {"hooks": {"before_migrate": ["./announce", "{manage} lock"], "after_switch": ["./tell"]}, "migrate": ["migrate --noinput", "{manage} sync --all"],
                 "setup": ["loaddata first"]}
    machine.released("r1", served=False)
    for mark in ("migrate", "before_migrate"):
        (machine.home / "releases/r1" / mark).unlink()
    (machine.home / "setup").unlink()
    assert not phase("migrate", "r1")["failed"]
    check, *rest = machine.calls()
    assert check == "notes-run migrate r1 python -B inspect_project.py"
    assert rest == [
        "notes-run runtime r1 ./announce",
        f"notes-run runtime r1 {MANAGE} lock",
        f"notes-run migrate r1 {MANAGE} migrate --noinput",
        f"notes-run migrate r1 {MANAGE} sync --all",
        f"notes-run runtime r1 {MANAGE} loaddata first",
    ]
    machine.forget_calls()
    assert not phase("migrate", "r1")["changed"]
    assert machine.calls() == []
    # Another release migrates again, and is not set up again.
    machine.released("r2", served=False)
    (machine.home / "releases/r2/migrate").unlink()
    phase("migrate", "r2")
    assert [line for line in machine.calls() if "migrate --noinput" in line]
    assert not [line for line in machine.calls() if "loaddata" in line]


def test_of_several_hosts_one_migrates_and_the_others_take_that_over(program, machine, phase) -> None:
    machine.app |= {"setup": ["loaddata first"], "several": True}
    fresh(machine)
    (machine.home / "setup").unlink()
    assert not phase("check", "r1")["failed"]
    assert machine.calls() == ["notes-run migrate r1 python -B inspect_project.py --several"]
    machine.forget_calls()
    # Between the two, other hosts have checked; it is the same run, whose code has been looked at.
    assert not phase("migrate", "r1")["failed"]
    assert machine.calls() == [f"notes-run migrate r1 {MANAGE} migrate --noinput", f"notes-run runtime r1 {MANAGE} loaddata first"]


def test_who_takes_over_runs_nothing_and_journals_no_migration(program, machine, phase) -> None:
    machine.app |= {"setup": ["loaddata first"], "several": True}
    fresh(machine)
    (machine.home / "setup").unlink()
    machine.findings(plan={"plan": [{"name": "notes.0002", "operations": [], "takes_away": [], "breaks_older": ["adds a column"]}], "known": ["notes.0002"],
                           "applied": ["notes.0001"], "first": False})
    phase("check", "r1")
    machine.forget_calls()
    assert not phase("adopt", "r1")["failed"]
    assert machine.calls() == []
    assert (machine.home / "setup").exists() and (machine.home / "releases/r1/migrate").exists()
    # What the migration does to older code is known here too.
    assert program.read(machine.home / "migrations.json", {}) == {"notes.0002": "adds a column"}
    assert not phase("activate", "r1")["failed"]
    assert machine.journal()[-1]["migrations"] == []


def test_the_release_before_is_told(program, machine, phase) -> None:
    machine.released("r1")
    machine.released("r2", served=False)
    phase("activate", "r2")
    found = program.listing(machine.app)
    assert (found["live"], found["previous"], found["earlier"]) == ("r2", "r1", ["r1"])


def fresh(machine: Host, name: str = "r1") -> None:
    """A built release whose migrations have not run."""
    machine.released(name, served=False)
    for mark in ("migrate", "before_migrate"):
        (machine.home / "releases" / name / mark).unlink()


def test_a_migration_that_failed_is_run_again_and_its_hooks_are_not(machine, phase) -> None:
    machine.app["hooks"] = {"before_migrate": ["./announce"]}
    fresh(machine)
    machine.rule("migrate --noinput", code=1, err="lock timeout")
    answer = phase("migrate", "r1")
    assert answer["msg"].startswith(f"Step 'migrate' of release r1 failed: `{MANAGE} migrate --noinput` exited with 1: lock timeout. Check app_migrate")
    machine.rule("migrate --noinput")
    machine.forget_calls()
    assert not phase("migrate", "r1")["failed"]
    assert [line.partition(" r1 ")[2] for line in machine.calls()] == ["python -B inspect_project.py", f"{MANAGE} migrate --noinput"]


def test_a_hook_that_fails_stops_the_migration(machine, phase) -> None:
    machine.app["hooks"] = {"before_migrate": ["./announce"]}
    fresh(machine)
    machine.rule("./announce", code=1)
    assert "Step 'before_migrate' of release r1 failed" in phase("migrate", "r1")["msg"]
    assert not [line for line in machine.calls() if "migrate --noinput" in line]


LEVELS = ["INFO", "WARNING", "ERROR", "CRITICAL"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bar", LEVELS)
def test_a_finding_stops_from_the_level_that_is_set(machine, phase, level, bar) -> None:
    machine.app["check_fail_level"] = bar
    fresh(machine)
    machine.findings(checks=[{"level": level, "number": 20 + 10 * LEVELS.index(level), "id": "x.1", "text": "bad"}])
    answer = phase("migrate", "r1")
    stops = LEVELS.index(level) >= LEVELS.index(bar)
    assert answer["failed"] is stops
    if stops:
        assert answer["msg"].startswith(f"Step 'check' of release r1 failed: `check --deploy` says {level} x.1: bad. Mend it in the project, or lower app_check_fail_level.")
    else:
        assert answer["notes"] == [f"{level} x.1: bad"]
    assert bool([line for line in machine.calls() if "migrate --noinput" in line]) is not stops


def test_only_the_findings_that_stop_are_the_reason(machine, phase) -> None:
    fresh(machine)
    checks = [{"level": "WARNING", "number": 30, "id": "w", "text": "mild"}, *({"level": "ERROR", "number": 40, "id": f"e{n}", "text": "bad"} for n in range(12))]
    machine.findings(checks=checks)
    said = phase("migrate", "r1")["msg"]
    assert "mild" not in said
    assert "ERROR e9: bad …" in said
    assert "e10" not in said


def test_what_does_not_stop_is_told(machine, phase) -> None:
    fresh(machine)
    machine.findings(drift=[f"notes: Add field f{n}" for n in range(25)], deprecations=["old way (x.py)"])
    notes = phase("migrate", "r1")["notes"]
    assert notes[0] == "Model change without a migration: notes: Add field f0"
    assert len([text for text in notes if text.startswith("Model change")]) == 20
    assert notes[-1] == "Deprecated: old way (x.py)"


def test_what_could_not_be_looked_at_is_told(machine, phase) -> None:
    fresh(machine)
    machine.findings(checks=None, drift=None, plan=None, broken={"checks": "ValueError: a", "drift": "ValueError: b", "plan": "ValueError: c"})
    answer = phase("migrate", "r1")
    assert answer["notes"] == [
        "`check --deploy` could not be done: ValueError: a",
        "`makemigrations --check` could not be done: ValueError: b",
        "`migrate --plan` could not be done: ValueError: c",
    ]
    assert not answer["failed"], "nothing serves that could lose anything"


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"out": "hello", "err": "ImportError: no x", "code": 1}, "ImportError: no x"),
        ({"out": "bye"}, "the project ended before its checks had run: bye"),
        ({}, "the project ended before its checks had run: it printed nothing"),
    ],
)
def test_a_project_that_cannot_be_read_is_a_sentence(machine, phase, what, said) -> None:
    fresh(machine)
    machine.rule("inspect_project.py", **what)
    answer = phase("migrate", "r1")
    assert answer["msg"].startswith("Step 'check' of release r1 failed: ")
    assert said in answer["msg"]


def test_the_findings_are_no_output(machine, phase) -> None:
    fresh(machine)
    assert not [line for line in phase("migrate", "r1")["output"] if "redoubt-findings" in line]


DROP = {"name": "notes.0002", "operations": ["Remove field body"], "takes_away": ["drops the column Note.body"], "breaks_older": ["drops the column Note.body"]}
ADD = {"name": "notes.0003", "operations": ["Add field more"], "breaks_older": ["adds the column Note.more"]}


def test_what_takes_something_from_the_release_that_serves_is_stopped(machine, phase) -> None:
    machine.serving("old")
    fresh(machine)
    machine.plan(DROP, ADD)
    answer = phase("migrate", "r1")
    assert answer["failed"]
    assert "notes.0002 drops the column Note.body. The release that serves may need it" in answer["msg"]
    assert "-e app_allow_destructive=true" in answer["msg"]
    assert "notes.0003 adds" not in answer["msg"]
    assert answer["notes"] == [
        "Migration notes.0002: Remove field body",
        "Migration notes.0003: Add field more",
        "Until the old release has stopped, and after a rollback: notes.0003 adds the column Note.more",
    ]
    assert not [line for line in machine.calls() if "migrate --noinput" in line]
    assert not (machine.home / "migrations.json").exists(), "what was not run has changed nothing"
    machine.app["allow_destructive"] = True
    assert not phase("migrate", "r1")["failed"]
    assert json.loads((machine.home / "migrations.json").read_text()) == {"notes.0002": "drops the column Note.body", "notes.0003": "adds the column Note.more"}
    assert json.loads((machine.home / "claim.json").read_text())["migrations"] == ["notes.0002", "notes.0003"]


def test_what_only_older_code_minds_is_told(machine, phase) -> None:
    machine.serving("old")
    fresh(machine)
    machine.plan(ADD, {"name": "notes.0004"}, known=("notes.0001", "notes.0003", "notes.0004"))
    answer = phase("migrate", "r1")
    assert not answer["failed"]
    assert answer["notes"][-1].startswith("Until the old release has stopped, and after a rollback: notes.0003 adds")
    assert "Migration notes.0004: no operation" in answer["notes"]
    assert json.loads((machine.home / "releases/r1/known.json").read_text()) == ["notes.0001", "notes.0003", "notes.0004"]
    assert json.loads((machine.home / "migrations.json").read_text()) == {"notes.0003": "adds the column Note.more"}


def test_migrations_that_cannot_be_read_are_stopped_while_a_release_serves(machine, phase) -> None:
    machine.serving("old")
    fresh(machine)
    machine.findings(plan=None, broken={"plan": "ValueError: c"})
    assert "what the migrations take away cannot be told" in phase("migrate", "r1")["msg"]
    machine.app["allow_destructive"] = True
    assert not phase("migrate", "r1")["failed"]


@pytest.mark.parametrize("first", [True, False])
def test_the_first_deploy_is_not_judged(machine, phase, first) -> None:
    if first:
        # Somebody restored an empty database under a release that serves.
        machine.serving("old")
    fresh(machine)
    machine.plan(DROP, first=first, applied=())
    assert not phase("migrate", "r1")["failed"]
    if first:
        assert json.loads((machine.home / "migrations.json").read_text()) == {}


def test_a_migration_that_never_came_to_pass_is_forgotten(machine, phase) -> None:
    machine.serving("old")
    fresh(machine)
    machine.plan(ADD, known=("notes.0001", "notes.0003"))
    machine.rule("migrate --noinput", code=1)
    assert phase("migrate", "r1")["failed"]
    assert "notes.0003" in (machine.home / "migrations.json").read_text()
    # The developers take it back.
    machine.rule("migrate --noinput")
    fresh(machine, "r2")
    machine.plan(known=("notes.0001",), applied=("notes.0001",))
    assert not phase("migrate", "r2")["failed"]
    assert not phase("activate", "r2")["failed"]
    # And one that did is not.
    fresh(machine, "r3")
    machine.plan(ADD, known=("notes.0001", "notes.0003"))
    phase("migrate", "r3")
    fresh(machine, "r4")
    machine.plan(known=("notes.0001",), applied=("notes.0001", "notes.0003"))
    assert "cannot run on the tables as they are now: notes.0003 adds" in phase("migrate", "r4")["msg"]


# --- activate --------------------------------------------------------------------------------------------------------


def systemd(machine: Host) -> list[str]:
    return [line.removeprefix("systemctl ") for line in machine.calls() if line.startswith("systemctl ")]


def test_the_first_release_is_put_in_service(machine, phase) -> None:
    machine.released("r1", served=False)
    answer = phase("activate", "r1")
    assert not answer["failed"], answer
    assert machine.live() == ("blue", "r1")
    assert systemd(machine) == ["daemon-reload", "start notes@blue.socket", "restart notes@blue.service"]
    assert machine.asked == ["blue"], "nginx has nobody to ask before"
    assert (machine.home / "releases/r1/served").exists()
    assert not (machine.home / "activating.json").exists()
    assert machine.results() == [("r1", "ok")]
    assert machine.running() == {"notes@blue.service"}


def test_the_idle_colour_is_started_probed_switched_to_and_the_other_stopped(machine, phase) -> None:
    machine.app |= {"processes": ["notes-worker.service", "notes-beat.service"], "hooks": {"after_switch": ["./tell", "{manage} warm"]}}
    machine.serving("old")
    machine.released("r1", served=False)
    answer = phase("activate", "r1", fingerprint="f00")
    assert not answer["failed"], answer
    assert machine.calls("systemctl show") == [
        "systemctl daemon-reload",
        "systemctl start notes@green.socket",
        "systemctl restart notes@green.service",
        "notes-run runtime r1 ./tell",
        f"notes-run runtime r1 {MANAGE} warm",
        "systemctl restart notes-worker.service notes-beat.service",
        "systemctl stop notes@blue.service",
    ]
    assert machine.asked == ["green", ""]
    assert machine.live() == ("green", "r1")
    green = machine.root / "colours/green"
    assert {name: (green / name).read_text() for name in ("env", "gunicorn.conf.py", "fingerprint")} == {
        "env": "env of today\n", "gunicorn.conf.py": "gunicorn.conf.py of today\n", "fingerprint": "f00\n",
    }
    assert (green / "env").stat().st_mode & 0o777 == 0o600
    assert (green / "gunicorn.conf.py").stat().st_mode & 0o777 == 0o644
    assert os.readlink(green / "sock") == f"{machine.app['run']}/green.sock"
    assert os.readlink(green / "release") == "../../releases/r1"
    assert answer["notes"][-1].startswith("Release r1 serves, after ")
    (entry,) = machine.journal()
    assert (entry["previous"], entry["result"]) == ("old", "ok")
    assert list(entry["seconds"]) == [
        "stage", "start", "probe", "switch", "public probe", "after_switch", "processes", "drain", "prune",
    ]
    # And back to the other one.
    machine.released("r2", served=False)
    phase("activate", "r2")
    assert machine.live() == ("blue", "r2")
    assert machine.running() == {"notes@blue.service"}


def test_a_public_site_that_was_gone_before_is_not_held_against_the_release(machine, phase) -> None:
    machine.serving("old")
    machine.released("r1", served=False)
    machine.public = 0
    machine.sick = {"public r1"}
    answer = phase("activate", "r1")
    assert not answer["failed"]
    assert machine.asked == ["green"]
    assert "nginx did not answer before the switch, so the public site was not asked after it either." in answer["notes"]


def test_a_public_site_that_was_an_error_before_must_not_be_one_after(machine, phase) -> None:
    machine.serving("old")
    machine.released("r1", served=False)
    machine.public = 502
    machine.sick = {"public r1"}
    assert phase("activate", "r1")["failed"]


def break_at(machine: Host, program, monkeypatch, step: str, idle: str) -> None:
    """Have one step of an activation fail."""
    if step == "stage":
        (machine.config / "env").unlink()
    elif step == "start":
        machine.rule(f"systemctl restart notes@{idle}.service", code=1, err="Job failed.\nSee journalctl")
    elif step == "socket":
        machine.rule(f"systemctl start notes@{idle}.socket", code=1, err="Job failed.")
    elif step == "probe":
        machine.sick = {"r1"}
    elif step == "switch":
        switch = program.steps.switch

        def broken(app, colour):
            switch(app, colour)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(program.steps, "switch", broken)
    elif step == "public probe":
        machine.sick = {"public r1"}
    elif step == "processes":
        machine.rule("systemctl restart notes-worker.service", code=1, err="Unit is masked.")
    else:
        machine.rule("./tell", code=1, err="nobody listens")


STEPS = {"stage": "env", "start": "Job failed", "probe": "answered 500 of r1", "switch": "No space left", "public probe": "answered 500 of public r1",
         "after_switch": "nobody listens", "processes": "Unit is masked"}


# Before the first release there is no public site to ask.
@pytest.mark.parametrize(("step", "serving"), [(step, serving) for step in STEPS for serving in (True, False) if serving or step != "public probe"])
def test_a_step_that_fails_leaves_the_old_release(program, machine, phase, monkeypatch, step, serving) -> None:
    machine.app |= {"hooks": {"after_switch": ["./tell"]}, "processes": ["notes-worker.service"]}
    if serving:
        machine.serving("old")
    machine.released("r1", served=False)
    new = "green" if serving else "blue"
    break_at(machine, program, monkeypatch, step, new)
    answer = phase("activate", "r1")
    assert answer["failed"]
    assert answer["msg"].startswith(f"Step {step!r} of release r1 failed: ")
    assert STEPS[step] in answer["msg"]
    if serving:
        assert answer["msg"].endswith("The release that was live still is.")
        assert machine.live() == ("blue", "old")
        assert machine.running() == {"notes@blue.service"}, "the new one is stopped"
    else:
        assert answer["msg"].endswith("There was none before it, so nothing serves.")
        assert machine.live() == ("", "")
        assert machine.running() == set()
    assert systemd(machine)[-1] == f"stop notes@{new}.service"
    # What may have visitors ends in peace.
    assert (systemd(machine)[-2] == f"kill --signal=SIGKILL notes@{new}.service") is (step in ("stage", "start", "probe"))
    assert "what the processes said" in answer["output"]
    assert f"journalctl --no-pager --output=cat --lines=60 --unit=notes@{new}.service" in machine.calls()
    assert not (machine.home / "releases/r1/served").exists(), "only what has served can be gone back to"
    assert not (machine.home / "activating.json").exists()
    assert not (machine.root / "colours" / new / "fingerprint").exists()
    (entry,) = machine.journal()
    assert (entry["result"], entry["step"], entry["release"]) == ("failed", step, "r1")


@pytest.mark.parametrize("serving", [True, False])
def test_a_process_that_ends_as_soon_as_it_starts_leaves_the_old_release(machine, phase, serving) -> None:
    machine.app["processes"] = ["notes-asgi.service", "notes-worker.service"]
    if serving:
        machine.serving("old")
    machine.released("r1", served=False)
    machine.rule("systemctl show --property=ActiveState --value notes-asgi.service notes-worker.service", out="active\n\nactivating")
    answer = phase("activate", "r1")
    said = "Step 'processes' of release r1 failed: notes-worker.service ended as soon as it was started. Mend its command in app_processes, or what it needs; "
    assert answer["msg"].startswith(said) and "what the processes said" in answer["output"]
    assert "journalctl --no-pager --output=cat --lines=60 --unit=notes-worker.service" in machine.calls()
    assert (machine.live(), machine.running()) == ((("blue", "old"), {"notes@blue.service"}) if serving else (("", ""), set()))
    # They run the code that is live: with the old release again, or not at all.
    again = "systemctl restart notes-asgi.service notes-worker.service"
    assert machine.calls().count(again) == (2 if serving else 1)
    assert ("systemctl stop notes-asgi.service notes-worker.service" in machine.calls()) is not serving
    assert not (machine.home / "activating.json").exists() and machine.results() == [("r1", "failed")]


def test_a_process_that_nobody_knows_of_is_not_taken_to_run(machine, phase) -> None:
    machine.app["processes"] = ["notes-worker.service"]
    machine.serving("old")
    machine.released("r1", served=False)
    machine.rule("--property=ActiveState", code=1, err="Failed to connect to bus")
    answer = phase("activate", "r1")
    assert "systemctl does not say how notes-worker.service fare: Failed to connect to bus" in answer["msg"] and machine.live() == ("blue", "old")


def test_a_process_that_runs_is_watched_for_a_while(program, machine, phase, monkeypatch) -> None:
    machine.app["processes"] = ["notes-worker.service"]
    machine.released("r1", served=False)
    monkeypatch.setattr(program, "STEADY", 20)
    looks = iter([[], [], ["notes-worker.service"]])
    monkeypatch.setattr(program.steps, "ended", lambda units: next(looks))
    assert "notes-worker.service ended as soon" in phase("activate", "r1")["msg"]


def test_who_starts_in_no_time_is_watched_as_long_as_others(program, machine, phase, monkeypatch) -> None:
    monkeypatch.setattr(program, "STEADY", 0.6)
    machine.app |= {"processes": ["notes-worker.service"], "probe": machine.app["probe"] | {"timeout": 0}}
    machine.released("r1", served=False)
    began = time.monotonic()
    assert not phase("activate", "r1")["failed"] and time.monotonic() - began >= 0.6


def test_a_process_that_is_routed_to_must_listen(machine, phase) -> None:
    path = machine.base / "run/asgi"
    machine.app |= {"processes": ["notes-asgi.service"], "listening": {"notes-asgi.service": str(path)}, "probe": machine.app["probe"] | {"timeout": 1}}
    machine.rule("systemctl show --property=ActiveState", out="active")
    machine.serving("old")
    machine.released("r1", served=False)
    answer = phase("activate", "r1")
    assert f"notes-asgi.service did not listen on {path} within 1 seconds (app_start_timeout)" in answer["msg"] and machine.live() == ("blue", "old")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        # The file alone is nobody.
        assert phase("activate", "r1")["failed"]
        server.listen()
        assert not phase("activate", "r1")["failed"] and machine.live() == ("green", "r1")


def test_a_socket_that_cannot_be_started_is_a_failed_start(program, machine, phase, monkeypatch) -> None:
    machine.serving("old")
    machine.released("r1", served=False)
    break_at(machine, program, monkeypatch, "socket", "green")
    assert "Step 'start' of release r1 failed: `systemctl start notes@green.socket` failed: Job failed. " in phase("activate", "r1")["msg"]
    assert "systemctl restart notes@green.service" not in machine.calls()


def test_an_interrupted_activation_goes_back_too(program, machine, phase, monkeypatch) -> None:
    machine.serving("old")
    machine.released("r1", served=False)

    def interrupt(app, colour):
        if not colour:
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(program.steps, "probe", interrupt)
    with pytest.raises(KeyboardInterrupt):
        phase("activate", "r1")
    assert machine.live() == ("blue", "old")
    assert machine.running() == {"notes@blue.service"}


def test_what_fails_after_the_switch_has_proved_itself_leaves_the_new_release(machine, phase) -> None:
    machine.serving("old")
    machine.released("r1", served=False)
    machine.rule("systemctl stop notes@blue.service", code=1, err="no")
    answer = phase("activate", "r1")
    assert answer["failed"]
    assert answer["msg"].endswith(" r1 serves.")
    assert machine.live() == ("green", "r1")
    assert (machine.home / "activating.json").exists(), "the next run has something to do"


def test_what_another_run_left_undone_stays_to_be_done(machine, phase) -> None:
    machine.serving("old")
    machine.released("r1", served=False)
    (machine.home / "activating.json").write_text("{}")
    machine.sick = {"r1"}
    assert phase("activate", "r1")["failed"]
    assert (machine.home / "activating.json").exists()
    machine.sick = set()
    assert not phase("activate", "r1")["failed"]
    assert not (machine.home / "activating.json").exists()


def test_releases_beyond_those_kept_are_removed(machine, phase) -> None:
    machine.app["kept"] = 2
    machine.serving("old")
    for age, name in enumerate(["a", "b"]):
        machine.released(name)
        os.utime(machine.home / "releases" / name / "served", (age, age))
    machine.released("r1", served=False)
    assert not phase("activate", "r1")["failed"]
    assert sorted(path.name for path in (machine.root / "releases").iterdir()) == ["old", "r1"]


def test_code_that_does_not_fit_the_tables_is_not_put_in_service(program, machine, phase) -> None:
    machine.serving("old")
    machine.released("r1", served=False)
    program.write(machine.home / "migrations.json", {"notes.0001": "x", "notes.0002": "drops y"})
    claim(machine, program, token="one", previous="old", release="r1")
    answer = phase("activate", "r1")
    assert answer["msg"].startswith("Release r1 cannot run on the tables as they are now: notes.0002 drops y. Nothing undoes migrations.")
    assert machine.calls() == []
    # The run is over, and the next one need not wait for it.
    assert machine.results() == [("r1", "failed")]
    assert not (machine.home / "claim.json").exists()
    machine.app["allow_destructive"] = True
    assert not phase("activate", "r1", token="two")["failed"]


# --- rollback --------------------------------------------------------------------------------------------------------


@pytest.fixture
def history(machine) -> Host:
    """Three releases that have served, the last of which does; the one before it is still staged as it served."""
    for age, name in enumerate(["a", "b", "c"]):
        machine.released(name)
        os.utime(machine.home / "releases" / name / "served", (age + 10, age + 10))
    machine.released("never", served=False)
    machine.serving("c")
    machine.staged("b", "green", "env of b\n")
    return machine


def test_the_previous_release_is_started_as_it_was(history, phase) -> None:
    answer = phase("rollback", action="rollback")
    assert not answer["failed"], answer
    assert history.live() == ("green", "b")
    green = history.root / "colours/green"
    assert ((green / "env").read_text(), (green / "fingerprint").read_text()) == ("env of b\n", "fingerprint of b\n")
    assert systemd(history) == ["daemon-reload", "start notes@green.socket", "restart notes@green.service", "stop notes@blue.service"]
    held = json.loads((history.home / "held.json").read_text())
    assert (held["releases"], held["who"]) == (["c"], "ada@desk")
    (entry,) = history.journal()
    assert (entry["action"], entry["release"], entry["commit"], entry["version"], entry["previous"]) == (
        "rollback", "b", "commit of b", "version of b", "c",
    )
    assert "stage" not in entry["seconds"]
    # It has served last now.
    assert (history.home / "releases/b/served").stat().st_mtime > time.time() - 60


def test_a_named_release_is_staged_anew(history, phase) -> None:
    assert not phase("rollback", "a")["failed"]
    assert history.live() == ("green", "a")
    green = history.root / "colours/green"
    assert ((green / "env").read_text(), (green / "fingerprint").read_text()) == ("env of today\n", "rollback a\n")


@pytest.mark.parametrize("today", ['SECRET_KEY="new"\nREDOUBT_SECRET_KEY_FALLBACKS="[old]"\n', 'PGUSER="notes_2"\n'])
def test_what_was_replaced_since_is_not_used_again(history, phase, today) -> None:
    (history.config / "env").write_text(today)
    assert not phase("rollback")["failed"]
    assert history.live() == ("green", "b")
    assert (history.root / "colours/green/env").read_text() == (history.config / "env").read_text()


def test_a_colour_that_a_failed_start_left_is_not_as_it_was(history, phase) -> None:
    """The previous release was deployed again with an environment it cannot start with."""
    (history.config / "env").write_text("broken\n")
    history.sick = {"b"}
    assert phase("activate", "b")["failed"]
    (history.config / "env").write_text("env of today\n")
    history.sick = set()
    assert not phase("rollback")["failed"]
    assert (history.root / "colours/green/env").read_text() == "env of today\n"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("c", "Release c is the one that is live."),
        ("x", "Release x has not been live or is no longer on the host; there are: b, a. To serve older code, set app_version"),
        ("never", "Release never has not been live or is no longer on the host; there are: b, a."),
    ],
)
def test_what_cannot_be_gone_back_to_is_a_sentence(history, phase, wanted, said) -> None:
    answer = phase("rollback", wanted)
    assert answer["failed"]
    assert answer["msg"].startswith(said)
    assert history.calls() == []
    assert history.live() == ("blue", "c")
    assert not (history.home / "held.json").exists()


def test_where_nothing_is_live_there_is_nothing_to_go_back_from(machine, phase) -> None:
    machine.released("a")
    assert phase("rollback")["msg"] == "No release is live, so there is nothing to roll back from. Run playbooks/deploy.yml."


def test_where_nothing_was_live_before_there_is_nothing_to_go_back_to(machine, phase) -> None:
    machine.serving("old")
    assert phase("rollback")["msg"].startswith("No earlier release is on the host; there are: none.")


def test_older_code_is_not_put_on_newer_tables(program, history, phase) -> None:
    program.write(history.home / "migrations.json", {"notes.0002": "drops the column Note.body"})
    program.write(history.home / "releases/a/known.json", ["notes.0001", "notes.0002"])
    answer = phase("rollback")
    assert answer["msg"].startswith("Release b cannot run on the tables as they are now: notes.0002 drops the column Note.body. Nothing undoes migrations.")
    assert "-e app_allow_destructive=true" in answer["msg"]
    assert history.live() == ("blue", "c")
    assert not phase("rollback", "a")["failed"], "this one knows of it"
    history.app["allow_destructive"] = True
    assert not phase("rollback", "b")["failed"]


def test_a_rollback_is_not_given_up_for_a_process_that_ends(history, phase) -> None:
    history.app["processes"] = ["notes-worker.service"]
    history.rule("--property=ActiveState", out="activating")
    answer = phase("rollback", action="rollback")
    assert not answer["failed"] and history.live() == ("green", "b") and history.running() == {"notes@green.service"}
    told = "The site serves, but notes-worker.service ended as soon as it was started. Mend its command in app_processes, or what it needs; `journalctl -u` it on the host says why."
    assert told in answer["notes"] and "what the processes said" in answer["output"]


def test_a_rollback_that_fails_holds_nothing_back(history, phase) -> None:
    history.sick = {"b"}
    answer = phase("rollback")
    assert answer["msg"].startswith("Step 'probe' of release b failed: ")
    assert history.live() == ("blue", "c")
    assert not (history.home / "held.json").exists()


def test_a_later_deploy_lets_go_of_what_was_held_back(history, phase) -> None:
    phase("rollback")
    history.released("d", served=False)
    history.sick = {"d"}
    assert phase("activate", "d")["failed"]
    assert (history.home / "held.json").exists(), "not one that failed"
    history.sick = set()
    assert not phase("activate", "d")["failed"]
    assert not (history.home / "held.json").exists()


def held(history) -> list[str]:
    return json.loads((history.home / "held.json").read_text())["releases"]


def test_rolled_back_twice_is_back_by_two(history, phase) -> None:
    phase("rollback")
    assert (history.live()[1], held(history)) == ("b", ["c"])
    assert not phase("rollback")["failed"]
    assert (history.live()[1], held(history)) == ("a", ["c", "b"])
    # Whoever names one that was left means it.
    assert not phase("rollback", "b")["failed"]
    assert (history.live()[1], held(history)) == ("b", ["c", "a"])
    # With none left that nobody has left, the last of them.
    assert not phase("rollback")["failed"]
    assert history.live()[1] == "a"


# --- list ------------------------------------------------------------------------------------------------------------


def test_the_list_has_what_is_on_the_host_and_the_last_of_the_journal(program, history, phase) -> None:
    for age, name in enumerate(["never", "a", "b", "c"]):
        os.utime(history.root / "releases" / name, (age, age))
    run = program.Run(history.app, history.config / "release.json", "deploy", "ada", "one")
    for number in range(60):
        run.record({"release": str(number)}, "ok")
    found = program.listing(history.app)
    assert [(row["release"], row["live"], row["served"]) for row in found["releases"]] == [
        ("c", True, "1970-01-01T00:00:12Z"),
        ("b", False, "1970-01-01T00:00:11Z"),
        ("a", False, "1970-01-01T00:00:10Z"),
        ("never", False, ""),
    ]
    assert [entry["release"] for entry in found["journal"]] == [str(number) for number in range(10, 60)]
    assert (found["held"], found["claim"]) == ({}, {})
    phase("rollback")
    assert program.listing(history.app)["held"]["releases"] == ["c"]


# --- restart ---------------------------------------------------------------------------------------------------------


def test_what_serves_is_started_again_as_it_is_on_the_other_colour(history, phase) -> None:
    history.app["processes"] = ["notes-worker.service"]
    (history.home / "held.json").write_text('{"releases": ["d"]}')
    answer = phase("restart", action="restart")
    assert not answer["failed"] and answer["changed"], answer
    assert history.live() == ("green", "c")
    green = history.root / "colours/green"
    # Not with what a run has written since and no deploy has tried.
    assert ((green / "env").read_text(), (green / "fingerprint").read_text()) == ("env of then\n", "fingerprint of c\n")
    assert systemd(history) == ["daemon-reload", "start notes@green.socket", "restart notes@green.service", "restart notes-worker.service",
                                "show --property=ActiveState --value notes-worker.service", "stop notes@blue.service"]
    assert history.asked == ["green", ""]
    (entry,) = history.journal()
    assert (entry["action"], entry["release"], entry["previous"], entry["result"]) == ("restart", "c", "c", "ok")
    # What a rollback has left stays so.
    assert (history.home / "held.json").exists() and not (history.home / "activating.json").exists()
    assert not phase("restart", action="restart")["failed"] and history.live() == ("blue", "c")


def test_a_restart_that_does_not_answer_leaves_what_serves(history, phase) -> None:
    history.sick = {"c"}
    answer = phase("restart", action="restart")
    assert answer["msg"].startswith("Step 'probe' of release c failed: ") and "The release that was live still is." in answer["msg"]
    assert history.live() == ("blue", "c") and history.running() == {"notes@blue.service"}
    assert not (history.home / "activating.json").exists()


def test_where_nothing_is_live_there_is_nothing_to_start_again(machine, phase) -> None:
    machine.released("a")
    assert phase("restart")["msg"] == "No release is live, so there is nothing to start again. Run playbooks/deploy.yml."


# --- compare, standing -----------------------------------------------------------------------------------------------


def packed(release: Path, *names: str) -> Path:
    """Give a release a list of requirements, and packages that came of it."""
    (release / "src/requirements.txt").write_text("django\n")
    for name in names:
        (release / "venv/lib/python3.13/site-packages" / f"{name}.dist-info").mkdir(parents=True)
    return release


def test_other_packages_end_the_run_and_the_same_do_not(machine, phase, program) -> None:
    machine.serving("old")
    tried = program.steps.packages(machine.app, packed(machine.released("tried", served=False), "django-5.2", "psycopg-3.2"))
    packed(machine.released("same", served=False), "psycopg-3.2", "django-5.2")
    newer = packed(machine.released("newer", served=False), "django-5.2", "psycopg-3.3")
    assert not phase("compare", "same", packages=tried)["failed"]
    answer = phase("compare", "newer", packages=tried)
    assert answer["failed"] and "Step 'compare' of release newer failed: its requirements, or the packages that came of them, are not those" in answer["msg"]
    assert answer["msg"].endswith("The release that was live still is.") and machine.live()[1] == "old" and not machine.home.joinpath("claim.json").exists()
    # The list alone counts too: the same today may be another tomorrow.
    shutil.rmtree(newer / "venv")
    packed(newer, "django-5.2")
    first = program.steps.packages(machine.app, newer)
    (newer / "src/requirements.txt").write_text("django==5.2\n")
    assert program.steps.packages(machine.app, newer) != first


@pytest.fixture
def visited(tmp_path, program, monkeypatch):
    """nginx' log, by how long ago each answer was."""
    monkeypatch.setattr(program, "VISITS", tmp_path)

    def write(name: str, *answers: tuple[str, int]) -> None:
        lines = [json.dumps({"status": status, "path": '/?"status":"500"', "at": f"{time.time() - ago:.3f}"}, separators=(",", ":")) for status, ago in answers]
        with (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wt") as sink:
            sink.write("\n".join(lines) + "\nno JSON \"status\":\"500\"\n")

    return write


def test_standing_is_since_the_last_thing_that_was_wrong(machine, program, visited) -> None:
    assert program.standing(machine.app, 3600) == {"live": "", "faults": [], "seconds": 0}
    machine.app["processes"] = ["notes-worker.service"]
    packed(machine.serving("r1"), "django-5.2")
    served = machine.home / "releases/r1/served"
    os.utime(served, (time.time() - 5000, time.time() - 5000))
    machine.rule("systemctl show", out=f"ActiveState=active\nActiveEnterTimestamp=@{int(time.time()) - 4000}")
    found = program.standing(machine.app, 7200)
    assert found["live"] == "r1" and found["commit"] == "commit of r1" and found["faults"] == [] and machine.asked == ["blue", ""]
    assert 3995 <= found["seconds"] <= 4010 and found["why"] in ("notes@blue.service was started", "notes-worker.service was started")
    assert found["packages"] == program.steps.packages(machine.app, machine.root / "releases/r1") == program.listing(machine.app)["packages"]
    visited("access.log.2.gz", ("500", 3000), ("200", 100), ("404", 50))
    found = program.standing(machine.app, 7200)
    assert 2995 <= found["seconds"] <= 3010 and found["why"] == "a visitor was answered 500"
    visited("access.log", ("502", 700), ("500", 9000))
    assert 695 <= program.standing(machine.app, 7200)["seconds"] <= 710
    # Who wants to know of ten minutes is told of ten minutes.
    assert program.standing(machine.app, 600)["seconds"] >= 3995


def test_what_is_wrong_now_is_named(machine, program, visited) -> None:
    packed(machine.serving("r1"))
    machine.rule("systemctl show", out="ActiveState=activating")
    machine.rule("systemctl list-units", out="notes-prune.service loaded failed failed prune")
    machine.sick.add("r1")
    assert program.standing(machine.app, 60)["faults"] == ["notes@blue.service is activating", "notes-prune.service is failed", "https://notes.test/ answered 500 of r1"]


def test_a_deploy_that_was_cut_off_after_the_switch_has_proven_nothing(machine, program, visited) -> None:
    packed(machine.serving("r1"))
    (machine.home / "releases/r1/served").unlink()
    program.write(machine.home / "activating.json", {"release": "r1"})
    machine.rule("systemctl show", out="ActiveState=active")
    found = program.standing(machine.app, 60)
    assert found["faults"] == ["a deploy has not ended"] and found["seconds"] <= 5


def test_a_list_says_no_packages_where_they_cannot_be_told(machine, program) -> None:
    """The inventory names another file by now; whoever wants to roll back is not kept from it."""
    packed(machine.serving("r1"))
    found = program.listing(machine.app | {"requirements": "other.txt"})
    assert (found["live"], found["packages"]) == ("r1", "")
