"""Rotations of the internal CA, on the texts of the vault and of the file beside it: both are trusted until every host has a certificate of the new one."""

from __future__ import annotations

import datetime
import json
import pathlib
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.redoubt.django.plugins.plugin_utils import authority, contract, rotation, rotation_authority, secret_store
from test_rotation import place  # noqa: F401 (fixture)
from test_secrets import CLIENT, shown

NOW = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)
OLD = secret_store.authority_key()
NAMES = (rotation_authority.KEY, rotation_authority.NEXT, rotation_authority.FORMER)
ALICE = {"name": "alice", "serial": "0A", "until": "2027-01-01", "revoked": ""}
OVER = [{**ALICE, "name": "bob", "serial": "0B", "until": "2026-02-01"}, {**ALICE, "name": "eve", "serial": "0C", "revoked": "2026-02-01"}]


def authorities(folder, vault=None, days=3650):
    """As a run finds them; the first one finds the old CA."""
    path = folder / "inventory/group_vars/all/pki.yml"
    if not path.exists():
        path.parent.mkdir(parents=True)
        path.write_text("# public\npki_ca_certificate: " + secret_store.shown(secret_store.authority_certificate(OLD, "staging", NOW, days)))
    vault = vault or secret_store.Document("---\n# mine\n" + yaml.safe_dump({"vault_pki_ca_key": OLD}), "vault.yml")
    return rotation_authority.Authorities(vault, [str(folder / "inventory")])


def take(found, step, admins=(), now=NOW, check=False):
    return rotation_authority.take(found, step, "staging", list(admins), now, check)


def signs(found):
    return authority.Authority(found.text, str(found.vault.values["vault_pki_ca_key"])).certificate


def test_a_new_ca_is_trusted_before_it_signs_and_the_old_one_goes_last(tmp_path):
    found = authorities(tmp_path)
    old = signs(found)
    first = take(found, "begin")
    assert first.changed and signs(found) == old and len(found.certificates) == 2
    assert take(found, "replace").changed
    new = signs(found)
    assert new != old and new.subject != old.subject and found.certificates == [old, new]
    assert all(len(each.value) <= 64 for each in new.subject) and list(contract.check_vault(found.vault.values)) == []
    assert take(found, "end").changed and found.certificates == [new]
    last = take(found, "finish")
    assert last.changed and last.done and set(found.vault.values) == {"vault_pki_ca_key"}
    assert found.vault.text.startswith("---\n# mine\n") and found.vault.made("vault_pki_ca_key") == NOW.date()
    found.write()
    assert found.path.read_text().startswith("# public\n") and yaml.safe_load(found.path.read_text()) == {"pki_ca_certificate": found.text}
    assert not shown(first.said + last.said, [OLD, found.vault.values["vault_pki_ca_key"]])


@pytest.mark.parametrize("cut", range(1, 4))
def test_a_ca_that_was_cut_off_is_not_made_again(tmp_path, cut):
    found = authorities(tmp_path)
    for step in rotation_authority.STEPS[:cut]:
        take(found, step)
    found.write()
    key = found.vault.values.get(rotation_authority.NEXT) or found.vault.values["vault_pki_ca_key"]
    later = NOW + datetime.timedelta(days=1)
    found = authorities(tmp_path, found.vault)
    first = take(found, "begin", now=later)
    assert not first.changed and "going on with" in first.said
    assert [take(found, step, now=later).changed for step in rotation_authority.STEPS[1:]] == [cut < 2, cut < 3, True]
    assert found.vault.values == {"vault_pki_ca_key": key} and found.certificates == [signs(found)]


def test_a_certificate_whose_key_was_lost_with_a_run_goes_with_the_old_one(tmp_path):
    """Cut off between the two files."""
    found = authorities(tmp_path)
    take(found, "begin")
    found.write()
    found = authorities(tmp_path)
    assert take(found, "begin").changed and len(found.certificates) == 3
    for step in rotation_authority.STEPS[1:]:
        take(found, step)
    assert found.certificates == [signs(found)]


def test_a_key_whose_certificate_somebody_took_back_is_made_new(tmp_path):
    found = authorities(tmp_path)
    take(found, "begin")
    found = authorities(tmp_path, found.vault)
    assert take(found, "begin").changed and len(found.of(rotation_authority.NEXT)) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_a_ca_that_has_ended_is_replaced_at_once(tmp_path, begun):
    found = authorities(tmp_path, days=30)
    if begun:
        take(found, "begin")
    late = NOW + datetime.timedelta(days=31)
    step = take(found, "begin", [ALICE], late)
    assert step.changed and "a new one signs at once" in step.said and signs(found).not_valid_after_utc > late
    assert found.vault.values[rotation_authority.FORMER] == [] and rotation_authority.NEXT not in found.vault.values
    assert take(found, "end", [ALICE], late).changed and take(found, "finish", now=late).changed


