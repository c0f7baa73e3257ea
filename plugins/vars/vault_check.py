# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Say which vault does not open and how to open it."""

from __future__ import annotations

import os

from ansible.errors import AnsibleError
from ansible.inventory.group import InventoryObjectType
from ansible.parsing.vault import AnsibleVaultFormatError
from ansible.plugins.vars import BaseVarsPlugin
from ansible.utils.path import basedir

DOCUMENTATION = """
name: vault_check
short_description: Say which vault does not open and how to open it
description:
  - Opens the encrypted files of group_vars and host_vars before P(ansible.builtin.host_group_vars#vars) does, and stops
    with a sentence that names the file and the fix. Ansible's own message names neither.
  - Gives no variables. What it has opened stays in the loader's cache, so that nothing is decrypted twice.
"""

MAGIC = b"$ANSIBLE_VAULT;"
seen: set[tuple[str, str, str]] = set()


class VarsModule(BaseVarsPlugin):
    is_stateless = True

    def get_vars(self, loader, path, entities, cache=True):
        for entity in entities if isinstance(entities, list) else [entities]:
            subdir = "host_vars" if entity.base_type is InventoryObjectType.HOST else "group_vars"
            # It is asked for each task and host.
            if entity.name.startswith(os.path.sep) or (path, subdir, entity.name) in seen:
                continue
            seen.add((path, subdir, entity.name))
            place = os.path.join(os.path.realpath(basedir(path)), subdir)
            for found in loader.find_vars_files(place, entity.name) if os.path.isdir(place) else []:
                open_vault(loader, os.fsdecode(found))
        return {}


def open_vault(loader, path: str) -> None:
    try:
        with open(path, "rb") as handle:
            header = handle.readline(200)
    except OSError as error:
        raise AnsibleError(f"{path} cannot be read: {error.strerror}.") from None
    if not header.startswith(MAGIC):
        return
    try:
        # The arguments of host_group_vars: the same entry of the loader's cache.
        loader.load_from_file(path, cache="all", unsafe=True, trusted_as_template=True)
    except AnsibleError as error:
        fields = header.decode(errors="replace").strip().split(";")
        raise AnsibleError(sentence(path, fields[3] if len(fields) > 3 else "", loader, error)) from None


def sentence(path: str, vault_id: str, loader, error: AnsibleError) -> str:
    relative = os.path.relpath(path)
    name = path if relative.startswith("..") else relative
    option = f"--vault-id {vault_id}@inventories/vault-client (docs/secrets.md) or --vault-id {vault_id}@prompt" if vault_id else "--vault-password-file <file> or --ask-vault-pass"
    if not getattr(getattr(loader, "_vault", None), "secrets", None):
        return f"{name} is encrypted and no vault password was given: add {option}. Nothing was changed."
    chain: BaseException | None = error
    while chain:
        if isinstance(chain, AnsibleVaultFormatError) or "unhexlify" in str(chain):
            return f"{name} is a damaged vault, not all of it is there: take it from version control again. Nothing was changed."
        chain = chain.__cause__ or chain.__context__
    if "decrypt" not in str(error).lower():
        return f"{name}: {error}"
    known = f" of the vault id {vault_id!r}" if vault_id else ""
    return (
        f"{name} does not open with the vault password given: give the one{known} with {option}, or, "
        "if it is the right one, take the file from version control again. Nothing was changed."
    )
