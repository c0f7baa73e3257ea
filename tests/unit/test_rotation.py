"""Rotations of secrets, on the vault's text: what each step leaves there, wherever a run was cut off, and that nothing is shown."""

from __future__ import annotations

import datetime
import json
import pathlib
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.redoubt.django.plugins.plugin_utils import contract, rotation, rotation_database, secret_store
from test_secrets import CLIENT, Place, a_vault, keys, opened, shown

DAY = datetime.date(2026, 3, 1)
AGE = 14 * 86400
OLD = "q0Zr83uVnWkX2yLbT7cMfD1sHgE5aJpK9oNiR4vQwUx6BzYtClkZ"
OLDER = "Vq3xT8mZp0LrW5yKd2NfQq3xT8mZp0LrW5yKd2NfQq3xT8mZp0Lr"


def document(**more):
    return secret_store.Document("---\n# mine\n" + yaml.safe_dump({"vault_app_secret_key": OLD, **more}), "vault.yml")


def state(found):
    """The key and the others, with days and marks."""
    return found.values["vault_app_secret_key"], [(each["key"], each.get("until", ""), each.get("rotation", "")) for each in found.values.get("vault_app_secret_key_fallbacks", [])]


def days(number):
    return DAY + datetime.timedelta(days=number)


def test_a_key_is_known_before_it_signs_and_accepted_until_its_end():
    found = document()
    assert rotation.begin(found, AGE, DAY).changed
    key, [(new, until, mark)] = state(found)
    assert (key, until, mark) == (OLD, "", "next") and len(new) >= 50
    assert rotation.replace(found, AGE, DAY).changed
    assert state(found) == (new, [(OLD, "2026-03-16", "replaced")]) and found.made("vault_app_secret_key") == DAY
    assert rotation.finish(found, AGE, DAY).changed
    assert state(found) == (new, [(OLD, "2026-03-16", "")])
    assert found.text.startswith("---\n# mine\n") and yaml.safe_load(found.text) == found.values


def test_every_step_can_be_taken_again():
    """A run that was cut off after any step is followed by one that makes no further key, and ends where it would have."""
    for cut in range(2):
        found = document()
        for step in (rotation.begin, rotation.replace, rotation.finish)[:cut + 1]:
            step(found, AGE, DAY)
        before = state(found)
        known = {before[0], *(key for key, _, _ in before[1])}
        for step in (rotation.begin, rotation.replace, rotation.finish):
            step(found, AGE, days(3))
        key, others = state(found)
        assert {key, *(each for each, _, _ in others)} == known and key != OLD
        # Who was given something by the old key until now is let in as long as everybody.
        assert others == [(OLD, "2026-03-19", "")]


def test_another_rotation_keeps_what_still_counts_and_drops_what_is_over():
    found = document(vault_app_secret_key_fallbacks=[{"key": OLDER, "until": "2026-03-01"}, {"key": "over" * 20, "until": "2026-02-28"}])
    rotation.begin(found, AGE, DAY)
    assert state(found)[1][1:] == [(OLDER, "2026-03-01", "")]
    rotation.replace(found, AGE, DAY)
    rotation.finish(found, AGE, DAY)
    assert state(found)[1] == [(OLD, "2026-03-16", ""), (OLDER, "2026-03-01", "")]


@pytest.mark.parametrize(("age", "day"), [(60, "2026-03-03"), (86400, "2026-03-03"), (86401, "2026-03-04"), (AGE, "2026-03-16")])
def test_the_last_day_is_never_too_early(age, day):
    assert rotation.last_day(DAY, age) == day


@pytest.mark.parametrize("wrong", ["text", [1], [{"until": "2026-03-01"}], [{"key": "x", "until": datetime.date(2026, 3, 1)}]])
def test_fallbacks_that_somebody_wrote_otherwise(wrong):
    with pytest.raises(secret_store.Unusable, match="vault_app_secret_key_fallbacks in vault.yml is no list"):
        rotation.begin(document(vault_app_secret_key_fallbacks=wrong), AGE, DAY)


def test_a_deploy_key_waits_until_it_is_tried():
    old, public = secret_store.deploy_key("old")
    found = document(vault_app_deploy_key=old)
    first = rotation.begin_deploy_key(found, "deploy@staging", DAY)
    new = found.values["vault_app_deploy_key_next"]
    assert first.changed and first.done and rotation.public_half(new) in first.said and found.values["vault_app_deploy_key"] == old
    again = rotation.begin_deploy_key(found, "deploy@staging", days(1))
    assert not again.changed and not again.done
    last = rotation.finish_deploy_key(found, days(1))
    assert found.values["vault_app_deploy_key"] == new and "vault_app_deploy_key_next" not in found.values and found.made("vault_app_deploy_key") == DAY
    assert last.changed and last.said.endswith(public.removesuffix(" old"))
    assert not shown(first.said + last.said, [new, old])


