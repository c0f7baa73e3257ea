# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""The controller's side of C(redoubt.django.units): spare the host the question when the play has seen the answer."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.modules import units


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        seen = args.pop("seen", None)
        if seen and as_wanted(args, seen):
            return {**result, "changed": False, "actions": []}
        return {**result, **self._execute_module(module_name="redoubt.django.units", module_args=args, task_vars=task_vars)}


def as_wanted(args: dict, seen: dict) -> bool:
    """Whether the units were, when the play looked (`units`, `enabled`, `aliases` of host_state), as these arguments want them.

    False where that cannot be told from it: what is to be done whatever the state is, or of what nothing was seen.
    """
    if args.get("daemon_reload") or any(args.get(name) for name in ("reloaded", "restarted", "former")):
        return False
    states = {name: state for state in units.parse_show(seen["units"]) for name in state.get("Names", "").split()}
    wanted = {name: list(args.get(name) or []) for name in units.LISTS}
    for unit in wanted["disabled"]:
        # What systemd has not loaded does not run, and would be loaded if a unit of this boot asked for it.
        if unit not in states and unit not in seen["enabled"] and unit not in seen["aliases"]:
            states[unit] = {"LoadState": "not-found"}
    names = {unit for each in wanted.values() for unit in each}
    if not names <= states.keys() or any(states[name].get("NeedDaemonReload") == "yes" for name in names):
        return False
    return not units.plan({**wanted, "former": None}, states, [])
