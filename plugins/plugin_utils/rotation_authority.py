# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Another internal CA: its key on the vault's text, its certificate on that of the plain file that has the old one's, since it is public.

Of the certificates in pki_ca_certificate the one signs that the vault's key belongs to, so its turn is one write of the vault. next: hosts learn to trust it.
former: it signs, and the old one is to go; what is listed are the certificates of the admin that go with it. Then no mark is left. Every state in between is
one that site.yml may find.
"""

from __future__ import annotations

import datetime
import os
import typing as t
from pathlib import Path

from ansible_collections.redoubt.django.plugins.plugin_utils import contract, secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.authority import public
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_secrets import folder_of, is_vault, short, variable_files
from ansible_collections.redoubt.django.plugins.plugin_utils.rotation import PAGE, Step
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_store import Document, Unusable
from cryptography import x509
from cryptography.hazmat.primitives import serialization

SECRET, KEY, NEXT, FORMER, BUNDLE = "pki_ca_key", "vault_pki_ca_key", "vault_pki_ca_key_next", "vault_pki_ca_former", "pki_ca_certificate"
SECRETS = {SECRET: KEY}
STEPS = ("begin", "replace", "end", "finish")


class Authorities:
    """The vault's text, and the certificates as a plain file of these inventory sources has them."""

    def __init__(self, vault: Document, sources: t.Iterable[str]) -> None:
        self.vault = vault
        folders = dict.fromkeys(folder_of([source]) for source in sources if "," not in source)
        found = {}
        for path in (path for folder in folders for path in variable_files(folder) if not is_vault(path)):
            text = path.read_text(errors="replace")
            if path.suffix in (".yml", ".yaml", "") and BUNDLE in text:
                document = Document(text, short(path))
                if BUNDLE in document.values:
                    found[os.path.realpath(path)] = document
        if len(found) != 1:
            where = f"in {contract.listed(each.name for each in found.values())}" if found else "in no plain file of this inventory"
            raise Unusable(f"{BUNDLE} is {where}, and one file is to get the new certificate: leave it in group_vars/all/pki.yml alone, or see {PAGE}, «By hand».")
        self.path, self.file = next((Path(path), document) for path, document in found.items())
        try:
            self.certificates = x509.load_pem_x509_certificates(str(self.file.values[BUNDLE]).encode())
        except ValueError:
            raise Unusable(f"{BUNDLE} in {self.file.name} is no text of certificates: write them there, or see {PAGE}, «By hand».") from None

    def of(self, name: str) -> list[x509.Certificate]:
        """The certificates of a key in the vault."""
        try:
            key = serialization.load_pem_private_key(str(self.vault.values[name]).encode(), None)
        except (TypeError, ValueError):
            raise Unusable(f"{name} in {self.vault.name} is no private key without a passphrase: correct it with `ansible-vault edit {self.vault.name}`.") from None
        return [each for each in self.certificates if public(each.public_key()) == public(key.public_key())]

    def put(self, certificates: list[x509.Certificate], day: datetime.date) -> None:
        self.certificates = certificates
        self.file.put(BUNDLE, self.text, day)

    @property
    def text(self) -> str:
        return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in self.certificates)

    def write(self) -> None:
        """Put the file in place by one rename, where it is another."""
        if self.path.read_text() != self.file.text:
            pending = self.path.with_name(f".{self.path.name}.new")
            pending.write_text(self.file.text)
            pending.replace(self.path)


def good(admins: t.Iterable[dict], now: datetime.datetime) -> list[dict]:
    return [each for each in admins if not each.get("revoked") and str(each["until"]) >= f"{now:%Y-%m-%d}"]


