"""What is done to a list of units, and to those that an application had once; how an application's processes end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "plugins/modules/units.py"
SPEC = importlib.util.spec_from_file_location("units", SOURCE)
module = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(module)

RUNNING = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
STOPPED = {**RUNNING, "ActiveState": "inactive"}
LINKLESS = {**RUNNING, "UnitFileState": "static"}
LISTS = ("enabled", "started", "reloaded", "restarted", "disabled")
FORMER = {"files": ["notes-*.service", "notes-*.timer"], "having": "Description=notes: "}


def planned(states, kept, files=None, **lists):
    params = {**{name: [] for name in LISTS}, **lists, "former": {**FORMER, "kept": kept}}
    return [f"{verb} {unit}" for verb, unit in module.plan(params, states, files if files is not None else list(states))]


@pytest.mark.parametrize(
    ("state", "calls"),
    [
        pytest.param(RUNNING, ["stop notes-x.service", "disable notes-x.service", "remove notes-x.service"], id="a process"),
        pytest.param(STOPPED, ["disable notes-x.service", "remove notes-x.service"], id="a process that does not run"),
        pytest.param({**STOPPED, "UnitFileState": "static"}, ["remove notes-x.service"], id="what a timer starts"),
        pytest.param({**LINKLESS, "ActiveState": "activating"}, ["stop notes-x.service", "remove notes-x.service"], id="while it runs"),
        pytest.param({**STOPPED, "ActiveState": "failed"}, ["disable notes-x.service", "remove notes-x.service"], id="failed"),
    ],
)
def test_what_is_asked_for_no_more_is_removed(state, calls):
    assert planned({"notes-x.service": state}, []) == calls


@pytest.mark.parametrize("state", [RUNNING, STOPPED, LINKLESS, {**LINKLESS, "ActiveState": "activating"}])
def test_what_is_kept_and_enabled_is_not_touched(state):
    name = "notes-x.service"
    states = {name: {**state, "ActiveState": "active"}}
    assert planned(states, [name], enabled=[name]) == []


def test_a_command_of_a_timer_may_be_running():
    assert planned({"notes-x.service": {**LINKLESS, "ActiveState": "activating"}}, ["notes-x.service"]) == []


def test_a_process_that_has_become_a_timers_command_ends_as_a_process():
    states = {"notes-x.service": RUNNING, "notes-x.timer": {**STOPPED, "UnitFileState": "disabled"}}
    calls = planned(states, list(states), files=["notes-x.service"], enabled=["notes-x.timer"])
    assert calls == ["stop notes-x.service", "disable notes-x.service", "enable notes-x.timer", "start notes-x.timer"]


def test_files_of_others_are_not_found(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FOLDER", str(tmp_path))
    for name, text in {
        "notes-a.service": "# x\n[Unit]\nDescription=notes: a\n",
        "notes-b.timer": "[Unit]\nDescription=notes: when b runs\n",
        "notes-by-hand.service": "[Unit]\nDescription=Something of an administrator's\n",
        "notes@.service": "[Unit]\nDescription=notes: web processes (%i)\n",
        "notes_2-a.service": "[Unit]\nDescription=notes: a\n",
        "notes-a.socket": "[Unit]\nDescription=notes: a\n",
        "notes-binary.service": "\udcff\n",
    }.items():
        (tmp_path / name).write_text(text, errors="surrogateescape")
    (tmp_path / "notes-masked.service").symlink_to("/dev/null")
    (tmp_path / "notes-alias.service").symlink_to(tmp_path / "notes-a.service")
    (tmp_path / "notes-a.service.d").mkdir()
    assert module.installed({**FORMER, "kept": []}) == ["notes-b.timer", "notes-a.service"]
    assert module.installed(None) == []


def unit(process, scheduled=False):
    """The lines of what is installed for one process."""
    loader, folder = DataLoader(), ROOT / "roles/app/templates"
    values = {"ansible_managed": "managed", "app_name": "notes", "app_domains": ["notes.test"], "name": "x", "process": process, "scheduled": scheduled}
    for source in ("site/defaults", "app/defaults", "app/vars"):
        values = loader.load_from_file(str(ROOT / f"roles/{source}/main.yml"), trusted_as_template=True) | values
    templar = Templar(loader=loader, variables=values)
    templar.environment.loader.searchpath = [str(folder)]
    options = {"trim_blocks": True, "lstrip_blocks": False, "newline_sequence": "\n"}
    text = trust_as_template((folder / "_unit/process.service").read_text())
    return str(templar.template(text, escape_backslashes=False, overrides=options)).splitlines()


@pytest.mark.parametrize("command", ["celery -A notes worker", "{manage} qcluster"])
def test_a_job_in_a_child_of_a_worker_outlives_the_word_to_stop(command):
    lines = unit({"command": command})
    assert [line for line in lines if line.startswith('ExecStart=/bin/sh -euc "exec ')] and "KillMode=mixed" in lines
    assert "TimeoutStopSec=90" in lines
    assert "TimeoutStopSec=600" in unit({"command": command, "stop_timeout": 600})


@pytest.mark.parametrize("command", ["cd x && celery worker", "QUEUE=a celery worker", "celery worker | cat"])
def test_what_a_shell_has_started_is_told_to_stop_itself(command):
    lines = unit({"command": command, "stop_timeout": 600})
    assert "TimeoutStopSec=600" in lines and not [line for line in lines if line.startswith("KillMode=")]


def test_a_scheduled_command_ends_as_systemd_has_it():
    assert not [line for line in unit({"command": "celery beat"}, scheduled=True) if line.startswith(("KillMode=", "TimeoutStopSec="))]
