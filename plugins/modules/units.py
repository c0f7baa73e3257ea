#!/usr/bin/python
# Copyright: Redoubt maintainers
# MIT License (see LICENSE)
"""Bring a list of systemd units into a state, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: units
short_description: Enable, start, reload or stop a list of systemd units in one call
description:
  - Does for a list what M(ansible.builtin.systemd_service) does for one unit, at the cost of one task.
  - Runs C(systemctl daemon-reload) by itself when a listed unit's file is newer than what systemd has loaded.
  - In check mode a unit that does not exist yet is taken as one that the run will make, so that a blank host can be
    predicted. Outside check mode a missing unit is an error.
  - A unit whose own conditions keep it from running on this host (C(ConditionVirtualization=) in a container) counts as
    started once systemd has evaluated them.
version_added: "0.1.0"
options:
  enabled:
    description: Units that start at boot, and are started now.
    type: list
    elements: str
    default: []
  started:
    description: Units that are started now and are not enabled, because something else starts them at boot.
    type: list
    elements: str
    default: []
  reloaded:
    description: Units that read their configuration again; restarted where they cannot, started where they do not run.
    type: list
    elements: str
    default: []
  restarted:
    description: Units that are restarted, or started where they do not run.
    type: list
    elements: str
    default: []
  disabled:
    description: Units that are stopped and not started at boot. One that does not exist is in that state already.
    type: list
    elements: str
    default: []
  former:
    description:
      - Unit files in C(/etc/systemd/system) that an earlier run installed and that are asked for no more. They are stopped,
        disabled and removed.
      - One that stays and is no more among O(enabled), although it is enabled on the host, is stopped and disabled.
    type: dict
    suboptions:
      files:
        description: Patterns of their names.
        type: list
        elements: str
        required: true
      having:
        description: What a line of such a file begins with. A file without that line is somebody else's and is left alone.
        type: str
        required: true
      kept:
        description: Names of the units that are still asked for.
        type: list
        elements: str
        required: true
  seen:
    description:
      - What M(redoubt.django.host_state) has read of the host in this play. Where all units were as they are wanted, the host is not
        asked again. Leave it out after a change that may have moved them.
    type: dict
  daemon_reload:
    description: Make systemd read all unit files first, for units that are new under a name it already knows.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Says exactly what the run would do.
  diff_mode:
    support: none
    description: The state of a unit is not a text.
author: Redoubt maintainers
"""

EXAMPLES = r"""
- name: Run the web server
  redoubt.django.units:
    enabled: [nginx.service, certbot.timer]

- name: Reload nginx
  redoubt.django.units:
    reloaded: [nginx.service]

- name: Run the application's units, and none that it had once
  redoubt.django.units:
    enabled: [notes-worker.service]
    former:
      files: ["notes-*.service", "notes-*.timer"]
      having: "Description=notes: "
      kept: [notes-worker.service]
"""

RETURN = r"""
actions:
  description: What was done, or would be done in check mode, in order.
  returned: always
  type: list
  elements: str
  sample: ["enable nginx.service", "start nginx.service"]
"""

import fnmatch
import os

from ansible.module_utils.basic import AnsibleModule

FOLDER = "/etc/systemd/system"
PROPERTIES = ("Id", "Names", "LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "ConditionResult",
              "ConditionTimestampMonotonic")
RUNNING = ("active", "activating", "reloading")
LISTS = ("enabled", "started", "reloaded", "restarted", "disabled")
# `static` and friends have nothing to enable; `generated` and `alias` are enabled elsewhere.
ENABLED = ("enabled", "static", "alias", "generated", "transient")


def parse_show(text: str) -> list[dict[str, str]]:
    """Split the output of ``systemctl show`` of several units into one dictionary a unit."""
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            for block in text.strip().split("\n\n")]


def is_up(state: dict[str, str]) -> bool:
    """Say whether a unit runs, or has been kept from it by its own conditions."""
    if state["ActiveState"] in RUNNING:
        return True
    refused = state.get("ConditionResult") == "no" and state.get("ConditionTimestampMonotonic", "0") != "0"
    return refused and state["ActiveState"] == "inactive"


def installed(former: dict | None) -> list[str]:
    """Return the names of the files that `former` describes, those that are kept included; timers before what they start."""
    found = []
    for name in sorted(os.listdir(FOLDER) if former else []):
        path = f"{FOLDER}/{name}"
        if any(fnmatch.fnmatch(name, pattern) for pattern in former["files"]) and os.path.isfile(path) and not os.path.islink(path):
            with open(path, encoding="utf-8", errors="replace") as file:
                if any(line.startswith(former["having"]) for line in file):
                    found.append(name)
    return sorted(found, key=lambda name: not name.endswith(".timer"))


