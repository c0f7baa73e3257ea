# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Write down which tasks changed which host, one line of JSON a run."""

from __future__ import annotations

import json
import os
import time

from ansible import context
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: changes
type: notification
short_description: Write down which tasks changed which host
description:
  - Appends one line of JSON for every run of a playbook, so that what C(--check) predicted can be compared with what the
    run then changed, and a repeated run can name what it should not have touched. Handlers and included tasks count.
options:
  changes_file:
    description: File to append to. Nothing is written without it.
    type: path
    env: [{name: REDOUBT_CHANGES}]
    ini: [{section: callback_changes, key: changes_file}]
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "redoubt.django.changes"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self.started = time.time()
        self.playbook = ""
        self.tasks = 0
        self.changes = []

    def v2_playbook_on_start(self, playbook):
        self.playbook = playbook._file_name

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.tasks += 1

    def v2_playbook_on_handler_task_start(self, task):
        self.tasks += 1

    def v2_runner_on_ok(self, result):
        if result.is_changed():
            self.changes.append([result.host.get_name(), result.task.get_name()])

    def v2_playbook_on_stats(self, stats):
        path = self.get_option("changes_file")
        # A playbook that takes the lab down takes the folder with it.
        if not path or not os.path.isdir(os.path.dirname(path)):
            return
        run = {
            "playbook": self.playbook,
            "check": bool(context.CLIARGS.get("check")),
            "failed": sorted({*stats.failures, *stats.dark}),
            "seconds": round(time.time() - self.started, 1),
            "tasks": self.tasks,
            "changes": self.changes,
        }
        with open(path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(run) + "\n")
