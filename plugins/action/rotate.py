# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""All of C(redoubt.django.rotate): the vault is the controller's business."""

from __future__ import annotations

import datetime
import re

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.plugin_utils import (
    contract,
    rotation,
    rotation_authority,
    rotation_database,
    rotation_passphrase,
    secret_store,
)
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_secrets import folder_of, inventory_sources

STEPS = ("look", "begin", "replace", "end", "finish", "read")
SECRETS = rotation.SECRETS | rotation_database.SECRETS | rotation_passphrase.SECRETS | rotation_authority.SECRETS


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec({
            "secret": {"type": "str", "required": True},
            "step": {"type": "str", "choices": STEPS, "required": True},
            "session_age": {"type": "int", "default": 0},
            "guard": {"type": "str", "default": "enforce"},
            "guard_skip": {"type": "list", "elements": "str", "default": []},
            "patience": {"type": "str", "default": "0"},
            "after": {"type": "str", "choices": list(rotation_database.STEPS), "default": "begin"},
        })
        if args["secret"] not in SECRETS:
            given = f"is {args['secret']!r}, which is not rotated here" if args["secret"] else "is not given"
            raise AnsibleActionFail(f"secret {given}: it is one of {contract.listed(SECRETS)} (`-e secret=app_secret_key`). How the others are changed "
                                    f"is in {rotation.PAGE}.")
        if args["secret"] in rotation_database.SECRETS and not contract.is_fleet(task_vars["groups"]):
            raise AnsibleActionFail(f"secret={args['secret']} {rotation_database.ONE_HOST}.")
        if not re.fullmatch(r"[0-9]+", args["patience"]):
            raise AnsibleActionFail(f"patience is {args['patience']!r}, which is no number of seconds: give one (`-e patience=3600`), or 0 to wait for nothing.")
        try:
            self.everywhere(args, task_vars)
        except secret_store.Unusable as error:
            raise AnsibleActionFail(str(error)) from None
        if args["step"] == "look":
            return {"changed": False}
        sources = inventory_sources(task_vars)
        try:
            vault = rotation.vault_with(SECRETS[args["secret"]], sources, secret_store.loaded(self._loader))
            if args["secret"] in rotation_authority.SECRETS:
                return self.authority(args, task_vars, vault, sources)
            if args["step"] == "read":
                return {"changed": False, "vault": self.read(vault.document, args)}
            value = str(vault.document.values[SECRETS[args["secret"]]])
            if args["step"] == "begin":
                self.usable(args, task_vars, value, vault.name)
            step = take(vault.document, args, folder_of(sources).name, self._task.check_mode)
            if step.changed and not self._task.check_mode:
                vault.write()
        except secret_store.Unusable as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(f"{', '.join(sources)} cannot be read or written: {error.strerror} ({error.filename or 'no file named'}).") from None
        return self.answer(step, vault)

    def answer(self, step: rotation.Step, vault) -> dict:
        said = f"Only looked; a run would say: {step.said.partition(':')[0].rstrip('.')}." if self._task.check_mode and step.changed else step.said
        return {"changed": step.changed, "said": said, "done": step.done, "path": str(vault.path)}

    def authority(self, args: dict, task_vars: dict, vault, sources: list[str]) -> dict:
        """The internal CA: its key is in the vault, its certificate in a file beside it."""
        found, before = rotation_authority.Authorities(vault.document, sources), vault.document.text
        rest = folder_of(sources).name, rotation_authority.administrators(task_vars), datetime.datetime.now(datetime.UTC), self._task.check_mode
        if args["step"] == "read":
            if self._task.check_mode:
                rotation_authority.take(found, args["after"], *rest)
            return {"changed": False, "vault": rotation_authority.values(found)}
        if args["step"] == "begin":
            rotation_authority.usable(found, task_vars)
        step = rotation_authority.take(found, args["step"], *rest)
        if not self._task.check_mode:
            # The certificate first: one whose key was lost with a run that was cut off goes with the old one.
            found.write()
            if vault.document.text != before:
                vault.write()
        return self.answer(step, vault)

    def read(self, document, args: dict) -> dict:
        """What hosts are to be told, of the vault as it is; in check mode, as it would be after the steps until then."""
        if self._task.check_mode:
            rotation_database.take(document, args["secret"], args["after"], datetime.datetime.now(datetime.UTC).date(), True)
        return rotation_database.values(document)

    @staticmethod
    def everywhere(args: dict, task_vars: dict) -> None:
        """Whoever takes part does: a host that is left out would go on with the old value, and throw out whoever comes with the new one."""
        secret, step, groups = args["secret"], args["step"], task_vars["groups"]
        # Until it is asked, a host that does not answer is one that does.
        present = task_vars["ansible_play_hosts_all" if step == "look" else "ansible_play_hosts"]
        if secret in rotation_authority.SECRETS:
            rotation.everybody(groups["all"], present, "go on to trust the old CA alone", "all hosts")
        elif secret in rotation_passphrase.SECRETS:
            rotation.everybody(rotation.of(groups, *rotation_passphrase.GROUPS), present, "go on with the old passphrase", "all hosts of backups, web and db")
        # Once it is made, the web hosts and the database's have plays of their own.
        elif secret in rotation_database.SECRETS and step in ("look", "begin"):
            rotation.everybody(rotation.of(groups, "web", "db"), present, "not know the new password", "all hosts of web and db")
        else:
            rotation.everybody(groups.get("web", []), present, "go on with the old value alone", "all hosts of web")

    @staticmethod
    def usable(args: dict, task_vars: dict, value: str, file: str) -> None:
        """Whether another value in the vault is another one for the application."""
        secret, name = args["secret"], SECRETS[args["secret"]]
        if secret in rotation_passphrase.SECRETS:
            rotation_passphrase.usable(task_vars, secret, value, file)
            return
        if secret == "app_secret_key" and (args["guard"] != "enforce" or "secret_key_fallbacks" in args["guard_skip"]):
            what = "app_guard_skip has secret_key_fallbacks" if args["guard"] == "enforce" else f"app_guard is {args['guard']}"
            raise secret_store.Unusable(f"{what}, so no process would accept the old key beside the new one, and everybody would be logged out: change that, or see "
                                        f"{rotation.PAGE}, «By hand».")
        for host in task_vars["groups"].get("web", []):
            known = task_vars["hostvars"][host]
            taken = known[secret] if secret in known else known.get(name) if secret != "app_deploy_key" else ""
            if str(taken).strip() != value.strip():
                raise secret_store.Unusable(f"{secret} of {host} is not {name} of {file}, so another one there would change nothing: let it be "
                                            f"\"{{{{ {name} }}}}\", or see {rotation.PAGE}, «By hand».")


def take(document, args: dict, environment: str, check: bool) -> rotation.Step:
    """One step; in check mode with those before it, none of which has been written."""
    today = datetime.datetime.now(datetime.UTC).date()
    if args["secret"] == "app_deploy_key":
        begun = rotation.begin_deploy_key(document, f"deploy@{environment}", today)
        return begun if args["step"] == "begin" else rotation.finish_deploy_key(document, today)
    if args["secret"] in rotation_passphrase.SECRETS:
        return rotation_passphrase.take(document, args["secret"], args["step"], today, check)
    if args["secret"] in rotation_database.SECRETS:
        return rotation_database.take(document, args["secret"], args["step"], today, check)
    steps = {"begin": rotation.begin, "replace": rotation.replace, "finish": rotation.finish}
    for name in [each for each in steps if STEPS.index(each) <= STEPS.index(args["step"])] if check else [args["step"]]:
        step = steps[name](document, args["session_age"], today)
    return step