def test_a_name_is_taken_away_with_its_day():
    found = secret_store.Document("---\n# made 2024-02-29\nvault_a: |\n  one\n  two\n# mine\nvault_b: y", "vault.yml")
    found.remove("vault_a")
    found.remove("vault_nothing")
    assert found.text == "---\n# mine\nvault_b: y\n"
    found.put("vault_c", [{"key": "x: #", "until": ""}], DAY)
    assert found.text == "---\n# mine\nvault_b: y\n# made 2026-03-01\nvault_c: [{key: 'x: #', until: ''}]\n"


# --- Passwords of the database ---------------------------------------------------------------------------------------

PASSWORD, NEXT, FORMER, TURN = rotation_database.names("app_database_password")
STEPS = (rotation_database.begin, rotation_database.replace, rotation_database.end, rotation_database.finish)


def turn(found):
    return {name: found.values[name] for name in (PASSWORD, NEXT, FORMER, TURN) if name in found.values}


def test_two_roles_take_turns():
    found = document(vault_app_database_password=OLDER, vault_app_migrate_password=OLD[::-1])
    assert (PASSWORD, TURN) == ("vault_app_database_password", "vault_app_database_alternate")
    assert rotation_database.begin(found, "app_database_password", DAY).changed
    new = found.values[NEXT]
    assert turn(found) == {PASSWORD: OLDER, NEXT: new} and len(new) >= 50
    assert rotation_database.replace(found, "app_database_password", DAY).changed
    assert turn(found) == {PASSWORD: new, FORMER: OLDER, TURN: True}
    # What site.yml finds: nobody has the old one any more, and it is still to be seen to that hosts know.
    assert rotation_database.end(found, "app_database_password", DAY).changed
    assert turn(found) == {PASSWORD: new, FORMER: [], TURN: True}
    assert list(contract.check_vault(found.values, ours=[])) == []
    assert rotation_database.finish(found, "app_database_password", DAY).changed
    assert turn(found) == {PASSWORD: new, TURN: True} and found.values["vault_app_migrate_password"] == OLD[::-1]
    for step in STEPS:
        step(found, "app_database_password", days(9))
    assert TURN not in found.values and found.values[PASSWORD] not in (OLDER, new) and found.made(PASSWORD) == days(9)
    assert found.text.startswith("---\n# mine\n") and yaml.safe_load(found.text) == found.values


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_password_that_was_cut_off_is_not_made_again(cut):
    found = document(vault_app_database_password=OLDER)
    for step in STEPS[:cut]:
        step(found, "app_database_password", DAY)
    new = found.values.get(NEXT) or found.values[PASSWORD]
    said = [step(found, "app_database_password", days(1)) for step in STEPS]
    assert [each.changed for each in said] == [number >= cut for number in range(len(STEPS))]
    assert turn(found) == {PASSWORD: new, TURN: True}
    assert not shown("".join(each.said for each in said), [new, OLDER])


def test_a_check_takes_the_steps_before_without_a_vault_that_has_them():
    found = document(vault_app_database_password=OLDER)
    assert rotation_database.take(found, "app_database_password", "end", DAY, check=True).changed
    told = rotation_database.values(found)
    assert told[TURN] is True and told[FORMER] == told[NEXT] == "" and told[PASSWORD] != OLDER and told["vault_app_migrate_password"] == ""


# --- The file, and the playbook as far as it goes without hosts ------------------------------------------------------


