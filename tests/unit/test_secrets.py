"""The vault's text and file, the client script, and the two playbooks by real runs: what is made, kept, refused, and that no value is ever shown."""

from __future__ import annotations

import copy
import datetime
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import threading

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "collections"))

from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.redoubt.django.plugins.plugin_utils import authority, contract, environment_secrets, secret_store

BIN = pathlib.Path(sys.executable).parent
CLIENT = ROOT / "inventories" / "vault-client"
DAY = datetime.date(2026, 3, 1)
PASSWORD = "four-words-that-open-it"
OTHER = "k3Qx81hfT0pzLwGvB7yN"


# --- The text --------------------------------------------------------------------------------------------------------

NAMES = st.from_regex(r"vault_[a-z]{1,8}", fullmatch=True)
VALUES = st.text(max_size=30) | st.sampled_from(["-----BEGIN X-----\nab\ncd\n-----END X-----\n", "a\nb", "\n", " x", "yes", "0x1F", "{{ x }}", "# no comment", "a: b", "é\x85", "'", "- a"])
COMMENTS = st.from_regex(r"# [a-z ]{0,12}", fullmatch=True)


@st.composite
def documents(draw):
    """Texts as people write them: comments anywhere, empty lines, values of one line and of several."""
    text, names = draw(st.sampled_from(["", "---\n", "---\n# head\n"])), draw(st.lists(NAMES, unique=True, max_size=5))
    for name in names:
        text += "".join(line + "\n" for line in draw(st.lists(COMMENTS | st.just(""), max_size=2)))
        text += f"{name}: " + draw(st.sampled_from(["plain\n", "'quoted'  # behind\n", "|\n  one\n  two\n", ">\n  folded\n\n  text\n\n", "\n  key: word\n  # within\n  list: [1]\n", "\n  - a\n", "[a,\n  b]\n", "\n"]))
    text += "".join(line + "\n" for line in draw(st.lists(COMMENTS | st.just(""), max_size=2)))
    short = text.rstrip("\n")
    # Where the last line's end belongs to a value, it is not there to be left out.
    return short if draw(st.booleans()) and yaml.safe_load(short) == yaml.safe_load(text) else text


@settings(max_examples=200, deadline=None)
@given(documents(), VALUES, st.data())
def test_putting_one_name_leaves_everything_else_as_it_was(text, value, data):
    document = secret_store.Document(text, "vault.yml")
    before = copy.deepcopy(document.values)
    name = data.draw(st.sampled_from(sorted(before)) | NAMES if before else NAMES)
    document.put(name, value, DAY)
    assert document.values == {**before, name: value} == yaml.safe_load(document.text)
    assert document.made(name) == DAY
    rest = [line for line in text.splitlines() if line.startswith("#") and not line.startswith("# made")]
    assert [line for line in document.text.splitlines() if line in rest] == rest or value in rest
    if name not in before:
        assert document.text.startswith(text)
    once = document.text
    document.put(name, value, DAY)
    assert document.text == once
    assert [key for key in document.values if key in before] == list(before)


def test_the_day_stands_above_the_value():
    document = secret_store.Document("---\n# mine\nvault_a: x\n# made 2024-02-29\nvault_b: y\n# made 2024-02-31\nvault_c: z\n", "vault.yml")
    assert [document.made(name) for name in ("vault_a", "vault_b", "vault_c")] == [None, datetime.date(2024, 2, 29), None]
    document.put("vault_b", "new", DAY)
    several = secret_store.Document("vault_a: |\n  # one\n\n  two\n\n\n# of b\nvault_b: x\n", "vault.yml")
    several.put("vault_a", "new", DAY)
    assert several.text == "# made 2026-03-01\nvault_a: new\n\n\n# of b\nvault_b: x\n"
    assert document.text == "---\n# mine\nvault_a: x\n# made 2026-03-01\nvault_b: new\n# made 2024-02-31\nvault_c: z\n"


@pytest.mark.parametrize("text", ["vault_a: 'open\n", "{vault_a: secret-k3Qx81, }x", "- secret-k3Qx81\n", "{vault_a: secret-k3Qx81}\n", "a: !ruby/object secret-k3Qx81\n"])
def test_a_text_that_cannot_be_edited_is_refused_without_being_shown(text):
    with pytest.raises(secret_store.Unusable) as caught:
        secret_store.Document(text, "vault.yml").put("vault_new", "x", DAY)
    assert "ansible-vault edit vault.yml" in str(caught.value) and "k3Qx81" not in str(caught.value)


# --- The file --------------------------------------------------------------------------------------------------------


def keys(password=PASSWORD, name="staging"):
    return [(name, VaultSecret(password.encode()))]


