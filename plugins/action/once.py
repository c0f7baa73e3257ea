# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Run a command whose result is not there yet, and spare the host the module when it is."""

from __future__ import annotations

import shlex

from ansible.plugins.action import ActionBase

ARGUMENTS = {
    "argv": {"type": "list", "elements": "str", "required": True},
    "creates": {"type": "path", "required": True},
}


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(ARGUMENTS)
        # 1 says that it is not there; anything else is for the module, whose errors are better.
        if self._low_level_execute_command(f"test -e {shlex.quote(arguments['creates'])}", sudoable=True)["rc"] == 0:
            return {**result, "changed": False, "msg": f"{arguments['creates']} exists."}
        return {**result, **self._execute_module(module_name="ansible.legacy.command", module_args=arguments, task_vars=task_vars)}
