# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Another value in the place of a secret, step by step, so that nothing that the old one has opened is shut in between.

A step is one write of the vault. Each leaves it as a run of site.yml may find it, and knows from it what has been done: a rotation that is cut off goes
on where it was. Nothing that is returned from here holds a private value.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import typing as t

from ansible_collections.redoubt.django.plugins.plugin_utils import contract, secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_secrets import folder_of, is_vault, short, variable_files
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_store import Document, Unusable, Vault
from cryptography.hazmat.primitives import serialization

PAGE = "docs/rotate-a-secret.md"
KEY, FALLBACKS = "vault_app_secret_key", "vault_app_secret_key_fallbacks"
DEPLOY, DEPLOY_NEXT = "vault_app_deploy_key", "vault_app_deploy_key_next"
SECRETS = {"app_secret_key": KEY, "app_deploy_key": DEPLOY}
DAY = 86400


@dataclasses.dataclass
class Step:
    """What came of one: whether the vault is another now, and a sentence."""

    changed: bool
    said: str
    # Nothing is left to do in this run.
    done: bool = False


def vault_with(name: str, sources: t.Iterable[str], keys: list) -> Vault:
    """The encrypted file of these inventory sources that has a name; just one may."""
    folders = dict.fromkeys(folder_of([source]) for source in sources if "," not in source)
    found = {}
    for path in (path for folder in folders for path in variable_files(folder) if is_vault(path)):
        vault = Vault(path, "", keys, short(path))
        if name in vault.document.values:
            found[str(vault.path)] = vault
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise Unusable(f"{name} is in {contract.listed(vault.name for vault in found.values())}, and one of them would keep the old value: leave it in one.")
    raise Unusable(f"{name} is in no vault of this inventory, so there is no place to put another one: see {PAGE}, «By hand».")


def of(groups: dict[str, list[str]], *names: str) -> list[str]:
    """The hosts of these groups, each once."""
    return list(dict.fromkeys(host for name in names for host in groups.get(name, [])))


def everybody(hosts: t.Iterable[str], present: t.Collection[str], otherwise: str, wanted: str) -> None:
    """Refuse what some of these hosts would not take part in."""
    missing = [host for host in hosts if host not in present]
    if missing:
        raise Unusable(f"{contract.listed(missing)} {'is' if len(missing) == 1 else 'are'} left out of this run or did not answer, and would {otherwise}: "
                       f"run this for {wanted}, when they answer.")


def public_half(key: str) -> str:
    data = key.strip().encode() + b"\n"
    load = serialization.load_ssh_private_key if b"OPENSSH" in data else serialization.load_pem_private_key
    return load(data, None).public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


# --- Django's SECRET_KEY ---------------------------------------------------------------------------------------------
# next: the new key is known everywhere before anything signs with it. replaced: it signs, and the old one counts until its end. Then no mark is left.


def fallbacks(document: Document) -> list[dict]:
    found = document.values.get(FALLBACKS) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) and isinstance(each.get("key"), str) and isinstance(each.get("until", ""), str) for each in found):
        raise Unusable(f"{FALLBACKS} in {document.name} is no list of {{key: …, until: …}}: correct it with `ansible-vault edit {document.name}`.")
    return [dict(each) for each in found]


def ended(each: dict, today: datetime.date) -> bool:
    return bool(each.get("until")) and each["until"] < today.isoformat()


def keep(document: Document, wanted: list[dict], today: datetime.date) -> None:
    if wanted:
        document.put(FALLBACKS, wanted, today)
    else:
        document.remove(FALLBACKS)


def marked(found: list[dict], mark: str) -> dict | None:
    return next((each for each in found if each.get("rotation") == mark), None)


def last_day(today: datetime.date, age: int) -> str:
    """Of a key that signs no more once this run is through: a day is added for what is under way."""
    return (today + datetime.timedelta(days=math.ceil(age / DAY) + 1)).isoformat()


def begin(document: Document, age: int, today: datetime.date) -> Step:
    """Make the new key, beside the one that signs; or find out what a run that was cut off has left to do."""
    kept = [each for each in fallbacks(document) if not ended(each, today)]
    if marked(kept, "next"):
        return Step(False, f"The new key has been in {document.name} since {document.made(FALLBACKS) or 'an earlier run'}: going on with it.")
    old = marked(kept, "replaced")
    if old:
        # Whoever was given something meanwhile keeps it as long as everybody.
        old["until"] = max(old["until"], last_day(today, age))
        changed = kept != fallbacks(document)
        if changed:
            keep(document, kept, document.made(FALLBACKS) or today)
        return Step(changed, f"The key was replaced in {document.name} by a run that did not end: going on with that. Run this again for another one.")
    keep(document, [{"key": secret_store.random_text(), "until": "", "rotation": "next"}, *kept], today)
    return Step(True, f"Made a new key in {document.name}, which every process learns to accept first.")


def replace(document: Document, age: int, today: datetime.date) -> Step:
    """The new key signs, and the old one counts until all that it has signed is over."""
    kept = [each for each in fallbacks(document) if not ended(each, today)]
    new = marked(kept, "next")
    if not new:
        return Step(False, "The new key has been in its place before.")
    old = {"key": str(document.values[KEY]), "until": last_day(today, age), "rotation": "replaced"}
    keep(document, [old, *(each for each in kept if each is not new)], today)
    document.put(KEY, new["key"], today)
    return Step(True, f"The new key is in its place in {document.name}, and the old one beside it, until {old['until']}.")


def finish(document: Document, age: int, today: datetime.date) -> Step:
    """Every process has it: the mark goes."""
    found = fallbacks(document)
    old = marked(found, "replaced")
    if not old:
        return Step(False, "Nothing was left to do.")
    del old["rotation"]
    keep(document, found, document.made(FALLBACKS) or today)
    return Step(True, f"Every process signs with the new key. What the old one has signed is accepted until {old['until']}, and by no process that starts later.")


# --- The deploy key --------------------------------------------------------------------------------------------------


def begin_deploy_key(document: Document, comment: str, today: datetime.date) -> Step:
    """Make the next key, which somebody has to give to the git server; where it is there, it may be tried."""
    if DEPLOY_NEXT in document.values:
        return Step(False, "The next key is tried on the git server.")
    value, public = secret_store.deploy_key(comment)
    document.put(DEPLOY_NEXT, value, today)
    return Step(True, f"Made the next key in {document.name}. Give it read access where app_repo is, beside the old one, and run this again: {public}", True)


def finish_deploy_key(document: Document, today: datetime.date) -> Step:
    """The next key reads the repository from every host: it is the key."""
    old, new = str(document.values[DEPLOY]), str(document.values[DEPLOY_NEXT])
    document.put(DEPLOY, new, document.made(DEPLOY_NEXT) or today)
    document.remove(DEPLOY_NEXT)
    return Step(True, f"The hosts read the repository with the new key. Take the old one away where app_repo is: {public_half(old)}")