def a_vault(path, text, name="staging", password=PASSWORD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(VaultLib(keys(password, name)).encrypt(text, secret=keys(password, name)[0][1], vault_id=name))
    return path


def opened(path, name="staging", password=PASSWORD):
    assert path.read_bytes().startswith(b"$ANSIBLE_VAULT;1.2;AES256;" + name.encode() + b"\n")
    return VaultLib(keys(password, name)).decrypt(path.read_bytes()).decode()


def test_the_file_is_never_plain_not_even_for_a_moment(tmp_path, monkeypatch):
    path = a_vault(tmp_path / "vault.yml", "---\n# mine\nvault_a: hush-hush-hush\n")
    path.chmod(0o644)
    plain = []

    def look(step):
        def seen(*args, **more):
            plain.extend(each for each in tmp_path.iterdir() if b"hush" in each.read_bytes() or stat.S_IMODE(each.stat().st_mode) & 0o077 and each != path)
            return step(*args, **more)
        return seen

    monkeypatch.setattr(os, "fsync", look(os.fsync))
    monkeypatch.setattr(pathlib.Path, "replace", look(pathlib.Path.replace))
    vault = secret_store.Vault(path, "staging", keys())
    vault.document.put("vault_b", "hush-hush-again", DAY)
    vault.write()
    assert not plain and [each.name for each in tmp_path.iterdir()] == ["vault.yml"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert opened(path) == "---\n# mine\nvault_a: hush-hush-hush\n# made 2026-03-01\nvault_b: hush-hush-again\n"


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = a_vault(tmp_path / "vault.yml", "vault_a: x\n")
    before = path.read_bytes()
    vault = secret_store.Vault(path, "staging", keys())
    vault.document.put("vault_b", "y", DAY)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        vault.write()
    assert path.read_bytes() == before
    monkeypatch.undo()
    vault.write()  # what lies around from the last time is in nobody's way
    assert [each.name for each in tmp_path.iterdir()] == ["vault.yml"] and "vault_b: y" in opened(path)


def test_two_who_write_at_once_do_not_lose_each_others(tmp_path):
    path = a_vault(tmp_path / "vault.yml", "vault_a: x\n")
    refused = []

    def add(number):
        for _ in range(50):
            vault = secret_store.Vault(path, "staging", keys())
            vault.document.put(f"vault_n{number}", "y", DAY)
            try:
                return vault.write()
            except secret_store.Unusable as error:
                refused.append(str(error))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert yaml.safe_load(opened(path)) == {"vault_a": "x", **{f"vault_n{number}": "y" for number in range(4)}}
    assert all("changed by somebody else" in each for each in refused)


def test_the_password_that_opened_it_closes_it_again(tmp_path):
    path = a_vault(tmp_path / "vault.yml", "vault_a: x\n", password="second")
    vault = secret_store.Vault(path, "staging", [*keys("first"), *keys("second"), *keys("third", "production")])
    vault.document.put("vault_b", "y", DAY)
    vault.write()
    assert "vault_b" in opened(path, password="second")


def test_a_link_stays_a_link(tmp_path):
    real = a_vault(tmp_path / "kept" / "real.yml", "vault_a: x\n")
    link = tmp_path / "vault.yml"
    link.symlink_to(real)
    vault = secret_store.Vault(link, "staging", keys())
    vault.document.put("vault_b", "y", DAY)
    vault.write()
    assert link.is_symlink() and "vault_b" in opened(real)


# --- What is made ----------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.integers())
def test_what_is_made_is_strong_and_means_nothing_to_anybody(_):
    value = secret_store.random_text()
    assert re.fullmatch(r"[A-Za-z0-9]{50}", value) and contract.secret_problem("vault_x_password", (), value) is None
    assert value not in {secret_store.random_text() for _ in range(20)}


def test_the_authority_is_one_that_the_kit_takes():
    key = secret_store.authority_key()
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    made = authority.Authority(secret_store.authority_certificate(key, "production", now), key)
    assert made.certificate.subject.rfc4514_string() == "CN=production"
    assert (made.certificate.not_valid_after_utc - now).days == 3650
    assert secret_store.authority_key() != key


def test_a_deploy_key_and_its_public_half():
    private, public = secret_store.deploy_key("deploy@staging")
    key = serialization.load_ssh_private_key(private.encode(), None)
    assert public == key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() + " deploy@staging"
    assert yaml.safe_load("k: " + secret_store.shown(private)) == {"k": private}


@pytest.mark.parametrize(
    ("name", "users", "foreign"),
    [
        ("vault_base_alert_url", ["base_alert_url"], True), ("vault_smtp_password", ["app_secret_env.X"], True), ("vault_x", ["app_secret_env.EMAIL_HOST_PASSWORD"], True),
        ("vault_become", ["ansible_become_password"], True), ("vault_stripe", ["app_secret_env.STRIPE_KEY"], True),
        ("vault_app_secret_key", ["app_secret_env.SECRET_KEY", "app_secret_key"], False), ("vault_app_admin_password", ["app_secret_env.DJANGO_SUPERUSER_PASSWORD"], False),
        ("vault_app_database_password", ["app_database.password", "app_database_password"], False), ("vault_x", ["app_files[0].content"], False),
        ("vault_smtp_user", ["app_env.X"], True), ("vault_report_user_password", ["app_secret_env.X"], False), ("vault_accounting", ["app_secret_env.X"], False),
    ],
)
def test_what_somebody_else_gives_out(name, users, foreign):
    assert environment_secrets.Environment.foreign(name, users) is foreign


# --- Plain text ------------------------------------------------------------------------------------------------------

KNOWN = {"app_secret_key", "app_secret_env", "base_alert_url", "pki_ca_key"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("vault_a: x\n", [("vault_a", 1)]),
        ("all:\n  hosts:\n    app1: {vault_a: x}\n", [("vault_a", 3)]),
        ("vault_a: {b: [x]}\n", [("vault_a.b.0", 1)]),
        ("app_secret_key: abc\napp_secret_env:\n  A: '{{ vault_a }}'\n  B: plain\n", [("app_secret_key", 1), ("app_secret_env.B", 4)]),
        ("app_secret_key: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  00\n", []),
        ("base_alert_url: ''\napp_secret_env: {}\nvault_none:\nvault_flag: true\n", []),
        ("app_files:\n  - dest: a\n    secret: true\n    content: |\n      [db]\n      password = hush\n      name = x\n      token = {{ vault_t }}\n", [("app_files (content: password)", 6)]),
        ("app_files:\n  - {dest: a, content: 'password = hush'}\n", []),
        ("vault_a: ENC[AES256_GCM,data:x,iv:y,tag:z,type:str]\nsops: {version: 3.9.0}\n", []),
        ("# vault_a: x\nother: vault_a\n", []),
        ("---\na: 1\n---\nvault_a: x\n", [("vault_a", 4)]),
        ("all:\n  hosts:\n    a: {ansible_become_password: x, ansible_ssh_pass: y}\n    b: {ansible_password: '{{ vault_b }}', ansible_sudo_pass: z, ansible_become: true}\n",
         [("ansible_become_password", 3), ("ansible_ssh_pass", 3), ("ansible_sudo_pass", 4)]),
        ("app_env:\n  EMAIL_HOST_PASSWORD: k3Jd\n  SENTRY_TOKEN: x\n  MAPS_API_KEY: y\n  SECRET_KEY: '{{ app_secret_key }}'\n  DB_PASSWORD: ''\n  CSRF_USE_TOKEN: true\n",
         [("app_env.EMAIL_HOST_PASSWORD", 2), ("app_env.SENTRY_TOKEN", 3), ("app_env.MAPS_API_KEY", 4)]),
        ("app_env: {PASSWORD_RESET_TIMEOUT: '3600', TOKEN_LIFETIME: 5, EMAIL_HOST_PASSWORD_FILE: /x, SECRETS_BACKEND: file, DEBUG: '0', STATIC: /x}\n", []),
        ("app_env: '{{ other }}'\n", []),
    ],
)
def test_plain_text_is_found_where_it_stands(tmp_path, text, found):
    path = tmp_path / "main.yml"
    path.write_text(text)
    assert [(each.name, each.line) for each in secret_store.plain_texts(path, KNOWN)] == found


def test_plain_text_in_an_inventory_of_the_older_form(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("[web]\napp1 ansible_host=192.0.2.1 vault_a='x' vault_b={{ y }}\n[web:vars]\n# vault_c=z\napp_secret_key = abc\nansible_ssh_pass=hush\n")
    assert [(each.name, each.line) for each in secret_store.plain_texts(path, KNOWN)] == [("vault_a", 2), ("app_secret_key", 5), ("ansible_ssh_pass", 6)]


# --- The client script -----------------------------------------------------------------------------------------------


def ask(home, *arguments, **environment):
    base = {"PATH": f"{home}/bin:/usr/bin:/bin", "HOME": str(home), "PYTHONNOUSERSITE": "1"}
    return subprocess.run([sys.executable, "-I", CLIENT, *(arguments or ("--vault-id", "pre-prod"))], env={**base, **environment}, capture_output=True, text=True, check=False)


def program(home, name, body):
    path = home / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def closed(path, text, mode=0o600):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_sources_in_their_order(tmp_path):
    """All of them know one; each in its turn is the first that is left."""
    program(tmp_path, "secret-tool", '[ "$*" = "lookup service redoubt username pre-prod" ] && printf from-secret-tool')
    assert ask(tmp_path).stdout == "from-secret-tool\n"
    program(tmp_path, "keyring", '[ "$*" = "get redoubt pre-prod" ] && echo from-keyring')
    assert ask(tmp_path).stdout == "from-keyring\n"
    program(tmp_path, "pass", '[ "$*" = "show redoubt/pre-prod" ] && printf "from-pass\\nurl: x\\n"')
    assert ask(tmp_path).stdout == "from-keyring\n"  # pass is there, and has none
    closed(tmp_path / ".password-store/redoubt/pre-prod.gpg", "")
    assert ask(tmp_path).stdout == "from-pass\n"
    closed(tmp_path / ".config/redoubt/vault-pre-prod", "from-file\n")
    assert ask(tmp_path).stdout == "from-file\n"
    named = closed(tmp_path / "named", "from-named-file")
    assert ask(tmp_path, REDOUBT_VAULT_PASSWORD_PRE_PROD_FILE=str(named)).stdout == "from-named-file\n"
    answer = ask(tmp_path, REDOUBT_VAULT_PASSWORD_PRE_PROD="from variable", REDOUBT_VAULT_PASSWORD_PRE_PROD_FILE=str(named))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "from variable\n", "")


def test_pythons_own_keyring(tmp_path):
    """Where the module is there, it is asked before the programs; a backend that fails is none."""
    module = tmp_path / "lib" / "keyring.py"
    program(tmp_path, "secret-tool", "echo from-secret-tool")
    for body, expected in (("return f'{service} {user}'", "redoubt pre-prod\n"), ("return None", "from-secret-tool\n"), ("raise RuntimeError('no backend')", "from-secret-tool\n")):
        closed(module, f"def get_password(service, user):\n    {body}\n")
        environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(module.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, CLIENT, "--vault-id", "pre-prod"], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_nobody_has_it(tmp_path):
    program(tmp_path, "secret-tool", "exit 1")
    answer = ask(tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("\n") == 1
    for part in ("REDOUBT_VAULT_PASSWORD_PRE_PROD,", "REDOUBT_VAULT_PASSWORD_PRE_PROD_FILE", "vault-pre-prod", "`pass insert redoubt/pre-prod`", "keyring"):
        assert part in answer.stderr


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_file_that_others_can_read_is_refused(tmp_path, mode):
    """Not passed over: whoever put it there thinks that it is in use."""
    closed(tmp_path / ".config/redoubt/vault-pre-prod", OTHER, mode)
    program(tmp_path, "keyring", "echo from-keyring")
    answer = ask(tmp_path)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"(mode {mode:04o}): chmod 600 {tmp_path}/.config/redoubt/vault-pre-prod" in answer.stderr and OTHER not in answer.stderr


@pytest.mark.parametrize(("text", "why"), [("", "is empty"), ("\n", "is empty"), (None, "cannot be read: No such file")])
def test_a_named_file_without_a_password(tmp_path, text, why):
    path = tmp_path / "named"
    if text is not None:
        closed(path, text)
    answer = ask(tmp_path, REDOUBT_VAULT_PASSWORD_PRE_PROD_FILE=str(path))
    assert (answer.returncode, answer.stdout) == (1, "") and why in answer.stderr


def test_pass_that_is_locked_is_said(tmp_path):
    closed(tmp_path / ".password-store/redoubt/pre-prod.gpg", "")
    program(tmp_path, "pass", 'echo "gpg: decryption failed: No pinentry" >&2; exit 2')
    program(tmp_path, "keyring", "echo from-keyring")
    answer = ask(tmp_path)
    assert (answer.returncode, answer.stdout) == (1, "") and "try it by hand. (gpg: decryption failed: No pinentry)" in answer.stderr


def test_a_terminal_is_shown_nothing(tmp_path):
    master, slave = os.openpty()
    done = subprocess.run([sys.executable, CLIENT, "--vault-id", "x"], env={**os.environ, "HOME": str(tmp_path), "REDOUBT_VAULT_PASSWORD_X": OTHER}, stdout=slave, stderr=subprocess.PIPE, text=True, check=False)
    os.close(slave)
    os.set_blocking(master, False)
    try:
        shown = os.read(master, 1000)
    except OSError:  # nobody has written, and nobody is left who could
        shown = b""
    os.close(master)
    assert done.returncode == 1 and shown == b"" and "shows it to nobody" in done.stderr


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a b", "-x"])
def test_names_that_lead_elsewhere(tmp_path, name):
    assert ask(tmp_path, f"--vault-id={name}").returncode == 1


def test_it_is_a_client_to_ansible():
    assert os.access(CLIENT, os.X_OK) and CLIENT.name.endswith("-client")


# --- The playbooks, by real runs -------------------------------------------------------------------------------------


class Place:
    """A folder of environments, and a person's home with the passwords."""

    def __init__(self, folder):
        self.folder = folder
        self.inventories = folder / "inventories"
        self.inventories.mkdir()
        self.home = folder / "home"

    def password(self, name, text=""):
        closed(self.home / f".config/redoubt/vault-{name}", text or f"{PASSWORD}-{name}")

    def play(self, playbook, *arguments):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("REDOUBT_", "ANSIBLE_", "XDG_"))}
        environment |= {"HOME": str(self.home), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(self.folder / "ansible")}
        environment["PATH"] = "/usr/bin:/bin"
        done = subprocess.run([BIN / "ansible-playbook", *arguments, ROOT / "playbooks" / playbook], cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
        done.text = done.stdout + done.stderr
        # What a person reads, without YAML's folds.
        done.words = " ".join(done.text.replace("''", "'").split())
        return done

    def secrets(self, name, *arguments):
        return self.play("secrets.yml", "-i", f"inventories/{name}", "--vault-id", f"{name}@{CLIENT}", *arguments)

    def new(self, name, *arguments):
        return self.play("environment.yml", "-e", f"new={name}", "-e", f"inventories={self.inventories}", "-i", "localhost,", *arguments)

    def vault(self, name):
        return self.inventories / name / "group_vars/all/vault.yml"

    def values(self, name):
        return yaml.safe_load(opened(self.vault(name), name, (self.home / f".config/redoubt/vault-{name}").read_text().strip()))

    def example(self, name, **variables):
        """What the repository ships, with its own password."""
        shutil.copytree(ROOT / "playbooks/files/environment", self.inventories / name)
        if variables:
            main = self.inventories / name / "group_vars/all/main.yml"
            main.write_text(yaml.safe_dump({**yaml.safe_load(main.read_text()), **variables}))
        self.password(name)

    def fill(self, name, **values):
        a_vault(self.vault(name), "---\n" + "".join(f"{key}: {value}\n" for key, value in values.items()), name, f"{PASSWORD}-{name}")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def shown(output, values):
    """Which of these values, or a piece of one, is in a text."""
    leaves = [leaf for value in values for leaf in contract.leaves(value)]
    return [piece for leaf in leaves for piece in [leaf, *leaf.splitlines()] if len(piece) >= 8 and "-----" not in piece and piece in output]


WANTED = {"vault_app_secret_key", "vault_app_admin_password", "vault_backup_database_pass", "vault_backup_files_pass", "vault_pki_ca_key"}


def test_an_environment_from_nothing(place):
    answer = place.new("staging", "-vvv")
    assert answer.returncode == 0, answer.text
    made = place.inventories / "staging"
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()) == [
        "group_vars/all/main.yml", "group_vars/all/pki.yml", "group_vars/all/vault.yml", "hosts.yml"]
    values = place.values("staging")
    password = place.home / ".config/redoubt/vault-staging"
    assert set(values) == WANTED and stat.S_IMODE(place.vault("staging").stat().st_mode) == 0o600 and stat.S_IMODE(password.stat().st_mode) == 0o600
    authority.Authority(yaml.safe_load((made / "group_vars/all/pki.yml").read_text())["pki_ca_certificate"], values["vault_pki_ca_key"])
    assert not shown(answer.text, [*values.values(), password.read_text().strip()])
    assert "ENVIRONMENT" not in (made / "group_vars/all/main.yml").read_text() + (made / "hosts.yml").read_text()
    assert [path.name for path in place.inventories.iterdir()] == ["staging"]

    # Not twice; and another one has secrets of its own.
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    again = place.new("staging")
    assert again.returncode != 0 and "staging is there already, and is left alone" in again.words
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    assert place.new("production").returncode == 0
    assert not set(map(str, values.values())) & set(map(str, place.values("production").values()))

    # A second run makes nothing, and lists what there is.
    answer = place.secrets("staging", "-vvv")
    assert answer.returncode == 0 and "changed=0" in answer.text, answer.text
    for name in WANTED:
        assert re.search(rf"{name} +made \d{{4}}-\d\d-\d\d \(0 days\)", answer.words)
    assert "app_secret_env.DJANGO_SUPERUSER_PASSWORD (site)" in answer.words and "Compared with: production" in answer.words
    assert not shown(answer.text, [*values.values(), *place.values("production").values(), password.read_text().strip()])
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_what_would_be_made(place):
    answer = place.new("staging", "--check", "-e", f"inventories={place.folder}/nowhere/deep")
    assert answer.returncode == 0 and not (place.folder / "nowhere").exists(), answer.text
    answer = place.new("staging", "--check")
    assert answer.returncode == 0 and "Would make: vault_pki_ca_key" in answer.words and not list(place.inventories.iterdir()) and not place.home.exists()
    place.example("staging")
    answer = place.secrets("staging", "--check")
    assert answer.returncode == 0 and "changed=1" in answer.text and re.search(r"vault_app_secret_key +would be made", answer.words)
    assert not place.vault("staging").exists() and not (place.inventories / "staging/group_vars/all/pki.yml").exists()


