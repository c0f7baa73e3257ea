# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Run a command whose result is not there yet, and spare the host the module when it is."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.plugin_utils.asked import ask, parsed

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
        if self.is_there(arguments["creates"], task_vars or {}):
            return {**result, "changed": False, "msg": f"{arguments['creates']} exists."}
        return {**result, **self._execute_module(module_name="ansible.legacy.command", module_args=arguments, task_vars=task_vars)}

    def is_there(self, path, task_vars):
        """Whether it is, as far as that can be told: where a link leads, and what a pattern means, is the module's to find out."""
        if not path.startswith("/") or "\n" in path:
            return False
        answer = ask(self, "look", f"at {path}\n", f"once {path}", task_vars)
        try:
            return answer is not None and any(name == path and kind != "l" for name, kind, *_ in parsed(answer)[1])
        except ValueError:
            return False
