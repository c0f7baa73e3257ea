# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Which secrets an inventory needs, and what for: what its roles and its own variables take from names that begin with vault_."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
import typing as t
from pathlib import Path

from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.template import Templar
from ansible.utils.display import Display
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.redoubt.django.plugins.plugin_utils import contract

display = Display()
KIT = Path(os.path.realpath(__file__)).parent.parent.parent
ROLES = KIT / "roles"
CLIENT = KIT / "inventories" / "vault-client"
MISSING = re.compile(r"'(vault_\w+)' is undefined")
NAMED = re.compile(r"\bvault_\w+")
PART = re.compile(r"\b(vault_\w+)[.\[]")
# Any value stands for one that is not there yet, so that the next one behind it is found.
STAND_IN = "stand-in"


@dataclasses.dataclass
class Needs:
    """By name: which variables use it. `needed` cannot be rendered without; `mentioned` are all that any variable speaks of."""

    needed: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    mentioned: dict[str, list[str]] = dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    missing: set[str] = dataclasses.field(default_factory=set)  # of the needed ones, those that a host lacks
    authority: bool = False  # hosts talk to each other, or the admin asks for certificates
    certificate: str | None = None  # pki_ca_certificate, where it is set
    parts: set[str] = dataclasses.field(default_factory=set)  # names of which something takes a part
    accepted: set[str] = dataclasses.field(default_factory=set)  # what somebody has given a reason for
    secret_options: set[str] = dataclasses.field(default_factory=set)
    ours: set[str] = dataclasses.field(default_factory=set)  # of those, the single values that nobody else gives out
    owner: dict[str, str] = dataclasses.field(default_factory=dict)

    def users(self, name: str) -> list[str]:
        return self.needed.get(name) or self.mentioned.get(name) or []


def roles(loader) -> dict[str, dict]:
    """Interface and defaults of every role of the collection. They are the loader's own: nobody may change them."""
    found = {}
    for spec in sorted([*ROLES.glob("*/meta/argument_specs.yml"), *ROLES.glob("*/meta/contract.yml")]):
        defaults = spec.parent.parent / "defaults" / "main.yml"
        found[spec.parent.parent.name] = {
            "specs": loader.load_from_file(str(spec), unsafe=True)["argument_specs"],
            "defaults": (loader.load_from_file(str(defaults), unsafe=True, trusted_as_template=True) or {}) if defaults.is_file() else {},
        }
    return found


def needs(loader, sources: list[str]) -> Needs:
    """What the hosts of these inventory sources need. Nothing is connected to, and no secret is looked at."""
    inventory = InventoryManager(loader=loader, sources=sources)
    manager = VariableManager(loader=loader, inventory=inventory)
    HostVars(inventory=inventory, variable_manager=manager, loader=loader)
    known = roles(loader)
    groups = inventory.get_groups_dict()
    found = Needs()
    for name, role in known.items():
        for option, spec in (role["specs"].get("main", {}).get("options") or {}).items():
            found.owner.setdefault(option, name)
            if spec.get("no_log"):
                found.secret_options.add(option)
                if spec.get("type") == "str" and not contract.foreign(option):
                    found.ours.add(option)
    for host in inventory.get_hosts():
        raw = manager.get_vars(host=host)
        available = {**{key: value for role in known.values() for key, value in role["defaults"].items()}, **raw}
        authority = contract.is_fleet(groups) or str(raw.get("app_admin_client_ca")) == "environment"
        own = contract.roles_of([name for name in groups if host.name in groups[name]], authority, *(bool(groups.get(name)) for name in ("backups", "logs")))
        found.accepted |= contract.accepted_names(raw.get("accepted_secrets"))
        options = {option for name in own if name in known for option in known[name]["specs"]["main"].get("options") or {}}
        if "pki" in own:
            found.authority = True
            if isinstance(raw.get("pki_ca_certificate"), str):
                found.certificate = str(raw["pki_ca_certificate"])
        for name, value in available.items():
            for path, leaf in _texts(value) if not name.startswith("vault_") and (name in raw or name in options) else []:
                found.parts |= {secret for block in re.findall(r"{{.*?}}|{%.*?%}", leaf, re.DOTALL) for secret in PART.findall(block)}
                for secret in NAMED.findall(leaf):
                    _add(found.mentioned, secret, contract.dotted(name, path))
        # How a host is reached is nobody's option, and may have a password all the same.
        asked = [*sorted(options), *(name for name in raw if name.startswith("ansible_") and any(map(NAMED.search, contract.leaves(raw[name]))))]
        empty = {key: value for key, value in available.items() if not key.startswith("vault_")}
        found.missing |= _ask(Templar(loader=loader), empty, asked, found) - raw.keys()
    return found


def _ask(templar, available: dict[str, t.Any], options: list[str], found: Needs) -> set[str]:
    """Render every option as if the vault were empty; what is then undefined is needed."""
    all_missing = set()
    open_parts = [(name, path, leaf) for name in options if name in available for path, leaf in _texts(available[name])]
    while open_parts:
        copy = templar.copy_with_new_env(available_variables=available)
        failed, missing = [], set()
        for name, path, leaf in open_parts:
            try:
                copy.template(leaf)
            except AnsibleError as error:
                match = MISSING.search(str(error))
                if match:
                    missing.add(match[1])
                    failed.append((name, path, leaf))
                    _add(found.needed, match[1], contract.dotted(name, path))
            except Exception as error:  # noqa: BLE001 - a stand-in in a filter that wants something else; the preflight judges the real value
                display.vvv(f"{contract.dotted(name, path)} is not rendered with a stand-in: {type(error).__name__}")
        available = {**available, **dict.fromkeys(missing, STAND_IN)}
        all_missing |= missing
        open_parts = failed
    return all_missing


def _add(users: dict[str, list[str]], name: str, user: str) -> None:
    if user not in users[name]:
        users[name].append(user)


def _texts(value: t.Any, path: tuple = ()) -> t.Iterator[tuple[tuple, str]]:
    """Templates inside a value, and where they are."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        yield path, value
