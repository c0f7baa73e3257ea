# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Load and keep, in the process that every task of every host is forked from, what each fork would load or ask for itself."""

from __future__ import annotations

import contextlib
import gc

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import action_loader
from ansible.template import Templar, trust_as_template
from ansible_collections.redoubt.django.plugins.plugin_utils.ahead import KNOWING, PLAYS, SETTLED, Searchers
from ansible_collections.redoubt.django.plugins.plugin_utils.asked import ANSWERS, by_question

DOCUMENTATION = """
name: preload
type: aggregate
short_description: Load and ask once what each task would load and ask for itself
description:
  - Ansible forks a process for each task and host, and each loads the filters and tests that its templates use. Loaded before the
    first play, they cost 20 ms a run; without, as much for most tasks and hosts.
  - What is there before the first fork is kept from the garbage collector, which would have each fork copy it.
  - What M(redoubt.django.host_state) brings from a host is kept for its tasks until one of them changes something or fails.
  - While it reads several hosts there is a process for each core that finds out for all of them which roles have nothing to do.
"""

# Each file of filters and tests that the roles use, by one of its own.
TEMPLATE = "{{ [[1]] | flatten is subset([1]) and ['a'] | map('regex_replace', 'a', 'b') | difference([]) | to_json is match('x') }}"


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "redoubt.django.preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        PLAYS[:] = playbook.get_plays()
        SETTLED.clear()
        for name in KNOWING:
            action_loader.get(name, class_only=True)
        Templar(loader=DataLoader()).template(trust_as_template(TEMPLATE))
        gc.collect()
        gc.freeze()

    def set_play_context(self, play_context):
        self.context = play_context

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.end_search()
        if task.resolved_action != "redoubt.django.host_state" or not task.args.get("roles"):
            return
        play = task.get_play()
        hosts = len(play.get_variable_manager()._inventory.get_hosts(play.hosts))
        # With other strategies another task begins while hosts are still looked at.
        if hosts > 1 and play.strategy in ("linear", "ansible.builtin.linear"):
            with contextlib.suppress(OSError):
                Searchers(play, self.context, hosts)

    def v2_playbook_on_handler_task_start(self, task):
        self.end_search()

    def v2_playbook_on_stats(self, stats):
        self.end_search()

    def end_search(self):
        # They know what was known when they were made.
        if Searchers.running:
            Searchers.running.end()

    def v2_runner_on_ok(self, result):
        found = result.result
        if result.task.resolved_action == "redoubt.django.host_state":
            # With no_log there are none.
            ANSWERS[result.host.get_name()] = by_question(found.get("answers", []))
            SETTLED[result.host.get_name()] = found.get("settled", [])
            return
        if found.keys() & {"ansible_facts", "add_host", "add_group"}:
            # A role may want something else now, on any host.
            SETTLED.clear()
        if found.get("changed"):
            self.forget(result)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self.forget(result)

    def v2_runner_on_unreachable(self, result):
        self.forget(result)

    def v2_runner_on_async_ok(self, result):
        self.forget(result)

    def v2_runner_on_async_failed(self, result):
        self.forget(result)

    def forget(self, result):
        # Which host it was that a task was delegated to stands in no result for certain.
        hosts = [*ANSWERS, *SETTLED] if result.task.delegate_to else [result.host.get_name()]
        for host in hosts:
            ANSWERS.pop(host, None)
            SETTLED.pop(host, None)