def test_the_examples_of_the_repository_are_the_template():
    for name in ("staging", "production"):
        for source in ("hosts.yml", "group_vars/all/main.yml"):
            expected = (ROOT / "playbooks/files/environment" / source).read_text().replace("ENVIRONMENT", name)
            assert (ROOT / "inventories" / name / source).read_text() == expected, f"write playbooks/files/environment/{source} to inventories/{name}"
        listed = subprocess.run(["git", "ls-files", f"inventories/{name}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        assert not [path for path in listed if "vault.yml" in path or "pki.yml" in path]


@pytest.mark.parametrize("name", ["staging", "production"])
def test_the_examples_pass_the_preflight_once_they_say_whose_they_are(place, name):
    """The placeholders alone are refused; with them filled in, and the secrets made, nothing is."""
    shutil.copytree(ROOT / "inventories" / name, place.inventories / name)
    place.password(name)
    assert place.secrets(name).returncode == 0
    playbook = place.folder / "play.yml"
    playbook.write_text("- hosts: all\n  become: false\n  gather_facts: false\n  tasks: [{redoubt.django.preflight: , run_once: true}]\n")
    run = ("-i", f"inventories/{name}", "--vault-id", f"{name}@{CLIENT}")
    answer = place.play(playbook, *run)
    assert answer.returncode != 0
    assert set(re.findall(r"- (\w+)", answer.text)) == {"app_domains", "base_admins"}, answer.text
    main = place.inventories / name / "group_vars/all/main.yml"
    key = subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place.folder / "key"], check=True) and (place.folder / "key.pub").read_text().strip()
    main.write_text(main.read_text().replace("example.org", "our-site.net").replace("ssh-ed25519 AAAA… alice@laptop", key))
    answer = place.play(playbook, *run)
    assert answer.returncode == 0, answer.text


