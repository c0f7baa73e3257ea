# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""All of C(redoubt.django.secrets): an environment's secrets are the controller's business."""

from __future__ import annotations

import datetime

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.plugin_utils import secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_secrets import Environment, Outcome, inventory_sources
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_needs import CLIENT


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        self.validate_argument_spec({})
        sources = inventory_sources(task_vars)
        keys = secret_store.loaded(self._loader)
        try:
            environment = Environment(self._loader, sources, keys)
            if not any(identity == environment.name for identity, _ in keys):
                # A new vault needs a password too, and may have one that was not named on the command line.
                key, why = secret_store.ask(CLIENT, environment.name)
                if why:
                    raise secret_store.Unusable(why)
                environment.keys = keys + ([(environment.name, key)] if key else [])
            outcome = environment.settle(self._task.check_mode, datetime.datetime.now(datetime.UTC).date())
        except secret_store.Unusable as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(f"{', '.join(sources)} cannot be read or written: {error.strerror} ({error.filename or 'no file named'}).") from None
        return result(outcome, self._task.check_mode)


def result(outcome: Outcome, check: bool) -> dict:
    """Names, days and sentences: nothing in it is a value."""
    today = datetime.datetime.now(datetime.UTC).date()
    return {
        "changed": bool(outcome.made),
        "vault": outcome.vault,
        "made": outcome.made,
        "secrets": [{"name": each.name, "file": each.file, "made": each.made.isoformat() if each.made else "", "used_by": each.used_by, "again": each.again}
                    for each in outcome.secrets],
        "mistakes": outcome.mistakes,
        "unopened": outcome.unopened,
        "compared": outcome.compared,
        "lines": lines(outcome, check, today),
    }


def lines(outcome: Outcome, check: bool, today: datetime.date) -> list[str]:
    """What a person reads."""
    width = max([len(each.name) for each in outcome.secrets], default=10)
    said = [f"{outcome.vault}: {len(outcome.secrets)} secrets" if outcome.secrets else f"{outcome.vault}: no secrets"]
    for each in outcome.secrets:
        new = check and each.name in outcome.made
        days = (today - each.made).days if each.made else None
        age = "would be made" if new else f"made {each.made} ({days} day{'' if days == 1 else 's'})" if each.made else "made nobody wrote down when"
        again = f"; again: {', '.join(each.again)}" if each.again else ""
        said.append(f"{each.name:<{width}}  {age:<28}  {', '.join(each.used_by) or 'used by nothing in this inventory'}{again}")
    if outcome.made:
        said.append(f"{'Would make' if check else 'Made'}: {', '.join(outcome.made)}")
    said += [f"{name}: give this key read access where app_repo is: {public}" for name, public in outcome.deploy_keys.items()]
    if outcome.compared:
        said.append(f"Compared with: {', '.join(outcome.compared)}")
    return said + [f"Not compared with {each}" for each in outcome.unopened]
