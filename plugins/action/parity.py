# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""All of C(redoubt.django.parity): two inventories are compared on the controller."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.plugin_utils import environment_parity, secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_parity import ALLOWED, FOLLOWS, SECRET

SAID = {ALLOWED: "may differ: {why}", FOLLOWS: "follows from what may differ", SECRET: "each has its own"}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec({"left": {"type": "str", "default": ""}, "right": {"type": "str", "default": ""},
                                               "inventories": {"type": "path", "required": True}, "allowed": {"type": "path"}})
        inventories = Path(args["inventories"]).resolve()
        try:
            outcome = environment_parity.compare(self._loader, args["left"], args["right"], inventories, Path(args["allowed"]).absolute() if args["allowed"] else None)
        except secret_store.Unusable as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename or inventories} cannot be read: {error.strerror}.") from None
        return {"changed": False, "lines": lines(outcome), "mistakes": outcome.mistakes, "differences": [dataclasses.asdict(each) for each in outcome.differences]}


def lines(outcome: environment_parity.Outcome) -> list[str]:
    """What a person reads."""
    pairs = ", ".join(left if left == right else f"{left}/{right}" for left, right in outcome.hosts)
    said = [f"{outcome.left} | {outcome.right}, {len(outcome.differences)} differences on {pairs}"]
    for each in sorted(outcome.differences, key=lambda each: each.name):
        verdict = SAID.get(each.verdict, "NOT ALLOWED").format(why=each.why)
        hosts = "" if len(each.hosts) == len(outcome.hosts) else f" ({', '.join(each.hosts)})"
        said += [f"{each.name}{hosts}: {verdict}", f"    {each.left} | {each.right}"]
    return said
