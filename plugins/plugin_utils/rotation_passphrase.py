# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Another passphrase for the backups: first one that opens them too, then the one that alone does.

Each is in the vault until nothing opens with it any more, so that a run that was cut off has both to go on with.
"""

from __future__ import annotations

import datetime

from ansible_collections.redoubt.django.plugins.plugin_utils import rotation, secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.rotation import Step
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_store import Document, Unusable

SECRETS = {"backup_files_pass": "vault_backup_files_pass", "backup_database_pass": "vault_backup_database_pass"}
GROUPS = ("backups", "web", "db")
NEXT, FORMER = "_next", "_former"


def begin(document: Document, name: str, today: datetime.date) -> Step:
    if name + FORMER in document.values:
        return Step(False, f"The passphrase was replaced in {document.name} by a run that did not end: going on with that. Run this again for another one.")
    if name + NEXT in document.values:
        return Step(False, f"The new passphrase has been in {document.name} since {document.made(name + NEXT) or 'an earlier run'}: going on with it.")
    document.put(name + NEXT, secret_store.random_text(), today)
    return Step(True, f"Made a new passphrase in {document.name}, with which the backups learn to open first.")


def replace(document: Document, name: str, today: datetime.date) -> Step:
    """The backups open with both by now: the new one is the one."""
    if name + NEXT not in document.values:
        return Step(False, "The new passphrase has been in its place before.")
    document.put(name + FORMER, str(document.values[name]), document.made(name) or today)
    document.put(name, str(document.values[name + NEXT]), document.made(name + NEXT) or today)
    document.remove(name + NEXT)
    return Step(True, f"The new passphrase is in its place in {document.name}, and the old one beside it until nothing opens with it any more.")


def finish(document: Document, name: str, today: datetime.date) -> Step:
    """Nothing opens with the old one."""
    if name + FORMER not in document.values:
        return Step(False, "Nothing was left to do.", True)
    document.remove(name + FORMER)
    return Step(True, "All backups, those from before too, open with the new passphrase, and none with the old one.", True)


STEPS = {"begin": begin, "replace": replace, "finish": finish}


def take(document: Document, secret: str, step: str, today: datetime.date, check: bool) -> Step:
    """One step; in check mode with those before it, none of which has been written."""
    names = list(STEPS)
    for name in names[:names.index(step) + 1] if check else [step]:
        done = STEPS[name](document, SECRETS[secret], today)
    return done


def usable(task_vars: dict, secret: str, value: str, file: str) -> None:
    """Every host takes it from the vault: that of this run is still as it was when it began."""
    if not task_vars["groups"].get("backups"):
        raise Unusable(f"No host keeps backups, so nothing opens with {SECRETS[secret]}: take it out of {file}, or put a host into the group backups.")
    name, variable = SECRETS[secret], f"app_{secret}"
    for host in rotation.of(task_vars["groups"], *GROUPS):
        known = task_vars["hostvars"][host]
        if str(known.get(variable, known.get(name))).strip() != value.strip():
            raise Unusable(f"{variable} of {host} is not {name} of {file}, so another one there would change nothing: let it be \"{{{{ {name} }}}}\".")