@pytest.mark.parametrize("name", ["Staging", "a/b", "", "x" * 32])
def test_names_that_are_no_environments(place, name):
    answer = place.new(name)
    assert answer.returncode != 0 and "must be a small letter" in answer.words and not list(place.inventories.iterdir())


def test_a_password_that_is_there_is_used(place):
    place.password("staging")
    answer = place.new("staging")
    assert answer.returncode == 0 and "Kept the vault" not in answer.words
    assert set(place.values("staging")) == WANTED
    (place.home / ".config/redoubt/vault-staging").chmod(0o644)
    shutil.rmtree(place.inventories / "staging")
    answer = place.new("staging")
    assert answer.returncode != 0 and "can be read by others" in answer.words and not list(place.inventories.iterdir())


def test_an_environment_that_cannot_be_finished_leaves_nothing(place):
    (place.home / ".config").mkdir(parents=True)
    (place.home / ".config/redoubt").write_text("a file where the folder should be")
    answer = place.new("staging")
    assert answer.returncode != 0 and "Nothing was made" in answer.words and not list(place.inventories.iterdir())


def test_what_is_there_stays_and_what_is_missing_comes(place):
    place.example("staging")
    mine = "Vq3xT8mZp0LrW5yKd2Nf"
    a_vault(place.vault("staging"), f"---\n# who changes this tells Bob\nvault_app_admin_password: {mine}\n\n# of the printer\nvault_printer: {OTHER}\n", "staging", f"{PASSWORD}-staging")
    answer = place.secrets("staging", "--diff", "-vvv")
    assert answer.returncode == 0, answer.text
    text = opened(place.vault("staging"), "staging", f"{PASSWORD}-staging")
    assert text.startswith(f"---\n# who changes this tells Bob\nvault_app_admin_password: {mine}\n\n# of the printer\nvault_printer: {OTHER}\n# made ")
    assert set(place.values("staging")) == WANTED | {"vault_printer"}
    assert re.search(r"vault_app_admin_password +made nobody wrote down when", answer.words)
    assert re.search(r"vault_printer .*used by nothing in this inventory", answer.text)
    assert not shown(answer.text, place.values("staging").values())


