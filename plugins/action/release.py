# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Tell the host who is deploying: the module of the same name runs there and cannot know."""

from __future__ import annotations

import getpass
import os
import socket

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        machine = socket.gethostname()
        arguments.setdefault("who", f"{getpass.getuser()}@{machine}")
        # Every task runs in a process of its own, whose parent is the playbook's.
        parent = os.getppid()
        arguments.setdefault("token", f"{machine} {parent} {started(parent)}")
        result.update(self._execute_module("redoubt.django.release", module_args=arguments, task_vars=task_vars))
        return result


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks: a later process may get the same number."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as source:
            return source.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""
