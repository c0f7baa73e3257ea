# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""The secrets of one environment: what there is, what is wrong with it, and what is missing and made.

Nothing that is returned from here holds a value: names, days and sentences alone.
"""

from __future__ import annotations

import dataclasses
import datetime
import hmac
import os
import secrets
import typing as t
from pathlib import Path

import yaml
from ansible import context
from ansible.parsing.vault import PromptVaultSecret, VaultSecret
from ansible_collections.redoubt.django.plugins.plugin_utils import contract, secret_needs, secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.authority import Authority
from ansible_collections.redoubt.django.plugins.plugin_utils.authority import Unusable as UnusableAuthority
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_store import Document, Unusable, Vault

VAULT = Path("group_vars") / "all" / "vault.yml"
CERTIFICATE = Path("group_vars") / "all" / "pki.yml"
CERTIFICATE_HEAD = "---\n# Certificate of the environment's own CA, which hosts know each other by. Public; its key is in the vault.\n"


@dataclasses.dataclass
class Secret:
    """One name in an encrypted file."""

    name: str
    file: str
    made: datetime.date | None
    used_by: list[str]
    again: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Outcome:
    environment: str
    vault: str
    secrets: list[Secret] = dataclasses.field(default_factory=list)
    made: list[str] = dataclasses.field(default_factory=list)
    mistakes: list[str] = dataclasses.field(default_factory=list)
    unopened: list[str] = dataclasses.field(default_factory=list)
    compared: list[str] = dataclasses.field(default_factory=list)
    deploy_keys: dict[str, str] = dataclasses.field(default_factory=dict)


def inventory_sources(task_vars: dict) -> list[str]:
    """What `-i` names, or else the configuration."""
    return list(context.CLIARGS.get("inventory") or []) or list(task_vars["hostvars"]._inventory._sources)


def folder_of(sources: t.Iterable[str]) -> Path:
    """The environment's folder: the first inventory source that is one, or that lies in one."""
    paths = [Path(source) for source in sources if "," not in source]
    for path in paths:
        if path.is_dir():
            return Path(os.path.abspath(path))
    for path in paths:
        if path.is_file():
            return Path(os.path.abspath(path)).parent
    raise Unusable("No inventory is a folder: name the environment with -i inventories/ENVIRONMENT.")


def short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def variable_files(folder: Path) -> list[Path]:
    """All that Ansible reads variables from in this folder: below a group's or host's folder by their ending, beside it by their name."""
    return [path for part in ("group_vars", "host_vars") for path in sorted((folder / part).rglob("*"))
            if path.is_file() and not any(step.startswith(".") for step in path.relative_to(folder).parts) and not path.name.endswith("~")
            and (path.parent == folder / part or path.suffix in ("", ".yml", ".yaml", ".json"))]