def plan(params: dict, states: dict[str, dict[str, str]], files: list[str]) -> list[tuple[str, str]]:
    """Return the ``(verb, unit)`` calls of systemctl that lead from the states to what is asked for, and the removals."""
    calls = []
    for unit in files:
        state, gone = states[unit], unit not in params["former"]["kept"]
        linked = state["UnitFileState"] in ("enabled", "enabled-runtime")
        if not gone and (not linked or unit in params["enabled"]):
            continue
        if state["ActiveState"] not in ("inactive", "failed"):
            calls.append(("stop", unit))
        if linked:
            calls.append(("disable", unit))
        if gone:
            calls.append(("remove", unit))
    for unit in params["disabled"]:
        state = states[unit]
        if state["LoadState"] == "not-found":
            continue
        if state["ActiveState"] not in ("inactive", "failed"):
            calls.append(("stop", unit))
        if state["UnitFileState"] == "enabled":
            calls.append(("disable", unit))
    for unit in params["enabled"]:
        if states[unit]["UnitFileState"] not in ENABLED:
            calls.append(("enable", unit))
    for unit in params["enabled"] + params["started"]:
        if not is_up(states[unit]):
            calls.append(("start", unit))
    for unit in params["reloaded"]:
        calls.append(("reload-or-restart" if states[unit]["ActiveState"] in RUNNING else "start", unit))
    for unit in params["restarted"]:
        calls.append(("restart", unit))
    return calls


def main() -> None:
    """Run the module."""
    spec = {name: {"type": "list", "elements": "str", "default": []} for name in LISTS}
    spec["seen"] = {"type": "dict"}
    spec["daemon_reload"] = {"type": "bool", "default": False}
    names = {"type": "list", "elements": "str", "required": True}
    spec["former"] = {"type": "dict", "options": {"files": names, "having": {"type": "str", "required": True}, "kept": names}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    files = installed(module.params["former"])
    units = sorted({unit for name in LISTS for unit in module.params[name]} | set(files))
    if not units:
        module.exit_json(changed=False, actions=[])

    def systemctl(*args: str) -> tuple[int, str, str]:
        return module.run_command(["systemctl", *args])

    def show() -> dict[str, dict[str, str]]:
        code, out, err = systemctl("show", "--property=" + ",".join(PROPERTIES), "--", *units)
        if code:
            module.fail_json(msg=f"systemctl cannot tell the state of {', '.join(units)}: {err.strip()}")
        return dict(zip(units, parse_show(out), strict=True))

    states = show()
    stale = module.params["daemon_reload"] or any(state["NeedDaemonReload"] == "yes" for state in states.values())
    if stale and not module.check_mode:
        systemctl("daemon-reload")
        states = show()
    wanted = [unit for name in LISTS if name != "disabled" for unit in module.params[name]]
    missing = [unit for unit in wanted if states[unit]["LoadState"] in ("not-found", "bad-setting", "error", "masked")]
    if missing and not module.check_mode:
        detail = ", ".join(f"{unit} ({states[unit]['LoadState']})" for unit in missing)
        module.fail_json(msg=f"systemd cannot use {detail}. `systemctl status {missing[0]}` on the host says why.")

    def forget_failure(unit: str) -> None:
        # The end of a process can count as a failure: at once when its command has become a timer's, for which a signal is none
        # of the good ends. It would stay in the list of failed units, be it under a name that is gone.
        systemctl("reset-failed", unit)

    calls = plan(module.params, states, files)
    if not module.check_mode:
        for verb, unit in calls:
            if verb == "remove":
                os.unlink(f"{FOLDER}/{unit}")
                systemctl("daemon-reload")
                forget_failure(unit)
                continue
            code, _out, err = systemctl(verb, unit)
            if code:
                log = module.run_command(["journalctl", "--no-pager", "--output=cat", "--lines=25", f"--unit={unit}"])[1]
                module.fail_json(msg=f"`systemctl {verb} {unit}` failed: {err.strip()}", journal=log.splitlines())
            if verb == "stop" and unit in files:
                forget_failure(unit)
    module.exit_json(changed=bool(calls), actions=[f"{verb} {unit}" for verb, unit in calls])


if __name__ == "__main__":
    main()
