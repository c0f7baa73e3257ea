"""Rotations of the backups' passphrases, on the vault's text: both are there until nothing opens with the old one."""

from __future__ import annotations

import datetime
import pathlib
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.redoubt.django.plugins.plugin_utils import rotation, rotation_passphrase, secret_store
from test_rotation import place  # noqa: F401 (fixture)
from test_secrets import shown

DAY = datetime.date(2026, 3, 1)
LATER = datetime.date(2026, 3, 4)
OLD = "q0Zr83uVnWkX2yLbT7cMfD1sHgE5aJpK9oNiR4vQwUx6BzYtClkZ"
NAME = "vault_backup_files_pass"


def document(**more):
    return secret_store.Document("---\n# mine\n" + yaml.safe_dump({NAME: OLD, **more}), "vault.yml")


def take(found, step, day=DAY, check=False):
    return rotation_passphrase.take(found, "backup_files_pass", step, day, check)


def test_both_are_there_until_nothing_opens_with_the_old_one():
    found = document()
    first = take(found, "begin")
    new = found.values[f"{NAME}_next"]
    assert first.changed and found.values[NAME] == OLD and len(new) >= 50 and new != OLD
    assert take(found, "replace").changed
    assert found.values == {NAME: new, f"{NAME}_former": OLD} and found.made(NAME) == DAY
    last = take(found, "finish")
    assert last.changed and found.values == {NAME: new} and found.text.startswith("---\n# mine\n")
    assert not shown(first.said + last.said, [OLD, new])


@pytest.mark.parametrize("cut", ["begin", "replace"])
def test_a_run_that_was_cut_off_is_followed_by_one_that_makes_no_further_one(cut):
    found = document()
    for step in ("begin", "replace")[:1 + (cut == "replace")]:
        take(found, step)
    new = found.values.get(f"{NAME}_next") or found.values[NAME]
    again = take(found, "begin", LATER)
    assert not again.changed and "going on with" in again.said
    assert take(found, "replace", LATER).changed == (cut == "begin")
    assert found.values == {NAME: new, f"{NAME}_former": OLD} and found.made(NAME) == DAY
    take(found, "finish", LATER)
    assert found.values == {NAME: new}
    assert not take(found, "finish", LATER).changed


def test_a_check_goes_as_far_as_a_run_would():
    for step, said in (("begin", "Made a new passphrase"), ("replace", "The new passphrase is in its place"), ("finish", "All backups")):
        done = take(document(), step, check=True)
        assert done.changed and done.said.startswith(said)


GROUPS = {"web": ["app1"], "db": ["app1"], "backups": ["store1"]}


def ask(hosts=("app1", "store1"), groups=GROUPS, **known):
    hostvars = {host: {NAME: OLD, **known} for host in ("app1", "store1")}
    found = {"groups": groups, "hostvars": hostvars}
    rotation.everybody(rotation.of(groups, *rotation_passphrase.GROUPS), hosts, "go on with the old passphrase", "all hosts of backups, web and db")
    rotation_passphrase.usable(found, "backup_files_pass", OLD, "vault.yml")


@pytest.mark.parametrize(("values", "sentence"), [
    ({"hosts": ["app1"]}, "store1 is left out of this run or did not answer"),
    ({"hosts": ["store1"]}, "app1 is left out of this run or did not answer"),
    ({"groups": {**GROUPS, "backups": []}}, "No host keeps backups, so nothing opens with vault_backup_files_pass"),
    ({"app_backup_files_pass": "mine"}, "app_backup_files_pass of store1 is not vault_backup_files_pass of vault.yml"),
])
def test_where_another_one_would_not_reach_everybody_nothing_is_begun(values, sentence):
    ask()
    ask(app_backup_files_pass=OLD)
    with pytest.raises(secret_store.Unusable, match=sentence):
        ask(**values)


def test_the_playbook_refuses_before_anything_is_changed(place):  # noqa: F811
    before = place.vault("staging").read_bytes()
    answer = place.rotate("-e", "secret=backup_files_pass", "--limit", "app1")
    assert answer.returncode != 0 and "is left out of this run or did not answer, and would go on with the old passphrase" in answer.words, answer.text
    assert place.vault("staging").read_bytes() == before
