# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""All of C(redoubt.django.admin_certificate): what it makes is for people, not for hosts."""

from __future__ import annotations

import datetime
import os
import re
import secrets
from pathlib import Path

import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.plugin_utils.authority import Authority, Unusable

ARGUMENTS = {
    "ca_certificate": {"type": "str", "required": True},
    "ca_key": {"type": "str", "required": True, "no_log": True},
    "register": {"type": "path", "required": True},
    "issue": {"type": "str", "default": ""},
    "to": {"type": "path", "default": ""},
    "days": {"type": "int", "default": 365},
    "revoke": {"type": "str", "default": ""},
}
HEAD = "---\n# Who may open the admin. Written by playbooks/admin-cert.yml; keep it with the inventory.\n"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENTS)
        # What a variable says has a mark of where it comes from, which is no part of a file.
        args = {name: str(value) if isinstance(value, str) else value for name, value in args.items()}
        # Relative to where the operator stands, as for every other file of a command line.
        register = Path(args["register"]).absolute()
        listed = read(register)
        today = datetime.datetime.now(datetime.UTC)
        if args["issue"] and args["revoke"]:
            raise AnsibleActionFail("Name one to issue or one to revoke, not both: a new one takes two runs.")
        if args["issue"]:
            return self._issue(args, register, listed, today, (task_vars or {}).get("groups", {}).get("all", []))
        if args["revoke"]:
            return self._revoke(args["revoke"], register, listed, today)
        return {"changed": False, "certificates": listed, "msg": f"{len(listed)} in {register}"}

    def _issue(self, args: dict, register: Path, listed: list[dict], now: datetime.datetime, hosts: list[str]) -> dict:
        name = args["issue"]
        if not NAME.fullmatch(name):
            raise AnsibleActionFail(f"issue is {name!r}, but must be a letter or digit, then up to 62 of a-z, 0-9, dot, dash and underscore.")
        if name in hosts:
            raise AnsibleActionFail(f"issue is {name!r}, which is a host of the inventory: its certificate would open what is the host's, such as its "
                                    "backups. Give the person another name.")
        if args["days"] < 1:
            raise AnsibleActionFail(f"days is {args['days']}, but must be 1 or more.")
        good = next((each for each in listed if each["name"] == name and not each["revoked"] and each["until"] >= f"{now:%Y-%m-%d}"), None)
        if good:
            raise AnsibleActionFail(f"{name} has a certificate that is good until {good['until']} (serial {good['serial']}): revoke that first, or give "
                                    "the new one a name of its own, such as one for each device.")
        path = Path(args["to"] or f"{name}.p12").absolute()
        words = path.with_name(path.name + ".passphrase")
        taken = next((each for each in (path, words) if each.exists()), None)
        if taken:
            raise AnsibleActionFail(f"{taken} is there already: move it away, or write elsewhere with `-e to=FILE`.")
        try:
            authority = Authority(args["ca_certificate"], args["ca_key"])
        except Unusable as error:
            raise AnsibleActionFail(f"{' '.join(error.args)}.") from None
        if self._task.check_mode:
            return {"changed": True, "certificates": listed, "msg": f"Would write {path} for {name}."}
        passphrase = "-".join(secrets.token_hex(3) for _ in range(4))
        bundle, certificate = authority.client(name, args["days"], passphrase, now)
        number = f"{certificate.serial_number:X}"
        entry = {"name": name, "serial": number.zfill(len(number) + len(number) % 2), "until": f"{certificate.not_valid_after_utc:%Y-%m-%d}", "revoked": ""}
        written = []
        try:
            for target, content in ((path, bundle), (words, f"{passphrase}\n".encode())):
                with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
                    written.append(target)
                    sink.write(content)
            write(register, [*listed, entry])
        except Exception as error:
            # A certificate that is not listed opens nothing.
            for target in written:
                target.unlink()
            raise AnsibleActionFail(f"Nothing was made: {error}.") from error
        return {"changed": True, "certificates": [*listed, entry],
                "msg": f"{path} is {name}'s certificate, good until {entry['until']}, and {words} what its import asks for. Send the two by "
                       "different ways, then delete both: another is made sooner than this one is looked after."}

    def _revoke(self, who: str, register: Path, listed: list[dict], now: datetime.datetime) -> dict:
        hit = [each for each in listed if who in (each["name"], each["serial"]) and not each["revoked"]]
        if not hit:
            known = ", ".join(sorted({each["name"] for each in listed if not each["revoked"]})) or "none"
            raise AnsibleActionFail(f"No certificate that is still good is called {who!r}; there are: {known}.")
        new = [each | {"revoked": f"{now:%Y-%m-%d}"} if each in hit else each for each in listed]
        if not self._task.check_mode:
            try:
                write(register, new)
            except OSError as error:
                raise AnsibleActionFail(f"Nothing was revoked: {error}.") from None
        return {"changed": True, "certificates": new, "msg": f"Opens nothing once nginx knows it: {', '.join(each['serial'] for each in hit)} ({who})."}


def read(register: Path) -> list[dict]:
    """Return what is listed; a file that says something else is not written over."""
    try:
        found = yaml.safe_load(register.read_text())
    except FileNotFoundError:
        return []
    except (OSError, yaml.YAMLError) as error:
        raise AnsibleActionFail(f"{register} cannot be read: {' '.join(str(error).split())}.") from None
    listed = found.get("app_admin_certificates") if isinstance(found, dict) else None
    entries = listed if isinstance(listed, list) and set(found) == {"app_admin_certificates"} else [None]
    if not all(isinstance(each, dict) and {"name", "serial", "until"} <= each.keys() for each in entries):
        raise AnsibleActionFail(f"{register} holds something else than app_admin_certificates: move that to another file.")
    return [{"revoked": "", **{key: str(value) for key, value in each.items()}} for each in entries]


def write(register: Path, listed: list[dict]) -> None:
    """Replace the list in one rename."""
    register.parent.mkdir(parents=True, exist_ok=True)
    pending = register.with_name(f".{register.name}.new")
    pending.write_text(HEAD + yaml.safe_dump({"app_admin_certificates": listed}, sort_keys=False))
    pending.replace(register)
