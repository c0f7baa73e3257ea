# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""What differs between two environments, in the values that their hosts end up with, and whether somebody has said that it may.

No value of a secret leaves this file: what is kept of one is a fingerprint under a key that is made for this run and thrown away, so
that even a weak one cannot be guessed from it.
"""

from __future__ import annotations

import collections
import dataclasses
import hmac
import json
import secrets
import typing as t
from pathlib import Path

import yaml
from ansible.errors import AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import EncryptedString, VaultHelper
from ansible.template import Templar
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.redoubt.django.plugins.plugin_utils import contract, secret_needs, secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_secrets import is_vault, short, variable_files
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_store import Unusable

# Where a machine is. Two environments have two, so nobody needs to say that they may differ.
PLACES = ("ansible_host", "ansible_port", "base_addresses")
# What playbooks/rotate.yml goes on: in each environment it is another login's turn, another step's, or another day.
TURNS = ("site_database_roles", "vault_pki_ca_key_next", "vault_pki_ca_former", "app_secret_key_fallbacks", "vault_app_secret_key_fallbacks",
         "app_deploy_key_next", "vault_app_deploy_key_next",
         *(f"vault_backup_{kind}_pass_{state}" for kind in ("files", "database") for state in ("next", "former")),
         *(name.format(role) for role in ("app_database", "app_migrate")
           for name in ("{}_alternate", "vault_{}_alternate", "{}_password_other", "vault_{}_password_next", "vault_{}_password_former")))
# Beside a key: until when it counts, and which step it is at.
OF_A_TURN = ("until", "rotation")
ABSENT = "(not there)"
WIDEST = 100


@dataclasses.dataclass(frozen=True)
class Unrendered:
    """A template that only the host itself can fill in."""

    text: str


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A value as it counts, and whether anybody may see it. `own`: it stands in the environment's vault itself."""

    value: t.Any
    secret: bool = False
    own: bool = False


@dataclasses.dataclass
class Difference:
    name: str
    left: str
    right: str
    verdict: str  # of VERDICTS
    why: str = ""
    hosts: list[str] = dataclasses.field(default_factory=list)


ALLOWED, FOLLOWS, SECRET, WRONG = "allowed", "follows", "secret", "not allowed"


@dataclasses.dataclass
class Outcome:
    left: str
    right: str
    hosts: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    differences: list[Difference] = dataclasses.field(default_factory=list)
    mistakes: list[str] = dataclasses.field(default_factory=list)


# --- What may differ -------------------------------------------------------------------------------------------------


class Allowed:
    """The reviewed list: of one pair of environments the names that may differ, each with its reason."""

    def __init__(self, path: Path, left: str, right: str) -> None:
        self.path, self.pair = short(path), (left, right)
        self.reasons: dict[str, str] = {}
        self.counterparts: dict[str, str] = {}
        self.used: set[str] = set()
        try:
            entries = yaml.safe_load(path.read_text()) if path.exists() else []
        except (yaml.YAMLError, UnicodeDecodeError):
            entries = None
        if not isinstance(entries or [], list):
            raise self.malformed()
        for entry in entries or []:
            self.read(entry)

    def read(self, entry: t.Any) -> None:
        between = entry.get("between") if isinstance(entry, dict) else None
        if not isinstance(between, list) or len(between) != 2 or entry.keys() - {"between", "counterparts", "differences"}:
            raise self.malformed()
        if {str(name) for name in between} != set(self.pair):
            return
        for part, target in (("counterparts", self.counterparts), ("differences", self.reasons)):
            if not isinstance(entry.get(part) or {}, dict):
                raise self.malformed()
            for name, text in (entry.get(part) or {}).items():
                if not str(text or "").strip():
                    raise Unusable(f"{self.path}: {name} has no {'reason' if target is self.reasons else 'counterpart'}: write it behind the colon.")
                target[str(name)] = str(text)

    def malformed(self) -> Unusable:
        return Unusable(f"{self.path} is no list of `{{between: [ONE, OTHER], differences: {{name: reason}}}}`: write it so (docs/parity.md).")

    def entry(self, name: str) -> str:
        """The entry that covers a value: its own, or that of what it is a part of."""
        return next((entry for entry in self.reasons if name == entry or name.startswith((f"{entry}.", f"{entry}["))), "")

    def unused(self) -> t.Iterator[str]:
        for name in self.reasons.keys() - self.used:
            yield f"{self.path} gives a reason for {name}, but between {' and '.join(self.pair)} nothing of it needs one: remove the entry."


