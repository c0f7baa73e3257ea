"""What two environments differ in: the repository's own examples as CI compares them, and by small inventories what counts, what is hidden, what is refused."""

from __future__ import annotations

import datetime
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "collections"))

from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible.plugins.vars import host_group_vars
from ansible_collections.redoubt.django.plugins.plugin_utils import contract, environment_parity
from ansible_collections.redoubt.django.plugins.plugin_utils.environment_secrets import Environment
from ansible_collections.redoubt.django.plugins.plugin_utils.secret_store import Unusable

BIN = pathlib.Path(sys.executable).parent
NAMES = ("staging", "production")
PASSWORDS = {"staging": "four-words-of-staging", "production": "four-words-of-production"}
KEYS = [(name, VaultSecret(password.encode())) for name, password in PASSWORDS.items()]
SITE = {"app_name": "notes", "app_domains": ["notes.example.org"], "app_repo": "https://git.example.org/notes.git", "app_version": "v1", "app_settings_module": "a.settings",
        "app_wsgi": "a.wsgi:application", "app_env": {"URL": "{{ app_database_url }}"}}


# The roles' files are read once for all tests; each environment has a loader of its own.
LOADER = DataLoader()


def encrypted(text, name):
    return VaultLib(KEYS).encrypt(text, secret=dict(KEYS)[name], vault_id=name).decode()


class Place:
    """Two environments that are alike, but for their secrets."""

    def __init__(self, folder):
        self.inventories = folder / "inventories"
        self.shown = []
        for name in NAMES:
            self.hosts(name, app1=["web", "db"])
            self.say(name, **SITE)
            self.vault(name, vault_app_secret_key=f"{name[0] * 3}kQ81hfT0pzLwGvB7yN")

    def write(self, name, path, text):
        target = self.inventories / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def hosts(self, name, **hosts):
        groups = {group: {"hosts": {host: {} for host, own in hosts.items() if group in own}} for group in contract.GROUPS}
        addresses = {host: {"ansible_host": f"10.{NAMES.index(name)}.0.{index}"} for index, host in enumerate(hosts, 1)}
        self.write(name, "hosts.yml", yaml.safe_dump({"all": {"hosts": addresses, "children": {group: own for group, own in groups.items() if own["hosts"]}}}))

    def say(self, name, file="main", **values):
        path = self.inventories / name / f"group_vars/all/{file}.yml"
        known = yaml.safe_load(path.read_text()) if path.exists() else {}
        self.write(name, f"group_vars/all/{file}.yml", yaml.safe_dump({**known, **values}))

    def vault(self, name, file="vault", **values):
        self.write(name, f"group_vars/all/{file}.yml", encrypted(yaml.safe_dump(values), name))

    def allow(self, differences, **more):
        (self.inventories / "parity.yml").write_text(yaml.safe_dump([{"between": list(NAMES), "differences": differences, **more}]))

    def compare(self, left="staging", right="production", keys=KEYS, client=pathlib.Path("/bin/false")):
        LOADER.set_vault_secrets(keys)
        # Within one process Ansible remembers which files there are.
        host_group_vars.FOUND.clear()
        host_group_vars.NAK.clear()
        outcome = environment_parity.compare(LOADER, left, right, self.inventories, None, client)
        return outcome, {each.name: each for each in outcome.differences}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


# --- The examples of the repository ----------------------------------------------------------------------------------


def examples(folder):
    """Copies with fresh secrets, as anybody who begins with them makes them: none are committed."""
    home = folder / "home/.config/redoubt"
    home.mkdir(parents=True)
    shutil.copytree(ROOT / "inventories", folder / "inventories")
    for name in NAMES:
        inventory = folder / "inventories" / name
        assert not Environment(DataLoader(), [str(inventory)], KEYS, name).settle(False, datetime.date(2026, 1, 1)).mistakes
        (home / f"vault-{name}").write_text(PASSWORDS[name])
        (home / f"vault-{name}").chmod(0o600)
    return folder