def test_an_inventory_gets_what_its_hosts_need_and_no_more(place):
    place.example("staging")
    hosts = place.inventories / "staging/hosts.yml"
    hosts.write_text(yaml.safe_dump({"web": {"hosts": {"app1": None}}, "db": {"hosts": {"app1": None}}}))
    assert place.secrets("staging").returncode == 0
    assert set(place.values("staging")) == {"vault_app_secret_key", "vault_app_admin_password"} and not (place.inventories / "staging/group_vars/all/pki.yml").exists()
    hosts.write_text(yaml.safe_dump({"web": {"hosts": {"app1": {"base_addresses": ["10.0.0.1"]}}}, "db": {"hosts": {"db1": {"base_addresses": ["10.0.0.2"]}}}}))
    before = place.values("staging")
    assert place.secrets("staging").returncode == 0
    after = place.values("staging")
    assert set(after) - set(before) == {"vault_app_database_password", "vault_app_migrate_password", "vault_pki_ca_key"} and {name: after[name] for name in before} == before


@pytest.mark.parametrize("group", sorted(set(contract.GROUPS) - {"web", "db"}))
def test_hosts_that_reach_another_for_it_get_a_ca(place, group):
    place.example("staging")
    hosts = {"web": ["app1"], "db": ["app1"], group: ["store1"]}
    (place.inventories / "staging/hosts.yml").write_text(yaml.safe_dump({name: {"hosts": dict.fromkeys(members)} for name, members in hosts.items()}))
    answer = place.secrets("staging")
    assert answer.returncode == 0 and "vault_pki_ca_key" in place.values("staging"), answer.text
    assert (place.inventories / "staging/group_vars/all/pki.yml").exists()


