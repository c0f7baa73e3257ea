# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Load once, in the process that every task of every host is forked from, what each fork would load for itself."""

from __future__ import annotations

import gc

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.callback import CallbackBase
from ansible.template import Templar, trust_as_template

DOCUMENTATION = """
name: preload
type: aggregate
short_description: Load once what each task would load for itself
description:
  - Ansible forks a process for each task and host, and each loads the filters and tests that its templates use. Loaded before the
    first play, they cost 20 ms a run; without, as much for most tasks and hosts.
  - What is there before the first fork is kept from the garbage collector, which would have each fork copy it.
"""

# Each file of filters and tests that the roles use, by one of its own.
TEMPLATE = "{{ [[1]] | flatten is subset([1]) and ['a'] | map('regex_replace', 'a', 'b') | difference([]) | to_json is match('x') }}"


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "redoubt.django.preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        Templar(loader=DataLoader()).template(trust_as_template(TEMPLATE))
        gc.collect()
        gc.freeze()