# --- One environment -------------------------------------------------------------------------------------------------


class Side:
    """One environment: its hosts, and what their variables come to."""

    def __init__(self, folder: Path, keys: list, basedir: str, roles: dict[str, dict]) -> None:
        self.folder, self.name, self.keys = folder, folder.name, keys
        self.loader = DataLoader()
        self.loader.set_basedir(basedir)
        self.loader.set_vault_secrets(keys)
        self.encrypted = self.open()
        try:
            self.inventory, self.manager = self.read([str(folder)])
        except AnsibleError as error:
            raise Unusable(f"{short(folder)} is no inventory that can be read: {' '.join(str(error).split())}") from None
        self.groups = self.inventory.get_groups_dict()
        self.roles = roles
        self.specs = {name: spec for role in self.roles.values() for name, spec in (role["specs"].get("main", {}).get("options") or {}).items()}
        self.defaults = {name: value for role in self.roles.values() for name, value in role["defaults"].items()}
        inventory, manager = self.read(["nobody,"])
        self.magic = set(manager.get_vars(host=inventory.get_host("nobody"))) | {"group_names", "inventory_file", "inventory_dir"}
        for sentence in contract.check_groups(self.groups, [host.name for host in self.inventory.get_hosts()]):
            raise Unusable(f"{short(folder)}: {sentence}")

    def read(self, sources: list[str]) -> tuple[InventoryManager, VariableManager]:
        inventory = InventoryManager(loader=self.loader, sources=sources)
        manager = VariableManager(loader=self.loader, inventory=inventory)
        HostVars(inventory=inventory, variable_manager=manager, loader=self.loader)
        return inventory, manager

    def open(self) -> set[str]:
        """The names in this environment's encrypted files, with the vault or with SOPS."""
        names: set[str] = set()
        for path in [*variable_files(self.folder), *sorted(each for each in self.folder.iterdir() if each.is_file())]:
            if is_vault(path):
                identity = secret_store.vault_id(path.read_bytes())
                if identity not in ("", "default", self.name):
                    raise Unusable(f"{short(path)} is the vault of {identity!r} by its first line, but this environment is {self.name!r}: give it secrets of its own.")
                text = secret_store.decrypt(path.read_bytes(), self.keys, short(path))[0]
            else:
                text = path.read_text(errors="replace")
                if "\nsops:" not in text or "ENC[" not in text:
                    continue
            names |= set(secret_store.Document(text, short(path)).values)
        return names

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """The groups of the kit that each host is in."""
        return {host.name: tuple(group for group in contract.GROUPS if host.name in self.groups.get(group, [])) for host in self.inventory.get_hosts()}

    def raw(self, host: str) -> dict[str, t.Any]:
        """A host's variables as they are written, defaults of all roles among them."""
        return {**self.defaults, **self.manager.get_vars(host=self.inventory.get_host(host))}

    def wanted(self, host: str) -> set[str]:
        """The variables that count: what the host's roles take, and what the inventory says beside."""
        values = self.manager.get_vars(host=self.inventory.get_host(host))
        authority = contract.is_fleet(self.groups) or str(values.get("app_admin_client_ca")) == "environment"
        roles = contract.roles_of(self.hosts()[host], authority, *(bool(self.groups.get(name)) for name in ("backups", "logs")))
        options = {option for role in roles if role in self.roles for option in self.roles[role]["specs"]["main"].get("options") or {}}
        return {name for name in values if name not in self.magic} | (options & self.defaults.keys())

    def leaves(self, host: str, groups: dict[str, list[str]] | None = None) -> dict[tuple, Leaf]:
        """What the variables come to, part by part. What changes when the secrets do, takes part of one."""
        raw, inline = self.opened(self.raw(host))
        if groups is not None:
            raw |= {"groups": groups, "group_names": sorted(name for name, members in groups.items() if host in members and name != "all")}
        wanted = self.wanted(host)
        real = self.render(raw, wanted)
        own = {name for name in raw if name.startswith("vault_") or name in self.encrypted}
        sources = own | {name for name in raw if secret_store.PASSWORD.fullmatch(name) or (self.specs.get(name) or {}).get("no_log")}
        others = []
        for variant in (0, 1):
            fake = {name: pretend(value, variant) if name in sources else value for name, value in raw.items()}
            for path in inline:
                fake[path[0]] = replaced(fake[path[0]], path[1:], lambda value, variant=variant: pretend(value, variant))
            others.append(self.render(fake, wanted, strict=False))
        known = {text for name in own for text in contract.leaves(raw[name]) if len(text) >= 6 and "{{" not in text}
        known |= {text for path in inline for text in contract.leaves(at(raw, path)) if len(text) >= 6}
        found = {}
        for path, value in real.items():
            secret = self.named_secret(raw, path) or path[0] in sources or any(path[:len(each)] == each for each in inline)
            # A switch is no secret, wherever it stands.
            secret = secret or any(other.get(path, ABSENT) != value for other in others) or any(text in leaf for leaf in contract.leaves(value) for text in known)
            found[path] = Leaf(value, secret and not isinstance(value, (bool, type(None))), path[0] in own)
        return found

    def opened(self, value: t.Any, path: tuple = ()) -> tuple[t.Any, list[tuple]]:
        """A value with its single encrypted texts decrypted, and where they are."""
        if isinstance(value, EncryptedString):
            data = VaultHelper.get_ciphertext(value, with_tags=False).encode()
            return secret_store.decrypt(data, self.keys, contract.dotted(path[0], path[1:]))[0], [path]
        if isinstance(value, (dict, list)) and path[:1] not in (("hostvars",), ("groups",), ("vars",)):
            pairs = [(key, self.opened(item, (*path, key))) for key, item in (value.items() if isinstance(value, dict) else enumerate(value))]
            places = [place for _, (_, inner) in pairs for place in inner]
            if places or not path:
                return {key: item for key, (item, _) in pairs} if isinstance(value, dict) else [item for _, (item, _) in pairs], places
        return value, []

    def named_secret(self, raw: dict, path: tuple) -> bool:
        """Whether its name, or its role, says that it is nobody's business."""
        options, spec = self.specs, {}
        for step in (step for step in path if not isinstance(step, int)):
            spec = (options or {}).get(step) or {}
            if spec.get("no_log"):
                return True
            options = spec.get("options")
        if path[0] == "app_env":
            return len(path) > 1 and bool(contract.SECRET_NAME.fullmatch(path[1]) or secret_store.TOKEN.fullmatch(path[1]))
        if path[0] == "app_files" and path[-1] == "content":
            return bool((at(raw, path[:-1]) or {}).get("secret"))
        return False

    def render(self, raw: dict[str, t.Any], names: t.Iterable[str], strict: bool = True) -> dict[tuple, t.Any]:
        templar = Templar(loader=self.loader, variables=raw)
        found: dict[tuple, t.Any] = {}
        for name in sorted(names):
            for path, value in self.parts(templar, raw[name], (name,), strict):
                found[path] = value
        return found

    def parts(self, templar: Templar, value: t.Any, path: tuple, strict: bool) -> t.Iterator[tuple[tuple, t.Any]]:
        if isinstance(value, (dict, list)) and not all_single(value):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                yield from self.parts(templar, item, (*path, key if isinstance(key, int) else str(key)), strict)
            return
        try:
            rendered = templar.template(value)
        except AnsibleError as error:
            missing = secret_needs.MISSING.search(str(error))
            if strict and missing:
                raise Unusable(f"{missing[1]} is not defined in {self.name}, but {contract.dotted(path[0], path[1:])} takes it: `ansible-playbook -i {short(self.folder)} "
                               f"--vault-id {self.name}@inventories/vault-client playbooks/secrets.yml` makes it.") from None
            yield path, Unrendered(str(value))
            return
        yield from flat(rendered, path)


