# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""The controller's side of C(redoubt.django.host_certificate): sign what the host asks for, with a key that the host never sees."""

from __future__ import annotations

import datetime
import shlex

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.action.host_state import BETWEEN
from ansible_collections.redoubt.django.plugins.modules.host_certificate import ARGUMENTS, MODES
from ansible_collections.redoubt.django.plugins.plugin_utils.asked import ask
from ansible_collections.redoubt.django.plugins.plugin_utils.authority import Authority, Unusable, described


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENTS)
        try:
            authority = Authority(args["ca_certificate"], args["ca_key"])
        except Unusable as error:
            raise AnsibleActionFail(f"{' '.join(error.args)}.") from None
        now = datetime.datetime.now(datetime.UTC)
        trusted = args["ca_certificate"].strip() + "\n"
        check = self._task.check_mode
        here = {"folder": args["folder"], "group": args["group"]}

        found = self.look(task_vars, **here) or self._execute_module(
            module_name="redoubt.django.host_certificate", module_args={**here, "do": "read"}, task_vars=task_vars)
        found.pop("invocation", None)
        if found.get("failed"):
            return found
        wanted = (args["names"], args["addresses"])
        reason = authority.problem(found["certificate"], found["public_key"], *wanted, args["renew_days"], now) if found["public_key"] else "there is none"
        reasons = [*(["the host has no key"] if found["made"] or not found["public_key"] else []), *found["astray"]]
        reasons += [f"certificate: {reason}"] if reason else []
        reasons += ["other CAs are trusted now"] if found["ca"] != trusted else []
        result = {"changed": bool(reasons), "reasons": reasons}
        if not reasons:
            return result
        certificate = found["certificate"]
        if reason and found["public_key"]:
            certificate = authority.sign(found["public_key"], *wanted, args["days"], now)
        if self._task.diff:
            path = f"{args['folder']}/host.pem"
            after = described(certificate) if certificate else f"for: {' '.join([*wanted[0], *wanted[1]])}\n"
            result["diff"] = {"before_header": path, "after_header": path, "before": described(found["certificate"]), "after": after}
        if check:
            return result
        done = self._execute_module(
            module_name="redoubt.django.host_certificate",
            module_args={**here, "do": "install", "certificate": certificate, "ca": trusted}, task_vars=task_vars)
        done.pop("invocation", None)
        return {**done, **result} if not done.get("failed") else done

    def look(self, task_vars: dict, folder: str, group: str) -> dict | None:
        """What the module would read, at a tenth of its cost; none where it is the module's to judge."""
        answer = ask(self, "sh", question(folder, group), f"certificate {folder}", task_vars)
        return None if answer is None else understood(answer)


def question(folder: str, group: str) -> str:
    return f"""\
set -e
cd {shlex.quote(folder)}
test ! -e .pending
getent group {shlex.quote(group)} | cut -d: -f3
stat --dereference --format '%u %g %a' {shlex.join(MODES)}
echo {BETWEEN}
openssl pkey -in host.key -pubout
echo {BETWEEN}
cat host.pem
echo {BETWEEN}
cat ca.pem
"""


def understood(answer: str) -> dict | None:
    """What a host says to the question; none where anything belongs to somebody else or is open to others, which the module names."""
    states, *texts = answer.replace("\r\n", "\n").split(f"{BETWEEN}\n")
    number, *owners = states.splitlines() or [""]
    if len(texts) != 3 or owners != [f"0 {number if name == 'host.key' else 0} {mode:o}" for name, mode in MODES.items()]:
        return None
    return {"changed": False, "made": False, "public_key": texts[0], "certificate": texts[1], "ca": texts[2], "astray": []}