def is_vault(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return handle.read(len(secret_store.MAGIC)) == secret_store.MAGIC
    except OSError:
        return False


class Environment:
    """Looks at an environment, and puts what it lacks into its vault."""

    def __init__(self, loader, sources: list[str], keys: list, name: str = "", place: Path | None = None, client: Path = secret_needs.CLIENT) -> None:
        self.loader = loader
        self.sources = sources
        self.folder = folder_of(sources)
        # Where it will be, while it is being made elsewhere.
        self.place = place or self.folder
        self.name = name or self.folder.name
        self.keys = keys
        self.client = client
        self.mark = secrets.token_bytes(32)

    def settle(self, check: bool, today: datetime.date) -> Outcome:
        outcome = Outcome(self.name, short(self.place / VAULT))
        if (self.folder / "group_vars" / "all.yml").is_file() and not (self.folder / "group_vars" / "all").is_dir():
            raise Unusable(f"{short(self.place)}/group_vars/all.yml would be hidden by a folder beside it: move it to group_vars/all/main.yml first.")
        vault = Vault(self.folder / VAULT, self.name, self.keys, outcome.vault)
        needs = secret_needs.needs(self.loader, self.sources)
        documents = self.documents(vault)
        outcome.mistakes += self.identity(vault)
        if not outcome.mistakes:
            self.make(vault, needs, documents, outcome, check, today)
        self.judge(documents, needs, outcome, vault.key)
        return outcome

    # --- What there is -----------------------------------------------------------------------------------------------

    def documents(self, vault: Vault) -> dict[str, Document]:
        """The encrypted files of all sources, by name; the vault first."""
        found = {vault.name: vault.document}
        for folder in dict.fromkeys([self.folder, *(folder_of([source]) for source in self.sources if "," not in source)]):
            for path in variable_files(folder):
                if is_vault(path) and os.path.realpath(path) != str(vault.path):
                    found[short(path)] = Document(secret_store.decrypt(path.read_bytes(), self.keys, short(path))[0], short(path))
        return found

    def identity(self, vault: Vault) -> list[str]:
        if vault.known is None or vault.id in ("", "default", self.name):
            return []
        rekey = f"ansible-vault rekey --vault-id {vault.id}@… --new-vault-id {self.name}@inventories/vault-client {vault.name}"
        return [(f"{vault.name} is the vault of {vault.id!r} by its first line, but this environment is {self.name!r}: give it secrets of its own (remove the "
                 f"file and run this again), or, if they are its own, `{rekey}`.")]

    # --- What is missing ---------------------------------------------------------------------------------------------

    def make(self, vault: Vault, needs: secret_needs.Needs, documents: dict[str, Document], outcome: Outcome, check: bool, today: datetime.date) -> None:
        certificate = self.authority(vault, needs, documents, outcome, today)
        for name in sorted(needs.missing - set(vault.document.values)):
            users = needs.needed[name]
            if "pki_ca_key" in users:
                continue  # with its certificate, or refused above
            if name in needs.parts:
                outcome.mistakes.append(f"{name} is not there, and {contract.listed(users)} take{'s' if len(users) == 1 else ''} a part of it: add it with its parts, "
                                        f"with `ansible-vault edit {vault.name}`.")
                continue
            if self.foreign(name, users):
                outcome.mistakes.append(f"{name} is not there, and {contract.listed(users)} take{'s' if len(users) == 1 else ''} it: it is not made here "
                                        f"but given out by somebody else, so add it with `ansible-vault edit {vault.name}`.")
                continue
            value = secret_store.random_text()
            if "app_deploy_key" in users:
                value, public = secret_store.deploy_key(f"deploy@{self.name}")
                if not check:
                    outcome.deploy_keys[name] = public
            vault.document.put(name, value, today)
            outcome.made.append(name)
        if outcome.made and not check:
            if vault.known is None and isinstance(vault.key, PromptVaultSecret):
                raise Unusable(f"{vault.name} would be made with a password that was typed in once, and a slip would lock it for good: put the password where "
                               f"inventories/vault-client finds it, and add --vault-id {self.name}@inventories/vault-client.")
            vault.write()
        if certificate:
            outcome.made.append("pki_ca_certificate")
            if not check:
                self.write_certificate(certificate)

    def authority(self, vault: Vault, needs: secret_needs.Needs, documents: dict[str, Document], outcome: Outcome, today: datetime.date) -> str:
        """The key of the internal CA into the vault, and its certificate, where one of them is missing."""
        names = [name for name, users in needs.needed.items() if "pki_ca_key" in users]
        if not needs.authority or not names:
            return ""
        name = names[0]
        if needs.certificate:
            if name in needs.missing:
                outcome.mistakes.append(f"{name} is not there, but pki_ca_certificate is, and each is made for the other: put its key back into {vault.name}, or "
                                        "remove pki_ca_certificate, and run this again: both are made new.")
            return ""
        key = next((str(document.values[name]) for document in documents.values() if name in document.values), "")
        if not key and name not in needs.missing:
            outcome.mistakes.append(f"pki_ca_certificate is not there, and its key, {name}, is in no vault of this inventory: make a certificate with that key where "
                                    "it is (docs/own-database-host.md), and put it into group_vars/all/pki.yml.")
            return ""
        if not key:
            key = secret_store.authority_key()
            vault.document.put(name, key, today)
            outcome.made.append(name)
        now = datetime.datetime.combine(today, datetime.datetime.now(datetime.UTC).time(), datetime.UTC)
        try:
            certificate = secret_store.authority_certificate(key, self.name, now)
            Authority(certificate, key)
        except UnusableAuthority as error:
            outcome.mistakes.append(f"{' '.join(error.args).replace('pki_ca_key', name, 1)}.")
            return ""
        except (ValueError, TypeError, AttributeError):
            outcome.mistakes.append(f"{name} is no private key that signs: remove it from {vault.name}, and run this again.")
            return ""
        return certificate

    def write_certificate(self, certificate: str) -> None:
        path = self.folder / CERTIFICATE
        before = path.read_text() if path.exists() else CERTIFICATE_HEAD
        text = before + ("" if before.endswith("\n") else "\n") + "pki_ca_certificate: " + secret_store.shown(certificate)
        known = yaml.safe_load(before) or {}
        if not isinstance(known, dict) or yaml.safe_load(text) != {**known, "pki_ca_certificate": certificate}:
            raise Unusable(f"{short(path)} is written in a way that nothing can be added to: move it away, and run this again.")
        pending = path.with_name(f".{path.name}.new")
        pending.write_text(text)
        pending.replace(path)

    @staticmethod
    def foreign(name: str, users: list[str]) -> bool:
        """Whether somebody else gives it out: then a random value would only hide that it is missing."""
        return contract.foreign(name, tuple(user.rsplit(".", 1)[-1] for user in users)) or any(user.startswith("ansible_") for user in users)

    # --- What is wrong -----------------------------------------------------------------------------------------------

    def judge(self, documents: dict[str, Document], needs: secret_needs.Needs, outcome: Outcome, own: VaultSecret | None) -> None:
        seen: dict[bytes, tuple[str, str, bool]] = {}
        elsewhere = self.elsewhere(outcome, own)
        for file, document in documents.items():
            for name, content in document.values.items():
                row = Secret(name, file, document.made(name), [self.described(user, needs) for user in needs.users(name)])
                outcome.secrets.append(row)
                for path, value in contract.texts(content):
                    if value.startswith("$ANSIBLE_VAULT;") or "{{" in value:
                        continue
                    label, where = contract.dotted(name, path), f" ({file}, line {document.line(name)} of its text)"
                    ours, accepted = not path and not needs.ours.isdisjoint(needs.users(name)), not needs.accepted.isdisjoint((name, label))
                    problem, proof = contract.secret_problem(name, path, value, ours), contract.is_proof(name, path, value, ours)
                    if problem and not accepted:
                        outcome.mistakes.append(f"{label} {problem}.{where}")
                    if len(value) < 8:
                        continue
                    same = self.digest(value)
                    first = seen.setdefault(same, (name, label, proof))
                    others = ([first[1]] if first[0] != name else []) + elsewhere.get(same, [])
                    row.again += [other for other in others if other not in row.again]
                    # What another gives out, or what may be a mere setting, is listed alone.
                    if others and not problem and not accepted and (proof or (first[0] != name and first[2])):
                        outcome.mistakes.append(f"{label} has the same value as {contract.listed(others)}: give each its own (`{contract.MAKE_SECRET}`), "
                                                f"{contract.OR_ACCEPT}.{where}")
        for plain in (found for path in self.plain_files() for found in secret_store.plain_texts(path, needs.secret_options) if found.name not in needs.accepted):
            where = self.place / plain.file.relative_to(self.folder) if plain.file.is_relative_to(self.folder) else plain.file
            how = "" if plain.name.startswith("vault_") else " as vault_…, and take it from there"
            outcome.mistakes.append(f"{plain.name} stands in plain text in {short(where)}:{plain.line}: put a new value into {outcome.vault}{how}; the old one is in "
                                    "the file's history.")

    def plain_files(self) -> list[Path]:
        """The inventory itself, and its variables; no program that prints one."""
        sources = [path for source in self.sources for path in ([Path(source)] if Path(source).is_file() else sorted(Path(source).glob("*")))]
        return [*variable_files(self.folder), *(path for path in sources if path.is_file() and not path.name.startswith(".") and not os.access(path, os.X_OK))]

    def elsewhere(self, outcome: Outcome, own: VaultSecret | None) -> dict[bytes, list[str]]:
        """What the other environments beside this one have, as far as their vaults open."""
        found: dict[bytes, list[str]] = {}
        for folder in sorted(self.place.parent.iterdir()) if self.place.parent.is_dir() else []:
            if folder.name.startswith(".") or not folder.is_dir() or folder.resolve() == self.place.resolve():
                continue
            problems, vaults = [], [path for path in variable_files(folder) if is_vault(path)]
            for path in vaults:
                try:
                    document, key = self.opened(path)
                    if own and hmac.compare_digest(key.bytes, own.bytes):
                        outcome.mistakes.append(f"The vault of {folder.name} has the password of {self.name}'s: give each its own, with `ansible-vault rekey`. "
                                                f"({short(path)})")
                    for name, content in document.values.items():
                        for at, value in contract.texts(content):
                            if len(value) >= 8 and "{{" not in value:
                                found.setdefault(self.digest(value), []).append(f"{contract.dotted(name, at)} of {folder.name}")
                except Unusable as error:
                    problems.append(str(error))
            if problems:
                outcome.unopened.append(f"{folder.name}: {problems[0]}")
            elif vaults:
                outcome.compared.append(folder.name)
        return found

    def opened(self, path: Path) -> tuple[Document, VaultSecret]:
        data = path.read_bytes()
        identity = secret_store.vault_id(data)
        try:
            text, key = secret_store.decrypt(data, self.keys, short(path))
        except Unusable:
            known, why = secret_store.ask(self.client, identity) if identity else (None, "")
            if known is None:
                raise Unusable(why or f"{short(path)} does not open with what is known here.") from None
            text, key = secret_store.decrypt(data, [(identity, known)], short(path))
        return Document(text, short(path)), key

    def digest(self, value: str) -> bytes:
        return hmac.digest(self.mark, value.strip().encode(), "sha256")

    @staticmethod
    def described(user: str, needs: secret_needs.Needs) -> str:
        owner = needs.owner.get(user.split(".")[0].split("[")[0])
        return f"{user} ({owner})" if owner else user