def all_single(value: dict | list) -> bool:
    """Whether it is one value to whoever reads it: a list of words, or nothing at all."""
    return not value or (isinstance(value, list) and not any(isinstance(item, (dict, list)) for item in value))


def flat(value: t.Any, path: tuple) -> t.Iterator[tuple[tuple, t.Any]]:
    if isinstance(value, (dict, list)) and not all_single(value):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(item, (*path, key if isinstance(key, int) else str(key)))
    else:
        yield path, value


def at(value: t.Any, path: tuple) -> t.Any:
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value


def replaced(value: t.Any, path: tuple, change: t.Callable) -> t.Any:
    """A copy with one part changed; `change` gives ABSENT for one that is to go."""
    if not path:
        return change(value)
    if isinstance(value, dict):
        copy = {key: item for key, item in value.items() if str(key) != str(path[0])}
        key = next((key for key in value if str(key) == str(path[0])), path[0])
        part = replaced(value.get(key), path[1:], change)
        return copy if part is ABSENT else {**copy, key: part}
    if isinstance(value, list) and isinstance(path[0], int) and path[0] < len(value):
        return [replaced(item, path[1:], change) if index == path[0] else item for index, item in enumerate(value)]
    return change(None) if value is None and len(path) == 1 else value


def pretend(value: t.Any, variant: int) -> t.Any:
    """Another value of the same kind: in no character the same, nor of the same length."""
    if isinstance(value, dict):
        return {key: pretend(item, variant) for key, item in value.items()}
    if isinstance(value, list):
        return [pretend(item, variant) for item in value]
    if isinstance(value, str) and value and "{{" not in value and "{%" not in value:
        return "Q7"[variant] * (len(value) + 1 + variant)
    if isinstance(value, int) and not isinstance(value, bool):
        return value + 1 + variant
    return value


