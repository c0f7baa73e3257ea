# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""All of C(redoubt.django.environment): a folder of the inventory is made on the controller."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import tempfile
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import PromptVaultSecret, VaultSecret
from ansible.plugins.action import ActionBase
from ansible_collections.redoubt.django.plugins.action.secrets import result
from ansible_collections.redoubt.django.plugins.plugin_utils import secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_secrets import Environment, short
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_needs import CLIENT

WORD = "ENVIRONMENT"
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec({"name": {"type": "str", "required": True}, "example": {"type": "path", "required": True},
                                               "inventories": {"type": "path", "required": True}})
        name, example, inventories = str(args["name"]), Path(args["example"]), Path(args["inventories"]).absolute()
        if not NAME.fullmatch(name):
            raise AnsibleActionFail(f"new is {name!r}, but must be a small letter, then up to 30 of a-z, 0-9 and dash: `-e new=staging`.")
        place = inventories / name
        if os.path.lexists(place):
            raise AnsibleActionFail(f"{short(place)} is there already, and is left alone: `ansible-playbook -i {short(place)} --vault-id "
                                    f"{name}@inventories/vault-client playbooks/secrets.yml` makes the secrets that it lacks.")
        try:
            return self._make(name, example, place, self._task.check_mode)
        except (secret_store.Unusable, OSError) as error:
            raise AnsibleActionFail(f"Nothing was made: {error}") from None

    def _make(self, name: str, example: Path, place: Path, check: bool) -> dict:
        keys, kept = self._keys(name)
        if not check:
            place.parent.mkdir(parents=True, exist_ok=True)
        # A dot in front: no other inventory, and gone again when anything goes wrong.
        pending = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=None if check else place.parent))
        try:
            for source in sorted(path for path in example.rglob("*") if path.is_file()):
                target = pending / source.relative_to(example)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(source.read_text().replace(WORD, name))
            environment = Environment(self._loader, [str(pending)], keys, name, place)
            outcome = environment.settle(check, datetime.datetime.now(datetime.UTC).date())
            if not check:
                if kept:
                    keep(kept, keys[-1][1])
                pending.chmod(0o755)
                try:
                    if os.path.lexists(place):
                        raise secret_store.Unusable(f"{short(place)} has come to be meanwhile.")
                    pending.rename(place)
                except BaseException:
                    if kept:
                        kept.unlink()
                    raise
        finally:
            shutil.rmtree(pending, ignore_errors=True)
        answer = result(outcome, check)
        made = f"{'Would make' if check else 'Made'} {short(place)}"
        answer["lines"].insert(0, f"{made}, with hosts.yml and group_vars/all/main.yml, which say whose hosts and what site to write there.")
        if kept:
            answer["lines"].append(f"{'Would keep' if check else 'Kept'} the vault's password in {kept}: without it the secrets are lost. Put a copy where this "
                                   "machine is not.")
        return answer | {"changed": True}

    def _keys(self, name: str) -> tuple[list[tuple[str, VaultSecret]], Path | None]:
        """The passwords of this run; a new one last, with the file that it is to be kept in, where nobody has one for this name."""
        keys = secret_store.loaded(self._loader)
        given = next((key for identity, key in keys if identity == name), None)
        if isinstance(given, PromptVaultSecret):
            raise secret_store.Unusable("a password that is typed in once would lock the vault for good when it was mistyped: leave --vault-id out, and one is made.")
        if given:
            return keys, None
        key, why = secret_store.ask(CLIENT, name)
        if why:
            raise secret_store.Unusable(why)
        if key:
            return [*keys, (name, key)], None
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "redoubt"
        return [*keys, (name, VaultSecret(secret_store.random_text().encode()))], folder / f"vault-{name}"


def keep(path: Path, key: VaultSecret) -> None:
    """Write a new password where inventories/vault-client looks for it; never over another."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as undo:
        sink = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        undo.callback(path.unlink)
        with sink:
            sink.write(key.bytes + b"\n")
            sink.flush()
            os.fsync(sink.fileno())
        undo.pop_all()