def test_a_file_that_holds_no_variables_is_nobodys_business(place):
    place.example("staging")
    a_vault(place.inventories / "staging/host_vars/app1/key.pem", "-----BEGIN X-----\nab\n-----END X-----\n", "staging", f"{PASSWORD}-staging")
    a_vault(place.inventories / "staging/host_vars/app1.our-site.net", f"vault_here: {OTHER}\n", "staging", f"{PASSWORD}-staging")
    answer = place.secrets("staging")
    assert answer.returncode == 0 and "vault_here" in answer.words, answer.text


def test_a_part_of_what_is_not_there_is_asked_for(place):
    """A text in its place would be of no use to what takes a part of it."""
    place.example("staging", app_files=[{"dest": f"{number}.ini", "secret": True, "content": content}
                                        for number, content in enumerate(("{{ vault_people.admin }}", "{{ vault_rooms['a'] }}", "{{ vault_one }}.net"))])
    answer = place.secrets("staging")
    assert answer.returncode != 0 and set(place.values("staging")) == WANTED | {"vault_one"}, answer.text
    for number, name in enumerate(("vault_people", "vault_rooms")):
        assert f"{name} is not there, and app_files[{number}].content takes a part of it: add it with its parts, with `ansible-vault edit" in answer.words


def test_a_reason_is_taken_for_an_answer(place):
    reason = "the device takes four digits"
    place.example("staging", accepted_secrets={"vault_door_password": reason, "app_env.SITE_TOKEN": reason})
    main = place.inventories / "staging/group_vars/all/main.yml"
    main.write_text(yaml.safe_dump({**yaml.safe_load(main.read_text()), "app_env": {"SITE_TOKEN": "public", "OTHER_TOKEN": "k3Qx81hf"}}))
    place.fill("staging", **GOOD, vault_door_password="'4711'", vault_gate_password="'4711'")
    answer = place.secrets("staging")
    assert "vault_gate_password is too weak" in answer.words and "vault_door_password is" not in answer.words
    assert "app_env.OTHER_TOKEN stands in plain text" in answer.words and "app_env.SITE_TOKEN stands" not in answer.words