def test_the_vault_is_the_one_that_has_the_name(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    a_vault(tmp_path / "one/group_vars/all/other.yml", "vault_b: x\n")
    path = a_vault(tmp_path / "two/group_vars/all/vault.yml", f"vault_app_secret_key: {OLD}\n")
    sources = [str(tmp_path / "one"), str(tmp_path / "two")]
    vault = rotation.vault_with("vault_app_secret_key", sources, keys())
    vault.document.put("vault_app_secret_key", OLDER, DAY)
    vault.write()
    assert opened(path) == f"# made 2026-03-01\nvault_app_secret_key: {OLDER}\n"
    with pytest.raises(secret_store.Unusable, match=r"vault_c is in no vault of this inventory.*docs/rotate-a-secret.md"):
        rotation.vault_with("vault_c", sources, keys())
    a_vault(tmp_path / "one/group_vars/web.yml", "vault_app_secret_key: x\n")
    with pytest.raises(secret_store.Unusable, match=r"vault_app_secret_key is in .*web.yml and .*vault.yml, and one of them"):
        rotation.vault_with("vault_app_secret_key", sources, keys())


PLAY = """
- hosts: web
  become: false
  gather_facts: false
  vars: {site_preflight: skipped}
  tasks:
    - import_role: {name: redoubt.django.site}
    - redoubt.django.rotate: {secret: "{{ secret }}", step: begin, session_age: "{{ app_session_age }}", guard: "{{ app_guard }}", guard_skip: "{{ app_guard_skip }}"}
      run_once: true
      register: rotation
    - debug: {msg: "{{ rotation.said }}"}
"""


class Rotation(Place):
    def rotate(self, *arguments):
        (self.folder / "play.yml").write_text(PLAY)
        return self.play(self.folder / "play.yml", "-i", "inventories/staging", "--vault-id", f"staging@{CLIENT}", *arguments)


    def whole(self, *arguments):
        """The playbook itself, as far as it goes without hosts."""
        key = "ssh-ed25519 " + rotation.public_half(secret_store.deploy_key("x")[0]).split()[1]
        values = {"app_domains": ["our-site.net"], "base_admins": [{"name": "alice", "keys": [key]}]}
        return self.play("rotate.yml", "-i", "inventories/staging", "--vault-id", f"staging@{CLIENT}", "-e", json.dumps(values), *arguments)


@pytest.fixture
def place(tmp_path):
    found = Rotation(tmp_path)
    found.example("staging")
    assert found.secrets("staging").returncode == 0
    return found


REFUSED = [
    ({"secret": "vault_pki_ca_key"}, "secret is 'vault_pki_ca_key', which is not rotated here: it is one of app_secret_key, app_deploy_key"),
    ({"secret": "app_secret_key", "app_guard": "report"}, "app_guard is report, so no process would accept the old key"),
    ({"secret": "app_secret_key", "app_guard_skip": ["secret_key_fallbacks"]}, "app_guard_skip has secret_key_fallbacks"),
    ({"secret": "app_secret_key", "app_secret_key": "mine" * 20}, "app_secret_key of app1 is not vault_app_secret_key of inventories/staging/group_vars/all/vault.yml"),
    ({"secret": "app_deploy_key"}, "vault_app_deploy_key is in no vault of this inventory"),
    ({"secret": "pki_ca_key"}, "store1 is left out of this run or did not answer, and would go on to trust the old CA alone"),
    ({"secret": "app_database_password"}, "secret=app_database_password rotates nothing here: the application reaches its database over the unix socket"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_what_cannot_be_rotated_is_one_sentence_and_nothing_changes(place, values, sentence):
    before = place.vault("staging").read_bytes()
    answer = place.rotate("-e", json.dumps(values))
    assert answer.returncode != 0 and sentence in answer.words and "Traceback" not in answer.text, answer.text
    assert place.vault("staging").read_bytes() == before


def test_no_password_and_no_secret(place):
    before = place.vault("staging").read_bytes()
    answer = place.play("rotate.yml", "-i", "inventories/staging", "-e", "secret=app_secret_key")
    assert answer.returncode != 0 and "vault.yml is encrypted and no vault password was given" in answer.words and "Nothing was changed" in answer.words
    key = "ssh-ed25519 " + rotation.public_half(secret_store.deploy_key("x")[0]).split()[1]
    values = json.dumps({"app_domains": ["our-site.net"], "base_admins": [{"name": "alice", "keys": [key]}]})
    answer = place.play("rotate.yml", "-i", "inventories/staging", "--vault-id", f"staging@{CLIENT}", "-e", values)
    assert answer.returncode != 0 and "secret is not given: it is one of app_secret_key, app_deploy_key" in answer.words
    assert place.vault("staging").read_bytes() == before


def test_a_host_that_is_left_out(place):
    main = place.inventories / "staging/hosts.yml"
    hosts = yaml.safe_load(main.read_text())
    hosts["all"]["hosts"]["app2"] = {"ansible_host": "203.0.113.12"}
    hosts["all"]["children"]["web"]["hosts"]["app2"] = None
    main.write_text(yaml.safe_dump(hosts))
    answer = place.rotate("-e", "secret=app_secret_key", "--limit", "app2")
    assert answer.returncode != 0 and "app1 is left out of this run or did not answer" in answer.words, answer.text


@pytest.mark.parametrize(("secret", "limit", "sentence"), [
    ("app_secret_key", "store1", "app1 is left out of this run or did not answer, and would go on with the old value alone: run this for all hosts of web"),
    ("app_deploy_key", "store1", "app1 is left out"),
    ("backup_files_pass", "app1", "store1 is left out of this run or did not answer, and would go on with the old passphrase"),
    ("pki_ca_key", "store1", "app1 is left out of this run or did not answer, and would go on to trust the old CA alone"),
])
def test_a_limit_that_leaves_out_everybody_concerned_does_not_end_green(place, secret, limit, sentence):
    before = place.vault("staging").read_bytes()
    answer = place.whole("-e", f"secret={secret}", "--limit", limit)
    assert answer.returncode != 0 and sentence in answer.words, answer.text
    assert place.vault("staging").read_bytes() == before


def test_a_patience_that_is_no_number_is_not_none(place):
    answer = place.whole("-e", "secret=pki_ca_key", "-e", "patience=10h")
    assert answer.returncode != 0 and "patience is '10h', which is no number of seconds: give one (`-e patience=3600`), or 0 to wait for nothing" in answer.words, answer.text


def test_a_database_that_is_left_out_or_silent_is_refused_before_the_vault_is_written(place):
    main = place.inventories / "staging/hosts.yml"
    hosts = yaml.safe_load(main.read_text())
    hosts["all"]["hosts"]["db1"] = {"ansible_host": "203.0.113.13"}
    hosts["all"]["children"]["db"]["hosts"] = {"db1": None}
    main.write_text(yaml.safe_dump(hosts))
    assert place.secrets("staging").returncode == 0
    before = place.vault("staging").read_bytes()
    answer = place.whole("-e", "secret=app_database_password", "--limit", "web")
    assert answer.returncode != 0 and "db1 is left out of this run or did not answer, and would not know the new password: run this for all hosts of web and db" in answer.words, answer.text
    # Neither answers here: both are asked before anything is made.
    answer = place.whole("-e", "secret=app_database_password", "-e", '{"ansible_connection": "local", "ansible_python_interpreter": "/nonexistent"}')
    assert answer.returncode != 0 and "Read which packages and units the hosts have" in answer.text and "fatal: [db1]" in answer.text, answer.text
    assert place.vault("staging").read_bytes() == before


def test_a_check_says_it_and_a_run_shows_no_value(place):
    before = place.vault("staging").read_bytes()
    answer = place.rotate("-e", "secret=app_secret_key", "--check")
    assert answer.returncode == 0 and "changed=1" in answer.text and "a run would say: Made a new key in inventories/staging/group_vars/all/vault.yml" in answer.words
    assert place.vault("staging").read_bytes() == before
    answer = place.rotate("-e", "secret=app_secret_key", "-vvv")
    assert answer.returncode == 0 and "changed=1" in answer.text, answer.text
    values = place.values("staging")
    assert [each["rotation"] for each in values["vault_app_secret_key_fallbacks"]] == ["next"]
    again = place.rotate("-e", "secret=app_secret_key", "-vvv")
    assert again.returncode == 0 and "changed=0" in again.text and place.values("staging") == values
    assert not shown(answer.text + again.text, values.values())

    # The list of the secrets knows what it is.
    listed = place.secrets("staging")
    assert listed.returncode == 0 and "app_secret_key_fallbacks (site)" in listed.words and "used by nothing" not in listed.words, listed.text
    assert "again:" not in listed.words


def test_the_next_deploy_key_is_listed_and_its_public_half_alone_is_shown(place):
    main = place.inventories / "staging/group_vars/all/main.yml"
    main.write_text(yaml.safe_dump({**yaml.safe_load(main.read_text()), "app_deploy_key": "{{ vault_app_deploy_key }}"}))
    assert place.secrets("staging").returncode == 0
    answer = place.rotate("-e", "secret=app_deploy_key", "-vvv")
    values = place.values("staging")
    assert answer.returncode == 0 and rotation.public_half(values["vault_app_deploy_key_next"]) in answer.words, answer.text
    assert not shown(answer.text, values.values())
    listed = place.secrets("staging")
    assert listed.returncode == 0 and "app_deploy_key_next (site)" in listed.words, listed.text


def test_leaves_of_a_fallback_are_no_secrets_of_their_own():
    """The same last day twice is no value used again."""
    value = [{"key": OLD, "until": "2026-03-16"}, {"key": OLDER, "until": "2026-03-16"}]
    assert list(contract.check_vault({"vault_app_secret_key_fallbacks": value})) == []


def test_the_example_inventories_are_asked_with_the_playbook():
    done = subprocess.run([pathlib.Path(sys.executable).parent / "ansible-playbook", "--syntax-check", "-i", "inventories/production", "playbooks/rotate.yml"],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
