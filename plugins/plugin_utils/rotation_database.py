# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""Another password of a database role, on the vault's text: two roles with the same rights take turns, so that both are good while hosts go over.

next: the role whose turn it is not logs in too, by the new password. former: the turn is its, and the one before logs in still. An empty former: that is
over, and hosts are told. Then no mark is left. Every state in between is one that site.yml may find.
"""

from __future__ import annotations

import datetime
import typing as t

from ansible_collections.redoubt.django.plugins.plugin_utils import secret_store
from ansible_collections.redoubt.django.plugins.plugin_utils.rotation import Step
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_store import Document

SECRETS = {"app_database_password": "vault_app_database_password", "app_migrate_password": "vault_app_migrate_password"}
STEPS = ("begin", "replace", "end", "finish")
ONE_HOST = ("rotates nothing here: the application reaches its database over the unix socket, by the name of its unix user, and there is no password "
            "(docs/own-database-host.md)")


def names(secret: str) -> tuple[str, str, str, str]:
    """The password, the one that is about to be, the one that was, and whether it is the second role's turn."""
    password = SECRETS[secret]
    return password, f"{password}_next", f"{password}_former", f"{password.removesuffix('_password')}_alternate"


def begin(document: Document, secret: str, today: datetime.date) -> Step:
    _, new, former, _ = names(secret)
    if former in document.values:
        return Step(False, f"The password was replaced in {document.name} by a run that did not end: going on with that. Run this again for another one.")
    if new in document.values:
        return Step(False, f"The new password has been in {document.name} since {document.made(new) or 'an earlier run'}: going on with it.")
    document.put(new, secret_store.random_text(), today)
    return Step(True, f"Made a new password in {document.name}, for the role whose turn it is not.")


def replace(document: Document, secret: str, today: datetime.date) -> Step:
    """The database lets in both: the turn is the other's."""
    password, new, former, alternate = names(secret)
    if new not in document.values:
        return Step(False, "The new password has been in its place before.")
    document.put(former, str(document.values[password]), document.made(password) or today)
    document.put(password, str(document.values[new]), document.made(new) or today)
    document.remove(new)
    if document.values.get(alternate):
        document.remove(alternate)
    else:
        document.put(alternate, True, today)
    return Step(True, f"The new password is in its place in {document.name}, and the old one is good until every host has gone over.")


def end(document: Document, secret: str, today: datetime.date) -> Step:
    """Every host has gone over."""
    former = names(secret)[2]
    if not document.values.get(former):
        return Step(False, "The old password has gone before.")
    document.put(former, [], today)
    return Step(True, f"The old password is gone from {document.name}.")


def finish(document: Document, secret: str, today: datetime.date) -> Step:
    """The database and the hosts know that."""
    former = names(secret)[2]
    if former not in document.values:
        return Step(False, "Nothing was left to do.")
    document.remove(former)
    return Step(True, "Every process logs in with the new password, and the old one opens nothing any more.")


def take(document: Document, secret: str, step: str, today: datetime.date, check: bool) -> Step:
    """One step; in check mode after those before it, none of which has been written."""
    steps = {"begin": begin, "replace": replace, "end": end, "finish": finish}
    for name in STEPS[:STEPS.index(step) + 1] if check else [step]:
        taken = steps[name](document, secret, today)
    return taken


def values(document: Document) -> dict[str, t.Any]:
    """What the roles' variables take from the vault."""
    found = {}
    for secret in SECRETS:
        password, new, former, alternate = names(secret)
        found |= {name: str(document.values.get(name) or "") for name in (password, new, former)} | {alternate: bool(document.values.get(alternate))}
    return found
