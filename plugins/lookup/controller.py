# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Say who is running this playbook."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controller
short_description: Say who is running this playbook
description:
  - Answers with C(who), the user and machine of the controller, and C(token), which all tasks of one run of a playbook have in
    common and no other run has.
version_added: "0.1.0"
author: Redoubt maintainers
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('redoubt.django.controller').who }}"
"""

RETURN = r"""
_raw:
  description: Mapping with C(who) and C(token).
  type: list
  elements: dict
"""

import getpass
import multiprocessing
import os
import socket

from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        machine = socket.gethostname()
        # Tasks run in processes of their own, whose parent is the playbook's.
        parent = os.getppid() if multiprocessing.parent_process() else os.getpid()
        return [{"who": f"{getpass.getuser()}@{machine}", "token": f"{machine}-{parent}-{started(parent)}"}]


def started(pid: int) -> str:
    """When a process began, in the kernel's ticks: a later process may get the same number."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as source:
            return source.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""
