"""Client certificates for the admin: made, listed, revoked, and nothing lost where one of that fails."""

from __future__ import annotations

import datetime
import os
import pathlib
import stat
import sys
import types

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "collections"))

from ansible_collections.redoubt.django.plugins.action import admin_certificate as plugin
from ansible_collections.redoubt.django.plugins.plugin_utils import contract

TODAY = datetime.datetime.now(datetime.UTC)


class Tagged(str):
    """As Ansible's own: a plain text once it is asked for one."""

    __slots__ = ()

    def __str__(self) -> str:
        return "".join(self)


@pytest.fixture(scope="module")
def ca() -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "unit")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(TODAY - datetime.timedelta(days=1)).not_valid_after(TODAY + datetime.timedelta(days=3650))
    certificate = builder.add_extension(x509.BasicConstraints(True, 0), True).sign(key, hashes.SHA256())
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {"ca_certificate": certificate.public_bytes(serialization.Encoding.PEM).decode(), "ca_key": private.decode()}


@pytest.fixture
def register(tmp_path) -> pathlib.Path:
    return tmp_path / "group_vars/all/admin_certificates.yml"


@pytest.fixture
def take(ca, register, tmp_path, monkeypatch):
    """Runs the plugin as a task would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin.ActionBase, "run", lambda *_, **__: {})

    def run(check: bool = False, **words):
        action = plugin.ActionModule.__new__(plugin.ActionModule)
        action._task = types.SimpleNamespace(check_mode=check)
        # As Ansible hands them over: texts that know where they come from.
        words = {name: Tagged(value) if isinstance(value, str) else value for name, value in words.items()}
        words = {"issue": "", "to": "", "days": 365, "revoke": "", "register": str(register), **ca, **words}
        action.validate_argument_spec = lambda spec: (None, words)
        assert set(words) == set(plugin.ARGUMENTS)
        return action.run(task_vars={"groups": {"all": ["app1", "store1"], "web": ["app1"]}})

    return run


def listed(register) -> list[dict]:
    return yaml.safe_load(register.read_text())["app_admin_certificates"]


def test_a_certificate_is_for_one_person_and_one_use(take, ca, register, tmp_path) -> None:
    answer = take(issue="alice", days=30)
    bundle, words = tmp_path / "alice.p12", tmp_path / "alice.p12.passphrase"
    assert {stat.S_IMODE(path.stat().st_mode) for path in (bundle, words)} == {0o600}
    passphrase = words.read_text().strip()
    key, certificate, chain = pkcs12.load_key_and_certificates(bundle.read_bytes(), passphrase.encode())
    authority = x509.load_pem_x509_certificate(ca["ca_certificate"].encode())
    certificate.verify_directly_issued_by(authority)
    assert chain == [authority]
    assert key.public_key() == certificate.public_key()
    assert certificate.subject.rfc4514_string() == "CN=alice"
    assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert abs(certificate.not_valid_after_utc - TODAY - datetime.timedelta(days=30)) < datetime.timedelta(minutes=5)
    (entry,) = listed(register)
    assert int(entry["serial"], 16) == certificate.serial_number
    assert (entry["name"], entry["until"], entry["revoked"]) == ("alice", f"{certificate.not_valid_after_utc:%Y-%m-%d}", "")
    assert answer["changed"] and answer["certificates"] == [entry]
    shown = str(answer)
    assert passphrase not in shown and "PRIVATE" not in shown


def test_what_is_listed_is_what_the_contract_takes(take, register) -> None:
    for name in ("alice", "bob.phone"):
        take(issue=name)
    found = listed(register)
    assert [each["name"] for each in found] == ["alice", "bob.phone"]
    assert not list(contract.app_admin_certificates(found, {}))


def test_a_short_serial_number_is_written_as_nginx_says_it(take, register, monkeypatch) -> None:
    monkeypatch.setattr(plugin.Authority, "client", lambda *_: (b"", types.SimpleNamespace(serial_number=0xA0B, not_valid_after_utc=TODAY)))
    take(issue="alice")
    assert listed(register)[0]["serial"] == "0A0B"


def test_revoked_is_revoked_and_a_new_one_may_be_made(take, register) -> None:
    take(issue="alice")
    take(issue="bob")
    answer = take(revoke="alice")
    assert answer["changed"]
    assert [(each["name"], bool(each["revoked"])) for each in listed(register)] == [("alice", True), ("bob", False)] == [
        (each["name"], bool(each["revoked"])) for each in answer["certificates"]]
    with pytest.raises(AnsibleActionFail, match="called 'alice'; there are: bob"):
        take(revoke="alice")
    take(issue="alice", to="again.p12")
    take(revoke=listed(register)[1]["serial"])
    assert [(each["name"], bool(each["revoked"])) for each in listed(register)] == [("alice", True), ("bob", True), ("alice", False)]


def test_what_would_be_done_is_said_and_nothing_done(take, register, tmp_path) -> None:
    assert take(check=True, issue="alice")["changed"]
    assert not list(tmp_path.iterdir())
    take(issue="alice")
    assert take(check=True, revoke="alice")["certificates"][0]["revoked"]
    assert not listed(register)[0]["revoked"]


def test_without_a_word_they_are_listed(take, register) -> None:
    assert take() == {"changed": False, "certificates": [], "msg": f"0 in {register}"}
    take(issue="alice")
    assert [each["name"] for each in take()["certificates"]] == ["alice"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"issue": "alice", "revoke": "bob"}, "one to issue or one to revoke"),
        ({"issue": "Alice B."}, "issue is 'Alice B.', but must be"),
        ({"issue": "../alice"}, "issue is '../alice', but must be"),
        ({"issue": "alice", "days": 0}, "days is 0"),
        ({"issue": "store1"}, "issue is 'store1', which is a host of the inventory: its certificate would open what is the host's"),
        ({"issue": "alice", "ca_key": "x"}, "pki_ca_key is no private key"),
        ({"revoke": "carol"}, "called 'carol'; there are: bob"),
        ({"issue": "bob"}, "bob has a certificate that is good until"),
        ({"issue": "alice", "to": "bob.p12"}, r"bob\.p12 is there already"),
    ],
)
def test_bad_words_are_a_sentence_and_change_nothing(take, register, tmp_path, words, sentence) -> None:
    take(issue="bob")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(AnsibleActionFail, match=sentence):
        take(**words)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_one_that_has_ended_stands_in_nobodys_way(take, register, tmp_path) -> None:
    take(issue="alice")
    register.write_text(register.read_text().replace(listed(register)[0]["until"], "2020-01-01"))
    assert len(take(issue="alice", to="new.p12")["certificates"]) == 2


@pytest.mark.parametrize("text", ["app_admin_certificates: [x]", "app_admin_certificates: {}", "other: 1", "- 1", "app_admin_certificates: []\nother: 1", "a: [", ""])
def test_a_file_that_holds_something_else_is_left_alone(take, register, tmp_path, text) -> None:
    register.parent.mkdir(parents=True)
    register.write_text(text)
    with pytest.raises(AnsibleActionFail, match="cannot be read|holds something else"):
        take(issue="alice")
    assert register.read_text() == text
    assert not (tmp_path / "alice.p12").exists()


def test_what_cannot_be_listed_is_not_kept(take, register, tmp_path, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(plugin, "write", full)
    with pytest.raises(AnsibleActionFail, match="Nothing was made: .*No space left"):
        take(issue="alice")
    assert not list(tmp_path.glob("*.p12*"))
    assert not os.path.exists(register)
