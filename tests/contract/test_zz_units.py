"""Processes and timers that come and go: a run removes what the inventory names no more, and nothing else."""

from __future__ import annotations

import json
import re

import pytest

BEFORE = {
    "app_processes": {name: {"command": "sleep infinity"} for name in ("stays", "goes", "turns")},
    "app_timers": {name: {"command": "sleep 1", "on_calendar": "*-*-* 03:00"} for name in ("daily", "once")},
}
AFTER = {
    "app_processes": {"stays": BEFORE["app_processes"]["stays"]},
    "app_timers": dict.fromkeys(("daily", "turns"), BEFORE["app_timers"]["daily"]),
}
# Units with the same prefix that are not of the inventory's making.
BYHAND = "installed-byhand.service"
BYHAND_FILE = "[Unit]\\nDescription=Made by hand\\n[Service]\\nExecStart=/bin/sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n"
RUNNING = "installed-runtime-99.service"


@pytest.fixture(scope="module")
def locks(lab):
    return lab.host("locks1")


@pytest.fixture(scope="module")
def deploy(lab, locks):
    """Converge with these processes and timers; how many tasks changed the host, and what was said."""

    def run(values: dict, *arguments: str) -> tuple[int, str]:
        done = lab.playbook("playbooks/site.yml", "--limit", "locks1", "-e", f"lab={lab.name}", "-e", json.dumps(values), *arguments)
        return int(re.search(r"^locks1 .*changed=(\d+) ", done.stdout, re.MULTILINE)[1]), done.stdout

    locks.check_output(f"printf '{BYHAND_FILE}' >/etc/systemd/system/{BYHAND} && systemctl daemon-reload && systemctl enable --now {BYHAND}")
    locks.check_output(f"systemd-run --quiet --unit={RUNNING} --description='installed: a command' sleep infinity")
    yield run
    locks.check_output(f"systemctl disable --now {BYHAND}; rm /etc/systemd/system/{BYHAND}; systemctl stop {RUNNING}; systemctl daemon-reload")


def show(locks, unit: str, *names: str) -> list[str]:
    text = locks.check_output("systemctl show " + " ".join(f"--property={name}" for name in names) + f" {unit}")
    found = dict(line.split("=", 1) for line in text.splitlines())
    return [found[name] for name in names]


def files(locks) -> set[str]:
    """Unit files of the application, and links to them."""
    return set(locks.check_output("find /etc/systemd/system -name 'installed-*' -printf '%P\\n'").split())


def test_what_the_inventory_names_no_more_is_gone_and_the_rest_goes_on(locks, deploy) -> None:
    """app_processes, app_timers: taken out, and moved from one to the other."""
    strangers = {BYHAND, f"multi-user.target.wants/{BYHAND}"}
    deploy(BEFORE)
    wants = {f"multi-user.target.wants/installed-{name}.service" for name in BEFORE["app_processes"]}
    assert wants < files(locks)
    names = [f"installed-{name}" for name in ("stays.service", "daily.timer")] + [BYHAND, RUNNING]
    before = {name: show(locks, name, "ActiveState", "ActiveEnterTimestampMonotonic") for name in names}
    assert {state for state, _ in before.values()} == {"active"}

    predicted, _ = deploy(AFTER, "--check")
    assert {name: show(locks, name, "ActiveState", "ActiveEnterTimestampMonotonic") for name in names} == before
    assert show(locks, "installed-goes.service", "ActiveState") == ["active"]
    changed, said = deploy(AFTER)
    assert (changed, "redoubt.django.app : Run the application's units" in said) == (predicted, True), said

    kept = {f"installed-{name}" for name in ("stays.service", "daily.service", "daily.timer", "turns.service", "turns.timer")}
    links = {"multi-user.target.wants/installed-stays.service"} | {f"timers.target.wants/installed-{name}.timer" for name in ("daily", "turns")}
    assert files(locks) == kept | links | strangers
    for name in ("goes.service", "once.service", "once.timer"):
        assert show(locks, f"installed-{name}", "LoadState", "ActiveState") == ["not-found", "inactive"], name
    # Neither ended nor started again.
    assert {name: show(locks, name, "ActiveState", "ActiveEnterTimestampMonotonic") for name in names} == before
    assert show(locks, "installed-turns.service", "ActiveState", "Type") == ["inactive", "oneshot"]
    assert show(locks, "installed-turns.timer", "ActiveState", "UnitFileState") == ["active", "enabled"]
    assert locks.check_output("systemctl list-units --failed --plain --no-legend 'installed*'") == ""

    changed, said = deploy(AFTER)
    assert changed == 0, said


def test_an_inventory_without_any_removes_all(locks, deploy) -> None:
    deploy({})
    assert files(locks) == {BYHAND, f"multi-user.target.wants/{BYHAND}"}
    assert show(locks, BYHAND, "ActiveState") == show(locks, RUNNING, "ActiveState") == ["active"]