def begin(found: Authorities, environment: str, now: datetime.datetime) -> Step:
    vault, today = found.vault, now.date()
    if FORMER in vault.values:
        return Step(False, f"The CA was replaced in {vault.name} by a run that did not end: going on with that. Run this again for another one.")
    old = found.of(KEY)
    if not old:
        raise Unusable(f"{KEY} in {vault.name} does not belong to {BUNDLE} in {found.file.name}: put the certificate there that it is the key of.")
    made = NEXT not in vault.values or not found.of(NEXT)
    if made:
        vault.put(NEXT, secret_store.authority_key(), today)
        # Another name, also on the same day: what a server knows of earlier sessions goes by the names of the CAs.
        certificate = secret_store.authority_certificate(str(vault.values[NEXT]), f"{environment[:44]} {now:%Y-%m-%d %H:%M:%S}", now)
        found.put(found.certificates + x509.load_pem_x509_certificates(certificate.encode()), today)
    if all(each.not_valid_after_utc <= now for each in old):
        # Nobody is let in by it, and it cannot sign what a host may be without.
        replace(found, [], now)
        return Step(True, f"The CA in {found.file.name} has ended: a new one signs at once.")
    if made:
        return Step(True, f"Made a new CA: its key is in {vault.name}, its certificate in {found.file.name}. Every host learns to trust it before it signs.")
    return Step(False, f"The new CA has been in {found.file.name} since {vault.made(NEXT) or 'an earlier run'}: going on with it.")


def replace(found: Authorities, admins: t.Iterable[dict], now: datetime.datetime) -> Step:
    """Every host trusts it."""
    vault = found.vault
    if NEXT not in vault.values:
        return Step(False, "The new CA has been in its place before.")
    vault.put(FORMER, [str(each["serial"]) for each in good(admins, now)], now.date())
    vault.put(KEY, str(vault.values[NEXT]), vault.made(NEXT) or now.date())
    vault.remove(NEXT)
    return Step(True, f"The new CA signs, and every host gets a certificate of it. The old one is trusted beside it, in {found.file.name}.")


def end(found: Authorities, admins: t.Iterable[dict], now: datetime.datetime) -> Step:
    """Every host has a certificate of it: it alone is trusted."""
    former = found.vault.values.get(FORMER) or []
    waiting = sorted(str(each["name"]) for each in good(admins, now) if str(each["serial"]) in former)
    if waiting:
        raise Unusable(f"{contract.listed(waiting)} would come into the admin no more, with {'a certificate' if len(waiting) == 1 else 'certificates'} of the old CA: issue "
                       "another for each, under another name, and revoke the old one (docs/admin-certificates.md), then run this again. Until then both CAs are trusted.")
    kept = found.of(KEY)
    if kept == found.certificates:
        return Step(False, "The old CA has gone before.")
    found.put(kept, now.date())
    return Step(True, f"The old CA is gone from {found.file.name}.")


def finish(found: Authorities) -> Step:
    """No host trusts another."""
    if FORMER not in found.vault.values:
        return Step(False, "Nothing was left to do.", True)
    found.vault.remove(FORMER)
    return Step(True, "Every host has a certificate of the new CA, and none trusts the old one.", True)


def take(found: Authorities, step: str, environment: str, admins: list[dict], now: datetime.datetime, check: bool) -> Step:
    """One step; in check mode after those before it, none of which has been written."""
    steps = {"begin": lambda: begin(found, environment, now), "replace": lambda: replace(found, admins, now), "end": lambda: end(found, admins, now),
             "finish": lambda: finish(found)}
    for name in STEPS[:STEPS.index(step) + 1] if check else [step]:
        taken = steps[name]()
    return taken


def values(found: Authorities) -> dict[str, str]:
    """What hosts' certificates are made with."""
    return {KEY: str(found.vault.values[KEY]), BUNDLE: found.text}


def administrators(task_vars: dict) -> list[dict]:
    """Whose certificates for the admin are of this CA."""
    known = task_vars["hostvars"][task_vars["groups"]["web"][0]]
    return known.get("app_admin_certificates") or [] if known.get("app_admin_client_ca") == "environment" else []


def usable(found: Authorities, task_vars: dict) -> None:
    """Every host takes both from these files."""
    for host in task_vars["groups"]["all"]:
        known = task_vars["hostvars"][host]
        for name, value, file in ((BUNDLE, found.file.values[BUNDLE], found.file.name), (SECRET, found.vault.values[KEY], found.vault.name)):
            if name in known and str(known[name]).strip() != str(value).strip():
                raise Unusable(f"{name} of {host} is not that of {file}, so another one there would change nothing: let it be that, or see {PAGE}, «By hand».")