def test_administrators_are_waited_for(tmp_path):
    found = authorities(tmp_path)
    take(found, "begin")
    take(found, "replace", [ALICE, *OVER])
    with pytest.raises(secret_store.Unusable, match=r"alice would come into the admin no more, with a certificate of the old CA: .*Until then both CAs are trusted"):
        take(found, "end", [ALICE, *OVER])
    assert len(found.certificates) == 2
    assert take(found, "end", [{**ALICE, "revoked": "2026-03-01"}, {**ALICE, "name": "alice.2", "serial": "0D"}, *OVER]).changed


def test_a_check_goes_as_far_as_a_run_would(tmp_path):
    for step, said in (("begin", "Made a new CA"), ("replace", "The new CA signs"), ("end", "The old CA is gone"), ("finish", "Every host has")):
        found = authorities(tmp_path)
        done = take(found, step, check=True)
        assert done.changed and done.said.startswith(said)
        told = rotation_authority.values(found)
        assert (told["vault_pki_ca_key"] != OLD) == (step != "begin") and told["pki_ca_certificate"].count("BEGIN") == (2 if step in ("begin", "replace") else 1)


def test_certificates_that_are_nowhere_twice_or_no_text(tmp_path):
    found = authorities(tmp_path)
    other = tmp_path / "inventory/group_vars/web.yml"
    other.write_text(found.file.text)
    with pytest.raises(secret_store.Unusable, match=r"pki_ca_certificate is in .*pki.yml and .*web.yml, and one file"):
        authorities(tmp_path)
    other.unlink()
    found.path.write_text("pki_ca_certificate: \"{{ lookup('file', 'ca.pem') }}\"\n")
    with pytest.raises(secret_store.Unusable, match="is no text of certificates"):
        authorities(tmp_path)
    found.path.write_text("x: y\n")
    with pytest.raises(secret_store.Unusable, match="pki_ca_certificate is in no plain file"):
        authorities(tmp_path)


@pytest.mark.parametrize(("change", "sentence"), [
    ({"pki_ca_certificate": "mine"}, "pki_ca_certificate of app1 is not that of"),
    ({"pki_ca_key": "mine"}, "pki_ca_key of app1 is not that of vault.yml"),
])
def test_where_another_one_would_not_reach_everybody_nothing_is_begun(tmp_path, change, sentence):
    found = authorities(tmp_path)
    task_vars = {"groups": {"all": ["app1", "store1"], "web": ["app1"]},
                 "hostvars": {"app1": {"pki_ca_certificate": found.text, "pki_ca_key": OLD.strip(), **change}, "store1": {}}}
    with pytest.raises(secret_store.Unusable, match=sentence):
        rotation_authority.usable(found, task_vars)


# --- With files, as far as it goes without hosts ---------------------------------------------------------------------

PLAY = """
- hosts: all
  become: false
  gather_facts: false
  tasks:
    - redoubt.django.preflight: {replaces: "{{ replaces }}"}
      run_once: true
    - redoubt.django.rotate: {secret: pki_ca_key, step: begin}
      run_once: true
      register: rotation
    - redoubt.django.rotate: {secret: pki_ca_key, step: read, after: begin}
      run_once: true
      register: rotate_turn
      no_log: true
    - debug: {msg: "{{ rotation.said }} {{ rotate_turn.vault.pki_ca_certificate.count('BEGIN') }} are trusted"}
      run_once: true
"""


def test_rotating_is_the_way_out_of_a_ca_that_ends_soon(place):  # noqa: F811
    pki, vault = place.inventories / "staging/group_vars/all/pki.yml", place.vault("staging")
    key, now = place.values("staging")["vault_pki_ca_key"], datetime.datetime.now(datetime.UTC)
    pki.write_text("pki_ca_certificate: " + secret_store.shown(secret_store.authority_certificate(key, "staging", now, 200)))
    line = "ssh-ed25519 " + rotation.public_half(secret_store.deploy_key("x")[0]).split()[1]
    values = {"app_domains": ["our-site.net"], "base_admins": [{"name": "alice", "keys": [line]}]}
    (place.folder / "play.yml").write_text(PLAY)

    def play(replaces, *words):
        given = json.dumps({**values, "replaces": replaces})
        return place.play(place.folder / "play.yml", "-i", "inventories/staging", "--vault-id", f"staging@{CLIENT}", "-e", given, "-vvv", *words)

    before = pki.read_bytes(), vault.read_bytes()
    refused = play("")
    assert refused.returncode != 0 and "replace the CA (playbooks/rotate.yml -e secret=pki_ca_key)" in refused.words, refused.text
    checked = play("pki_ca_key", "--check")
    assert checked.returncode == 0 and "a run would say: Made a new CA. 2 are trusted" in checked.words, checked.text
    assert (pki.read_bytes(), vault.read_bytes()) == before
    done = play("pki_ca_key")
    assert done.returncode == 0 and "2 are trusted" in done.words, done.text
    assert pki.read_text().count("BEGIN") == 2 and set(NAMES[:2]) <= set(place.values("staging"))
    assert not shown(refused.text + checked.text + done.text, [place.values("staging")[name] for name in NAMES[:2]])
    rotate = yaml.safe_load((ROOT / "playbooks/rotate.yml").read_text())[0]["tasks"][0]
    assert rotate["redoubt.django.preflight"] == {"replaces": "{{ secret | default('') }}"}