def test_a_folder_that_takes_no_file_is_said(place):
    place.example("staging")
    (place.inventories / "staging/group_vars/all/.vault.yml.new").mkdir()
    answer = place.secrets("staging", "-vvv")
    assert answer.returncode != 0 and "Traceback" not in answer.text and "staging cannot be read or written" in answer.words, answer.text


def test_a_new_environment_that_has_what_is_none_is_refused_too(place):
    """With the vault's password of another."""
    place.example("production")
    place.fill("production", vault_a="x")
    place.password("staging", f"{PASSWORD}-production")
    answer = place.new("staging")
    assert answer.returncode != 0 and "The vault of production has the password of staging's" in answer.words, answer.text


def test_what_somebody_else_gives_out_is_asked_for_and_the_rest_is_made(place):
    place.example("staging", base_alert_url="{{ vault_base_alert_url }}", app_deploy_key="{{ vault_app_deploy_key }}", other="{{ vault_unused | default('') }}",
                  app_files=[{"dest": "a.ini", "secret": True, "content": "[a]\nkey = {{ vault_one }}\nother = {{ vault_two }}\n"}])
    answer = place.secrets("staging", "-vvv")
    assert answer.returncode != 0 and "vault_base_alert_url is not there, and base_alert_url takes it: it is not made here" in answer.words
    values = place.values("staging")
    assert set(values) == WANTED | {"vault_app_deploy_key", "vault_one", "vault_two"}
    public = re.search(r"(ssh-ed25519 \S+) deploy@staging", answer.text)[1]
    key = serialization.load_ssh_private_key(values["vault_app_deploy_key"].encode(), None)
    assert key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() == public
    assert not shown(answer.text, values.values())


def test_a_ca_of_which_one_half_is_missing(place):
    place.example("staging")
    assert place.secrets("staging").returncode == 0
    values, pki = place.values("staging"), place.inventories / "staging/group_vars/all/pki.yml"
    pki.write_text("---\npki_days: 365\n")
    assert place.secrets("staging").returncode == 0
    kept = yaml.safe_load(pki.read_text())
    assert kept["pki_days"] == 365 and place.values("staging") == values
    authority.Authority(kept["pki_ca_certificate"], values["vault_pki_ca_key"])
    a_vault(place.vault("staging"), "".join(f"{name}: {value}\n" for name, value in values.items() if name != "vault_pki_ca_key"), "staging", f"{PASSWORD}-staging")
    answer = place.secrets("staging")
    assert answer.returncode != 0 and "vault_pki_ca_key is not there, but pki_ca_certificate is" in answer.words and "vault_pki_ca_key" not in place.values("staging")


def test_a_ca_whose_key_is_kept_elsewhere(place):
    """In a plain file, or behind another vars plugin: nothing is made beside it."""
    place.example("staging", vault_pki_ca_key=secret_store.authority_key())
    answer = place.secrets("staging", "-vvv")
    assert answer.returncode != 0 and "its key, vault_pki_ca_key, is in no vault of this inventory" in answer.words and "vault_pki_ca_key stands in plain text" in answer.words
    assert set(place.values("staging")) == WANTED - {"vault_pki_ca_key"} and "PRIVATE KEY" not in answer.text


GOOD = {"vault_app_secret_key": "q0Zr83uVnWkX2yLbT7cMfD1sHgE5aJpK9oNiR4vQwUx6BzYtClkZ", "vault_app_admin_password": "Vq3xT8mZp0LrW5yKd2Nf",
        "vault_backup_database_pass": "r5Kd9wQz2LmX8vTn4BcY7jHg", "vault_backup_files_pass": "p8Wx3nVk6RtZ1mQc5LdF9sJh"}