def play(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDOUBT_", "ANSIBLE_", "XDG_"))}
    environment |= {"HOME": str(folder / "home"), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(folder / "ansible")}
    command = [BIN / "ansible-playbook", "-i", "localhost,", "-e", f"inventories={folder / 'inventories'}", "-e", "left=staging", "-e", "right=production", *arguments]
    return subprocess.run([*command, ROOT / "playbooks/parity.yml"], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)


def secrets_of(folder):
    for name in NAMES:
        text = VaultLib(KEYS).decrypt((folder / f"inventories/{name}/group_vars/all/vault.yml").read_bytes())
        yield from yaml.safe_load(text).values()


def test_staging_and_production_differ_in_what_is_reviewed_and_in_nothing_else(tmp_path):
    answer = play(examples(tmp_path), "-vvv")
    assert answer.returncode == 0 and "changed=0" in answer.stdout, answer.stdout + answer.stderr
    assert re.search(r"app_env.ALLOWED_HOSTS: follows from what may differ", answer.stdout)
    prints = set(re.findall(r"secret ([0-9a-f]{12})", answer.stdout))
    assert len(prints) >= 10
    for secret in secrets_of(tmp_path):
        for piece in [secret, *secret.splitlines()]:
            assert len(piece) < 8 or "-----" in piece or piece not in answer.stdout + answer.stderr
        assert not any(hashlib.new(kind, secret.encode()).hexdigest()[:12] in prints for kind in ("sha256", "sha1", "md5"))
    # A setting that somebody changed in the one, and a fingerprint that says nothing in the next run.
    path = tmp_path / "inventories/staging/group_vars/all/main.yml"
    path.write_text(path.read_text() + "\napp_guard: report\n")
    answer = play(tmp_path, "--check")
    assert answer.returncode == 2 and 'app_guard differs' in answer.stdout and '"report" in staging, "enforce" in production' in " ".join(answer.stdout.split())
    assert not prints & set(re.findall(r"secret ([0-9a-f]{12})", answer.stdout))


# --- What differs ----------------------------------------------------------------------------------------------------


def test_what_is_alike_is_no_difference(place):
    outcome, found = place.compare()
    assert not outcome.mistakes and {name: each.verdict for name, each in found.items()} == {
        "app_secret_key": "secret", "vault_app_secret_key": "secret", "site_addresses.app1": "follows"}


def test_what_counts_is_what_the_host_ends_up_with(place):
    # Said in another way, said as the default is, said where another file says otherwise: all the same.
    place.say("staging", app_version="{{ 'v' ~ '1' }}", app_releases_kept=5)
    place.write("production", "host_vars/app1.yml", "app_version: v2\n")
    place.write("staging", "group_vars/web.yml", "app_version: v2\n")
    assert not place.compare()[0].mistakes
    place.say("staging", nginx_hsts_max_age=60)
    outcome, found = place.compare()
    assert found["nginx_hsts_max_age"].verdict == "not allowed" and found["nginx_hsts_max_age"].left == "60" and int(found["nginx_hsts_max_age"].right) > 60
    assert [each for each in outcome.mistakes if each.startswith("nginx_hsts_max_age differs, and ") and each.endswith(" (app1)")] == outcome.mistakes


def test_part_by_part(place):
    place.say("staging", app_env={"A": "1", "B": "2"}, app_timers={"x": {"command": "y", "on_calendar": "daily"}}, app_login_paths=["/a/"])
    place.say("production", app_env={"A": "1", "B": "3"}, app_timers={"x": {"command": "y", "on_calendar": "hourly"}}, app_login_paths=["/a/", "/b/"])
    _, found = place.compare()
    wrong = {name: (each.left, each.right) for name, each in found.items() if each.verdict == "not allowed"}
    assert wrong == {"app_env.B": ('"2"', '"3"'), "app_timers.x.on_calendar": ('"daily"', '"hourly"'), "app_login_paths": ('["/a/"]', '["/a/", "/b/"]'),
                     "app_probe_paths": ('["/", "/a/"]', '["/", "/a/", "/b/"]')}


def test_what_follows_from_an_entry_needs_none_but_what_does_not_does(place):
    for name in NAMES:
        place.say(name, app_domains=[f"{name}.example.org"], app_env={"HOSTS": "{{ app_domains | join(',') }}", "MAIL": "a@{{ app_domains[0] }}", "SIZE": "{{ app_env_size }}"}, app_env_size=1)
    place.allow({"app_domains": "each its own"})
    outcome, found = place.compare()
    assert not outcome.mistakes and found["app_domains"].why == "each its own" and found["app_env.HOSTS"].verdict == found["app_env.MAIL"].verdict == "follows"
    place.say("production", app_env={"HOSTS": "*", "MAIL": "a@{{ app_domains[0] }}", "SIZE": "{{ app_env_size }}"})
    outcome, found = place.compare()
    assert [each.split(" ")[0] for each in outcome.mistakes] == ["app_env.HOSTS"] and found["app_env.HOSTS"].right == '"*"'


def test_what_ought_to_follow_and_does_not(place):
    """Equal today, because somebody wrote the one's value into the other."""
    for name in NAMES:
        place.say(name, app_name={"staging": "trial", "production": "notes"}[name], app_env={"DATABASE": "notes" if name == "staging" else "{{ app_name }}"})
    place.allow({"app_name": "two on one host"})
    outcome, _ = place.compare()
    assert [each.split(" ")[0] for each in outcome.mistakes] == ["app_env.DATABASE"]


def test_an_entry_that_nothing_needs_is_refused(place):
    place.allow({"app_guard": "staging only reports", "app_env": "anything", "vault_app_secret_key": "shared"})
    outcome, _ = place.compare()
    assert {each.split(" for ")[1].split(",")[0] for each in outcome.mistakes} == {"app_guard", "app_env", "vault_app_secret_key"}
    assert all("nothing of it needs one: remove the entry" in each for each in outcome.mistakes)
    place.say("staging", app_guard="report", app_env={"X": "1"})
    place.say("production", app_env={"X": "2"})
    assert [each.split(" for ")[1].split(",")[0] for each in place.compare()[0].mistakes] == ["vault_app_secret_key"]


def test_the_order_of_the_two_does_not_matter_to_the_list(place):
    place.say("staging", app_guard="report")
    place.allow({"app_guard": "staging only reports"})
    assert not place.compare("production", "staging")[0].mistakes
    (place.inventories / "parity.yml").write_text(yaml.safe_dump([{"between": ["staging", "demo"], "differences": {"app_guard": "x"}}]))
    assert place.compare()[0].mistakes


# --- Secrets ---------------------------------------------------------------------------------------------------------

HUSH = {"staging": "Vq3xT8mZp0LrW5yKd2Nf", "production": "k3Qx81hfT0pzLwGvB7yN"}


def inline(name, word):
    """`!vault` in a file that is open otherwise."""
    return "\n".join(f"    {line}" for line in encrypted(word, name).splitlines())


CARRIED = {
    "vault_x": lambda place, name, word: place.vault(name, "x", vault_x=word),
    "vault_deep.a[0].b": lambda place, name, word: place.vault(name, "deep", vault_deep={"a": [{"b": word}]}),
    "house_word": lambda place, name, word: place.vault(name, "house", house_word=word),
    "house_word_of_the_host": lambda place, name, word: place.write(name, "host_vars/app1.yml", encrypted(f"house_word_of_the_host: {word}", name)),
    "house_inline": lambda place, name, word: place.write(name, "group_vars/all/inline.yml", f"house_inline: !vault |\n{inline(name, word)}\n"),
    "house.deep": lambda place, name, word: place.write(name, "group_vars/all/deeper.yml", f"house:\n  deep: !vault |\n{inline(name, word)}\n"),
    # Too short to be recognised where it turns up: where it stands has to be enough.
    "house_short": lambda place, name, word: place.write(name, "group_vars/all/short.yml", f"house_short: !vault |\n{inline(name, word[-5:])}\n"),
    "app_database.password": lambda place, name, word: place.say(name, app_database={"name": "notes", "user": "notes", "host": "/run", "port": 1, "sslmode": "prefer", "password": word}),
    "ansible_become_password": lambda place, name, word: place.say(name, ansible_become_password=word),
    "base_alert_url": lambda place, name, word: place.say(name, base_alert_url=f"https://{word}.example.org/"),
    "app_secret_env.X": lambda place, name, word: place.say(name, app_secret_env={"X": word}),
    "app_env.MAP_TOKEN": lambda place, name, word: place.say(name, app_env={"MAP_TOKEN": word}),
    "app_files[0].content": lambda place, name, word: place.say(name, app_files=[{"dest": "/etc/x", "secret": True, "content": f"word = {word}"}]),
}
PART = {
    "WHOLE": "{{ house_word }}",
    "INSIDE": "redis://:{{ house_word | urlencode }}@localhost",
    "HASHED": "{{ house_word | hash('sha256') }}",
    "FIRST": "{{ house_word[0] }}",
    "LENGTH": "{{ house_word | length ~ house_word[:2] }}",
    "DECODED": "{{ (house_word ~ '====') | b64decode(encoding='latin-1') }}",
    "ROUNDABOUT": "{{ house_other }}",
    "OF_THE_HOST": "{{ hostvars['app1'].house_word }}",
}


def test_no_secret_is_shown_wherever_it_stands(place):
    for name in NAMES:
        for number, carry in enumerate(CARRIED.values()):
            carry(place, name, f"{HUSH[name]}{number:x}")
    outcome, found = place.compare()
    for label in CARRIED:
        assert found[label].verdict == "secret" and re.fullmatch(r"secret [0-9a-f]{12}", found[label].left) and found[label].left != found[label].right, label
    assert not outcome.mistakes and not any(piece in str(outcome) for piece in HUSH.values())


def test_one_secret_in_two_environments_is_refused(place):
    for name in NAMES:
        for number, carry in enumerate(CARRIED.values()):
            carry(place, name, f"{HUSH['staging']}{number:x}")
    outcome, found = place.compare()
    assert sorted(outcome.mistakes) == sorted(
        f"{label}: staging and production have the same secret: give each its own, or say in {place.inventories}/parity.yml why it is shared. (app1)" for label in CARRIED)
    place.allow(dict.fromkeys(CARRIED, "somebody else gives out one"))
    outcome, found = place.compare()
    assert not outcome.mistakes and {found[label].verdict for label in CARRIED} == {"allowed"} and HUSH["staging"] not in str(outcome)


def test_what_takes_part_of_a_secret_is_one(place):
    for name in NAMES:
        place.vault(name, "more", house_word=HUSH[name])
        place.say(name, app_env=PART, house_other="x{{ house_word }}")
    outcome, found = place.compare()
    for label in PART:
        each = found[f"app_env.{label}"]
        assert each.verdict == "secret" and re.fullmatch(r"secret [0-9a-f]{12}", each.left), each
    assert not outcome.mistakes and not any(piece in str(outcome) for piece in HUSH.values())


def test_what_only_stands_beside_a_secret_is_none(place):
    """app_database has a password in it, and app_database_url takes its name alone: equal, and nobody's secret."""
    for name in NAMES:
        place.say(name, app_env={"URL": "{{ app_database_url }}", "NAME": "{{ app_database.name }}", "ON": "{{ 'yes' if vault_app_secret_key else 'no' }}"})
    assert not place.compare()[0].mistakes
    place.say("staging", app_env={"URL": "x", "NAME": "{{ app_database.name }}", "ON": "no"})
    _, found = place.compare()
    assert found["app_env.URL"].right == '"postgres://notes@/notes"' and found["app_env.ON"].right == '"yes"'


def test_one_secret_under_two_names(place):
    place.vault("staging", "more", vault_mail=HUSH["staging"])
    place.vault("production", "more", vault_post=HUSH["staging"], vault_mail=HUSH["production"])
    outcome, _ = place.compare()
    assert any(each.startswith("vault_mail of staging and vault_post of production: ") for each in outcome.mistakes) and HUSH["staging"] not in str(outcome)


def test_a_secret_that_one_lacks_or_has_in_the_open_differs(place):
    place.vault("staging", "more", vault_mail=HUSH["staging"])
    place.vault("production", "more", vault_door="")
    place.say("staging", house_word="nobody minds it")
    place.vault("production", "word", house_word=HUSH["production"])
    outcome, found = place.compare()
    assert {each.split(" ")[0] for each in outcome.mistakes} == {"vault_mail", "house_word"}
    assert found["vault_mail"].right == environment_parity.ABSENT and "nobody minds it" not in str(outcome)
    place.allow({"vault_mail": "production sends none", "house_word": "not yet"})
    assert not place.compare()[0].mistakes


# --- Hosts -----------------------------------------------------------------------------------------------------------


def test_hosts_of_other_names(place):
    for name, short in zip(NAMES, ("s", "p"), strict=True):
        place.hosts(name, **{f"{short}-app": ["web", "db"], f"{short}-store": ["logs", "backups"]})
        place.vault(name, "more", vault_backup_database_pass=f"{HUSH[name]}1", vault_backup_files_pass=f"{HUSH[name]}2", vault_pki_ca_key=f"{HUSH[name]}3")
    outcome, found = place.compare()
    assert not outcome.mistakes and outcome.hosts == [("s-app", "p-app"), ("s-store", "p-store")]
    # Addresses, under the names that the left has for the hosts.
    follows = [each.replace("['", ".").replace("']", "") for each, difference in found.items() if difference.verdict == "follows"]
    assert {each.split(".")[0].split("_")[-1] for each in follows} == {"addresses"} and {"site_addresses.s-app", "site_addresses.s-store"} <= set(follows)
    place.write("production", "host_vars/p-store.yml", "firewall_ssh_rate: 1/minute\n")
    outcome, _ = place.compare()
    assert len(outcome.mistakes) == 1 and outcome.mistakes[0].startswith("firewall_ssh_rate ") and outcome.mistakes[0].endswith(" (s-store/p-store)")


def test_more_hosts_of_a_kind(place):
    for name in NAMES:
        place.vault(name, "more", vault_app_database_password=f"{HUSH[name]}1", vault_app_migrate_password=f"{HUSH[name]}2", vault_pki_ca_key=f"{HUSH[name]}3")
    place.hosts("staging", app1=["web"], db1=["db"])
    place.hosts("production", app1=["web"], app2=["web"], db1=["db"])
    outcome, found = place.compare()
    assert outcome.hosts == [("app1", "app1"), ("app1", "app2"), ("db1", "db1")]
    assert found["groups.web"].right == "app1 and app2" and any(each.startswith("groups.web differs") for each in outcome.mistakes)
    place.allow({"groups.web": "production has twice the visitors"})
    outcome, found = place.compare()
    assert not outcome.mistakes and found["site_web_hosts"].verdict == "follows"
    place.write("production", "host_vars/app2.yml", "app_gunicorn_workers: 3\n")
    assert [each.split(" ")[0] for each in place.compare()[0].mistakes] == ["app_gunicorn_workers"]


def test_counterparts_that_are_named(place):
    for name in NAMES:
        place.vault(name, "more", **{f"vault_{key}": f"{HUSH[name]}{key}" for key in ("app_database_password", "app_migrate_password", "pki_ca_key")})
    place.hosts("production", web1=["web"], db1=["db"])
    with pytest.raises(Unusable, match=r"app1 of staging is in web and db, and no host of production is in just those: give production one, or name its counterpart in .*"):
        place.compare()
    place.allow({"site_fleet": "staging is one host"}, counterparts={"web1": "app1", "db1": "app1"})
    outcome, _ = place.compare()
    assert set(outcome.hosts) == {("app1", "web1"), ("app1", "db1")}
    assert not [each for each in outcome.mistakes if each.startswith(("groups.", "site_fleet"))]


# --- What cannot be compared -----------------------------------------------------------------------------------------


def unopened(place):
    place.write("production", "group_vars/all/vault.yml", VaultLib(KEYS).encrypt("vault_app_secret_key: x", secret=VaultSecret(b"another"), vault_id="production").decode())


def swapped(place):
    shutil.copy(place.inventories / "staging/group_vars/all/vault.yml", place.inventories / "production/group_vars/all/vault.yml")


BAD = {
    "no name": (lambda place: None, ("", "production"), "left is not given: name two environments, `-e left=staging -e right=production`."),
    "no such": (lambda place: None, ("staging", "prodction"), "right is 'prodction', but INV/prodction is not there: did you mean production?"),
    "nothing like it": (lambda place: None, ("qa", "production"), "left is 'qa', but INV/qa is not there; there are: production and staging."),
    "itself": (lambda place: None, ("staging", "staging"), "left and right are both staging: name two environments, `-e left=staging -e right=production`."),
    "unopened": (unopened, NAMES, "INV/production/group_vars/all/vault.yml does not open: give its password, with --vault-id production@inventories/vault-client."),
    "another's": (swapped, NAMES, "INV/production/group_vars/all/vault.yml is the vault of 'staging' by its first line, but this environment is 'production': give it secrets of its own."),
    "no vault": (lambda place: (place.inventories / "production/group_vars/all/vault.yml").unlink(), NAMES,
                 "vault_app_secret_key is not defined in production, but app_secret_key takes it: `ansible-playbook -i INV/production --vault-id production@inventories/vault-client playbooks/secrets.yml` makes it."),
    "no db": (lambda place: place.hosts("staging", app1=["web"]), NAMES, "INV/staging: The inventory has no group db"),
    "no store": (lambda place: place.hosts("production", app1=["web", "db"], store1=["logs"]), NAMES,
                 "store1 of production is in logs, and no host of staging is in just that: give staging one, or name its counterpart in INV/parity.yml (`counterparts: {store1: HOST}`)."),
    "no host": (lambda place: place.allow({}, counterparts={"app1": "app9"}), NAMES, "INV/parity.yml calls app1 and app9 counterparts, but they are not hosts of staging and production: correct it."),
    "no reason": (lambda place: place.allow({"app_guard": " "}), NAMES, "INV/parity.yml: app_guard has no reason: write it behind the colon."),
    "no list": (lambda place: (place.inventories / "parity.yml").write_text("app_guard: x\n"), NAMES,
                "INV/parity.yml is no list of `{between: [ONE, OTHER], differences: {name: reason}}`: write it so (docs/parity.md)."),
    "a slip": (lambda place: place.allow({}, diferences={}), NAMES, "INV/parity.yml is no list of `{between: [ONE, OTHER], differences: {name: reason}}`: write it so (docs/parity.md)."),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_compared_is_said_in_one_sentence(place, case):
    spoil, names, sentence = BAD[case]
    spoil(place)
    with pytest.raises(Unusable) as caught:
        place.compare(*names)
    said = str(caught.value).replace(str(place.inventories), "INV")
    assert said.startswith(sentence) and "\n" not in said and not any(piece in said for piece in HUSH.values())


def test_the_client_is_asked_for_a_password_that_nobody_gave(place, tmp_path):
    client = tmp_path / "client"
    client.write_text('#!/bin/sh\n[ "$2" = production ] && echo four-words-of-production\n')
    client.chmod(0o755)
    assert not place.compare(keys=KEYS[:1], client=client)[0].mistakes
    client.write_text('#!/bin/sh\necho "it can be read by others" >&2; exit 1\n')
    with pytest.raises(Unusable, match="it can be read by others"):
        place.compare(keys=KEYS[:1], client=client)


def test_a_secret_that_one_of_them_has_replaced_is_not_the_other_s(place):
    for name in NAMES:
        place.hosts(name, app1=["web", "db"])
        place.vault(name, vault_app_secret_key=f"{name[0] * 3}kQ81hfT0pzLwGvB7yN", vault_app_secret_key_fallbacks=[{"key": "both-kQ81hfT0pzLwGvB7yN", "until": "2026-03-16"}])
    outcome, found = place.compare()
    assert any("vault_app_secret_key_fallbacks[0].key" in mistake for mistake in outcome.mistakes), found


@pytest.mark.parametrize("state", ["next", "former"])
def test_how_far_a_rotation_is_is_no_difference(place, state):
    """One environment has rotated the passwords of its database, or is about to, and its CA; the other has not."""
    for name in NAMES:
        place.hosts(name, app1=["web"], db1=["db"])
        place.say(name, pki_ca_certificate="-----BEGIN CERTIFICATE-----")
        secret = f"{name[0] * 3}kQ81hfT0pzLwGvB7yN"
        values = {"vault_app_secret_key": secret, "vault_app_database_password": f"a{secret}", "vault_app_migrate_password": f"b{secret}", "vault_pki_ca_key": f"d{secret}"}
        if name == "production":
            values |= {"vault_app_database_alternate": True} if state != "next" else {}
            values |= {f"vault_app_database_password_{state}": f"c{secret}"}
            values |= {"vault_pki_ca_key_next": f"e{secret}"} if state == "next" else {"vault_pki_ca_former": ["0A"]}
            values |= {f"vault_backup_{kind}_pass_{state}": f"f{kind}{secret}" for kind in ("files", "database")}
            values |= {"vault_app_secret_key_fallbacks": [{"key": f"g{secret}", "until": "2026-03-16", "rotation": "replaced"}, {"key": f"h{secret}", "until": "2026-02-16"}]}
            values |= {"vault_app_deploy_key_next": f"i{secret}"} if state == "next" else {}
        elif state == "former":
            # Both have rotated on one day.
            values |= {"vault_app_secret_key_fallbacks": [{"key": f"g{secret}", "until": "2026-03-16", "rotation": "replaced"}]}
        place.vault(name, **values)
    outcome, found = place.compare()
    assert not outcome.mistakes and not [each for each in outcome.differences if each.verdict == environment_parity.WRONG], found