# --- Two environments ------------------------------------------------------------------------------------------------


class Parity:
    """Compares two environments, host by host."""

    def __init__(self, left: Side, right: Side, allowed: Allowed) -> None:
        self.left, self.right, self.allowed = left, right, allowed
        self.key = secrets.token_bytes(32)
        self.outcome = Outcome(left.name, right.name)

    def compare(self) -> Outcome:
        pairs = self.outcome.hosts = self.pairs()
        self.groups(pairs)
        names = {right: left for left, right in reversed(pairs)}
        before = [(left, right, self.left.leaves(left), renamed(self.right.leaves(right), names)) for left, right in pairs]
        for _, right, ours, theirs in reversed(before):
            self.substitute(right, ours, theirs)
        # Of what still differs where the right has the left's values of all that may differ, nothing follows from that.
        apart = any(each.name.startswith("groups.") for each in self.outcome.differences)
        for left, right, ours, theirs in before:
            self.substitute(right, ours, theirs)
            after = renamed(self.right.leaves(right, self.left_groups([(left, right), *pairs]) if apart else None), names)
            self.judge(f"{left}" if left == right else f"{left}/{right}", ours, theirs, after)
        self.outcome.mistakes += [self.sentence(each) for each in self.outcome.differences if each.verdict == WRONG]
        self.outcome.mistakes += sorted(self.allowed.unused())
        return self.outcome

    # --- Which host is whose counterpart -----------------------------------------------------------------------------

    def pairs(self) -> list[tuple[str, str]]:
        """Hosts of the same groups, the first with the first; what one side has more of, with the other's last."""
        found: list[tuple[str, str]] = []
        ours, theirs = self.left.hosts(), self.right.hosts()
        for one, other in self.allowed.counterparts.items():
            pair = (one, other) if one in ours and other in theirs else (other, one)
            if pair[0] not in ours or pair[1] not in theirs:
                raise Unusable(f"{self.allowed.path} calls {one} and {other} counterparts, but they are not hosts of {self.left.name} and {self.right.name}: correct it.")
            found.append(pair)
        settled = {left for left, _ in found}, {right for _, right in found}
        for groups in dict.fromkeys([*ours.values(), *theirs.values()]):
            left, right = ([name for name, own in hosts.items() if own == groups and name not in done] for hosts, done in zip((ours, theirs), settled, strict=True))
            # The same name on both sides is the same host, wherever it stands.
            same = [name for name in left if name in right]
            left, right = [*same, *(name for name in left if name not in same)], [*same, *(name for name in right if name not in same)]
            if bool(left) != bool(right):
                side, without, alone = (self.left, self.right, left) if left else (self.right, self.left, right)
                raise Unusable(f"{contract.listed(alone)} of {side.name} {'is' if len(alone) == 1 else 'are'} in {contract.listed(groups)}, and no host of {without.name} "
                               f"is in just {'that' if len(groups) == 1 else 'those'}: give {without.name} one, or name its counterpart in {self.allowed.path} "
                               f"(`counterparts: {{{alone[0]}: HOST}}`).")
            found += [(left[min(index, len(left) - 1)], right[min(index, len(right) - 1)]) for index in range(max(len(left), len(right)))]
        return found

    def groups(self, pairs: list[tuple[str, str]]) -> None:
        for group in contract.GROUPS:
            ours, theirs = self.left.groups.get(group, []), self.right.groups.get(group, [])
            mapped = sorted({left for left, right in pairs if right in theirs})
            if len(ours) != len(theirs) or sorted(ours) != mapped:
                self.differs(f"groups.{group}", contract.listed(ours) or ABSENT, contract.listed(theirs) or ABSENT, "all hosts")

    def left_groups(self, pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
        """The left's groups, with the right's names; of several for one, the first of the pairs."""
        names = dict(reversed(pairs))
        return {group: [names[host] for host in hosts if host in names] for group, hosts in self.left.groups.items()}

    # --- What differs ------------------------------------------------------------------------------------------------

    def substitute(self, right: str, ours: dict[tuple, Leaf], theirs: dict[tuple, Leaf]) -> None:
        """Give a host of the right what the left has, where that may differ."""
        for path in sorted(ours.keys() | theirs.keys(), key=str):
            mine, its = ours.get(path), theirs.get(path)
            if mine == its or any(leaf and leaf.secret for leaf in (mine, its)) or not (path[0] in PLACES + TURNS or self.allowed.entry(contract.dotted(path[0], path[1:]))):
                continue
            if mine and isinstance(mine.value, Unrendered):
                continue
            value = replaced(self.right.raw(right).get(path[0]), path[1:], lambda _, mine=mine: mine.value if mine else ABSENT)
            if value is not ABSENT:
                self.right.manager.set_host_variable(right, path[0], value)

    def judge(self, hosts: str, ours: dict[tuple, Leaf], theirs: dict[tuple, Leaf], after: dict[tuple, Leaf]) -> None:
        same: dict[str, list[str]] = collections.defaultdict(list)
        for path in sorted(ours.keys() | theirs.keys() | after.keys(), key=lambda path: [str(step) for step in path]):
            mine, its, then = ours.get(path), theirs.get(path), after.get(path)
            name = contract.dotted(path[0], path[1:])
            if path[0] in PLACES + TURNS:
                if mine and its and mine.secret and long(mine.value) and path[-1] not in OF_A_TURN and mine.value == its.value:
                    same[self.print(mine.value)].append(name)
                continue
            if any(leaf and leaf.secret for leaf in (mine, its)):
                self.secret(name, mine, its, hosts, same)
            elif value(mine) != value(its):
                follows = value(mine) == value(then) and not self.allowed.entry(name)
                self.differs(name, self.shown(mine), self.shown(its), hosts, FOLLOWS if follows else "")
            elif value(mine) != value(then) and not (then and then.secret):
                self.differs(name, self.shown(mine), f"{self.shown(then)} if it followed what may differ", hosts)
        for names in same.values():
            self.equal(names, hosts)
        self.crossed(ours, theirs, hosts)

    def secret(self, name: str, mine: Leaf | None, its: Leaf | None, hosts: str, same: dict[str, list[str]]) -> None:
        there = [bool(leaf) and leaf.value not in ("", [], {}, None) for leaf in (mine, its)]
        if there == [True, True] and mine.value == its.value:
            same[self.print(mine.value)].append(name)
        elif there == [True, True] and mine.secret == its.secret:
            self.differs(name, self.shown(mine), self.shown(its), hosts, SECRET)
        elif any(there):
            self.differs(name, self.shown(mine, True), self.shown(its, True), hosts)

    def equal(self, names: list[str], hosts: str) -> None:
        """One value under these names, on both sides."""
        names.sort(key=lambda name: (not name.startswith("vault_"), name))
        entry = next((entry for entry in map(self.allowed.entry, names) if entry), "")
        self.allowed.used |= {entry} if entry else set()
        label = names[0] + (f" (also {', '.join(names[1:])})" if names[1:] else "")
        self.note(Difference(label, "the same secret", "the same secret", ALLOWED if entry else WRONG, self.allowed.reasons.get(entry, ""), [hosts]))

    def crossed(self, ours: dict[tuple, Leaf], theirs: dict[tuple, Leaf], hosts: str) -> None:
        """A secret of the one that is another one of the other."""
        known = {self.print(leaf.value): path for path, leaf in ours.items() if leaf.own and long(leaf.value)}
        for path, leaf in theirs.items():
            first = known.get(self.print(leaf.value)) if leaf.own and long(leaf.value) else None
            if first and first != path and not (ours.get(path) and ours[path].value == leaf.value):
                self.equal([f"{contract.dotted(first[0], first[1:])} of {self.left.name} and {contract.dotted(path[0], path[1:])} of {self.right.name}"], hosts)

    def differs(self, name: str, left: str, right: str, hosts: str, verdict: str = "") -> None:
        entry = self.allowed.entry(name) if not verdict else ""
        self.allowed.used |= {entry} if entry else set()
        self.note(Difference(name, left, right, verdict or (ALLOWED if entry else WRONG), self.allowed.reasons.get(entry, ""), [hosts]))

    def note(self, difference: Difference) -> None:
        """The same of another host is the same difference."""
        for known in self.outcome.differences:
            if dataclasses.replace(known, hosts=[]) == dataclasses.replace(difference, hosts=[]):
                known.hosts += [host for host in difference.hosts if host not in known.hosts]
                return
        self.outcome.differences.append(difference)

    # --- What is said ------------------------------------------------------------------------------------------------

    def print(self, value: t.Any) -> str:
        return hmac.digest(self.key, json.dumps(value, sort_keys=True, default=str).encode(), "sha256").hex()[:12]

    def shown(self, leaf: Leaf | None, secret: bool = False) -> str:
        if leaf is None:
            return ABSENT
        if (leaf.secret or secret) and leaf.value not in ("", [], {}, None):
            return f"secret {self.print(leaf.value)}"
        if isinstance(leaf.value, Unrendered):
            return f"only known on the host: {leaf.value.text[:WIDEST]}"
        text = json.dumps(leaf.value, ensure_ascii=False, default=str)
        return text if len(text) <= WIDEST else f"{text[:WIDEST // 2]}… ({len(text)} characters, {self.print(leaf.value)})"

    def sentence(self, each: Difference) -> str:
        where = f" ({', '.join(each.hosts)})"
        if each.left == "the same secret":
            return f"{each.name}: {self.left.name} and {self.right.name} have the same secret: give each its own, or say in {self.allowed.path} why it is shared.{where}"
        return (f"{each.name} differs, and {self.allowed.path} does not say why it may: {each.left} in {self.left.name}, {each.right} in {self.right.name}. "
                f"Make them the same, or give the reason there.{where}")


def value(leaf: Leaf | None) -> t.Any:
    return ABSENT if leaf is None else leaf.value


def long(value: t.Any) -> bool:
    return isinstance(value, str) and len(value) >= 8


def renamed(leaves: dict[tuple, Leaf], names: dict[str, str]) -> dict[tuple, Leaf]:
    """With the names of the other side's hosts, where a host's name is all there is."""

    def change(value: t.Any) -> t.Any:
        if isinstance(value, list):
            return [change(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    return {tuple(names.get(step, step) if index else step for index, step in enumerate(path)): dataclasses.replace(leaf, value=change(leaf.value))
            for path, leaf in leaves.items()}


# --- From their names ------------------------------------------------------------------------------------------------


def compare(loader, left: str, right: str, inventories: Path, allowed: Path | None, client: Path = secret_needs.CLIENT) -> Outcome:
    """Compare two environments by their names, or by the folders that they are."""
    folders = [find(option, name, inventories) for option, name in (("left", left), ("right", right))]
    if folders[0] == folders[1] or folders[0].name == folders[1].name:
        raise Unusable(f"left and right are both {folders[0].name}: name two environments, `-e left=staging -e right=production`.")
    reasons = Allowed(allowed or inventories / "parity.yml", *(folder.name for folder in folders))
    roles = secret_needs.roles(loader)
    sides = [Side(folder, keys_of(loader, folder, client), loader.get_basedir(), roles) for folder in folders]
    return Parity(*sides, reasons).compare()


def find(option: str, name: str, inventories: Path) -> Path:
    if not name:
        raise Unusable(f"{option} is not given: name two environments, `-e left=staging -e right=production`.")
    folder = Path(name).absolute() if "/" in name else inventories / name
    if folder.is_dir():
        return folder.resolve()
    known = sorted(path.name for path in folder.parent.iterdir() if path.is_dir() and not path.name.startswith(".")) if folder.parent.is_dir() else []
    raise Unusable(f"{option} is {name!r}, but {short(folder)} is not there{contract.closest(folder.name, known) or f'; there are: {contract.listed(known)}.' if known else '.'}")


def keys_of(loader, folder: Path, client: Path) -> list:
    """The passwords of this run, and the environment's own, where nobody has given it."""
    keys = secret_store.loaded(loader)
    if any(identity == folder.name for identity, _ in keys) or not any(map(is_vault, variable_files(folder))):
        return keys
    key, why = secret_store.ask(client, folder.name)
    if why:
        raise Unusable(why)
    return [*keys, (folder.name, key)] if key else keys