def test_what_is_no_secret_is_refused(place):
    place.example("staging")
    place.example("production")
    place.fill("production", vault_there=OTHER)
    refused = {
        "vault_app_admin_password": ("Summer2026!", "is too weak (11 characters that can be guessed)"),
        "vault_one": ("changeme", "is a placeholder: put a value of its own into the vault"),
        "vault_two": ("TODO", "is a placeholder"),
        "vault_three": (GOOD["vault_backup_files_pass"], "has the same value as vault_backup_files_pass: give each its own"),
        "vault_four_password": (OTHER, "has the same value as vault_there of production: give each its own"),
    }
    place.fill("staging", **GOOD, **{name: value for name, (value, _) in refused.items() if name not in GOOD})
    text = opened(place.vault("staging"), "staging", f"{PASSWORD}-staging").replace(GOOD["vault_app_admin_password"], "Summer2026!")
    a_vault(place.vault("staging"), text, "staging", f"{PASSWORD}-staging")
    answer = place.secrets("staging", "-vvv")
    assert answer.returncode != 0
    for name, (_, sentence) in refused.items():
        assert f"{name} {sentence}" in answer.words, answer.text
    assert answer.words.count("(inventories/staging/group_vars/all/vault.yml, line") >= len(refused)
    assert not shown(answer.text, [*GOOD.values(), "Summer2026!", OTHER])


def test_other_environments_are_compared_as_far_as_they_open(place):
    for name in ("staging", "production", "locked", "open"):
        place.example(name)
    # One mail account, one project of Sentry and one language for both: nobody else could make them different.
    shared = {"vault_alert_url": "https://hooks.our-site.net/T0/abcdefgh", "vault_smtp_password": "k3Qx81hfT0pzLwGv", "vault_sentry_dsn": "https://k3Qx81hf@sentry.our-site.net/42",
              "vault_language": "portuguese"}
    place.fill("staging", **GOOD, **shared)
    place.fill("production", **shared)
    place.fill("locked", vault_there=GOOD["vault_app_admin_password"])
    (place.home / ".config/redoubt/vault-locked").unlink()
    answer = place.secrets("staging")
    # Where it is used again is listed all the same.
    assert answer.returncode == 0, answer.text
    assert all(f"again: {name} of production" in answer.words for name in shared), answer.text
    assert "Compared with: production" in answer.words
    assert "Not compared with locked: inventories/locked/group_vars/all/vault.yml does not open" in answer.words


def test_one_password_for_two_environments_is_refused(place):
    for name in ("staging", "production"):
        place.example(name)
    place.fill("staging", **GOOD)
    a_vault(place.vault("production"), "vault_a: x\n", "production", f"{PASSWORD}-staging")
    answer = place.secrets("staging")
    assert answer.returncode != 0 and "The vault of production has the password of staging's: give each its own" in answer.words


def test_plain_text_is_refused(place):
    place.example("staging", app_secret_env={"SECRET_KEY": "{{ app_secret_key }}", "TOKEN_A": "k3Qx81hfT0pz", "DJANGO_SUPERUSER_PASSWORD": "{{ vault_app_admin_password }}"})
    (place.inventories / "staging/host_vars/app1").mkdir(parents=True)
    (place.inventories / "staging/host_vars/app1/more.yml").write_text("vault_left: k3Qx81hfT0pzLwGv\n")
    answer = place.secrets("staging", "-vvv")
    assert answer.returncode != 0 and "k3Qx81hf" not in answer.text
    assert "vault_left stands in plain text in inventories/staging/host_vars/app1/more.yml:1: put a new value into inventories/staging/group_vars/all/vault.yml" in answer.words
    assert re.search(r"app_secret_env.TOKEN_A stands in plain text in inventories/staging/group_vars/all/main.yml:\d+", answer.words)


def test_a_vault_of_another_environment_is_refused(place):
    place.example("staging")
    place.example("production")
    place.fill("staging", **GOOD)
    shutil.copy(place.vault("staging"), place.vault("production"))
    answer = place.play("secrets.yml", "-i", "inventories/production", "--vault-id", f"staging@{CLIENT}")
    assert answer.returncode != 0 and "is the vault of 'staging' by its first line, but this environment is 'production'" in answer.words
    assert place.vault("production").read_bytes() == place.vault("staging").read_bytes()


def test_a_limit_that_leaves_this_machine_out_does_not_end_green(place):
    place.example("staging")
    for playbook in ("secrets.yml", "parity.yml", "environment.yml"):
        answer = place.play(playbook, "-i", "inventories/staging", "--limit", "app1")
        assert answer.returncode != 0 and "`--limit app1` leaves out localhost, and nothing would be done: run this without it." in answer.words, answer.text
    assert not place.vault("staging").exists()


def test_variables_in_one_file_are_not_hidden_by_a_folder(place):
    place.example("staging")
    folder = place.inventories / "staging/group_vars"
    (folder / "all/main.yml").rename(folder / "all.yml")
    (folder / "all").rmdir()
    answer = place.secrets("staging")
    assert answer.returncode != 0 and "move it to group_vars/all/main.yml first" in answer.words and not (folder / "all").exists()


def test_a_vault_that_does_not_open_stays_as_it_is(place):
    place.example("staging")
    place.fill("staging", **GOOD)
    before = place.vault("staging").read_bytes()
    place.password("staging", "another one")
    answer = place.secrets("staging")
    assert answer.returncode != 0 and "does not open with the vault password given" in answer.words and place.vault("staging").read_bytes() == before
