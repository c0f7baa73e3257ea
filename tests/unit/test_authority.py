"""The environment's CA: which certificate a host must have, how it is signed, and how a host keeps it."""

from __future__ import annotations

import datetime
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "collections"))

from ansible_collections.redoubt.django.plugins.action import host_certificate as action
from ansible_collections.redoubt.django.plugins.modules import host_certificate
from ansible_collections.redoubt.django.plugins.plugin_utils import contract
from ansible_collections.redoubt.django.plugins.plugin_utils.authority import Authority, Unusable, described, public

NOW = datetime.datetime.now(datetime.UTC)
NAMES, ADDRESSES = ["db1"], ["192.0.2.7", "2001:db8::7"]


def pem(key) -> str:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def make_ca(key=None, ca: bool = True, path_length: int | None = 0, days: int = 3650) -> tuple[str, str]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "unit")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(NOW - datetime.timedelta(days=1)).not_valid_after(NOW + datetime.timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), True)
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
                           "decipher_only"), False)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
    builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), True)
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode(), pem(key)


CA, CA_KEY = make_ca()
OTHER, OTHER_KEY = make_ca()
HOST = public(ec.generate_private_key(ec.SECP256R1()).public_key())


@pytest.mark.parametrize(
    ("certificate", "key", "sentence"),
    [
        ("", CA_KEY, "pki_ca_certificate holds no certificate"),
        (CA, "x", "pki_ca_key is no private key"),
        (CA, OTHER_KEY, "pki_ca_key does not belong to pki_ca_certificate"),
        (*make_ca(ca=False), "pki_ca_certificate is not a CA's"),
        (*make_ca(path_length=None), "pki_ca_certificate lets other CAs be made below it"),
        (*make_ca(ed25519.Ed25519PrivateKey.generate()), "pki_ca_key is an Edwards curve key"),
    ],
)
def test_an_authority_that_cannot_sign_is_refused(certificate, key, sentence):
    with pytest.raises(Unusable) as refusal:
        Authority(certificate, key)
    assert " ".join(refusal.value.args).startswith(sentence)


@pytest.mark.parametrize("both", [OTHER + CA, CA + OTHER])
def test_of_several_the_one_signs_that_the_key_belongs_to(both):
    found = Authority(both, CA_KEY)
    assert found.certificate == Authority(CA, CA_KEY).certificate
    text = found.sign(HOST, NAMES, ADDRESSES, 730, NOW)
    assert Authority(CA, CA_KEY).problem(text, HOST, NAMES, ADDRESSES, 365, NOW) == ""
    assert Authority(both, OTHER_KEY).problem(text, HOST, NAMES, ADDRESSES, 365, NOW) == "it is not of this CA"


def test_a_key_with_a_passphrase_is_refused():
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")).decode()
    with pytest.raises(Unusable, match="passphrase"):
        Authority(make_ca(key)[0], locked)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 3072)], ids=["P-384", "RSA"])
def test_other_kinds_of_keys_sign_too(key):
    authority = Authority(*make_ca(key))
    assert authority.problem(authority.sign(HOST, NAMES, ADDRESSES, 730, NOW), HOST, NAMES, ADDRESSES, 365, NOW) == ""


def test_what_is_signed_is_what_is_asked_for():
    authority = Authority(CA, CA_KEY)
    text = authority.sign(HOST, NAMES, ADDRESSES, 730, NOW)
    found = x509.load_pem_x509_certificate(text.encode())
    found.verify_directly_issued_by(authority.certificate)
    assert public(found.public_key()) == HOST
    assert set(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not found.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert found.subject.rfc4514_string() == "CN=db1"
    assert "for: db1 192.0.2.7 2001:db8::7" in described(text)
    assert (found.not_valid_after_utc - NOW).days in (729, 730)


def test_no_certificate_outlives_its_ca():
    certificate, key = make_ca(days=100)
    text = Authority(certificate, key).sign(HOST, NAMES, [], 730, NOW)
    assert x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc <= NOW + datetime.timedelta(days=100)


def test_a_long_name_is_no_subject():
    text = Authority(CA, CA_KEY).sign(HOST, ["h" * 63 + ".example"], [], 730, NOW)
    found = x509.load_pem_x509_certificate(text.encode())
    assert not list(found.subject) and found.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"text": ""}, "there is none"),
        ({"authority": Authority(OTHER, OTHER_KEY)}, "it is not of this CA"),
        ({"key": public(ec.generate_private_key(ec.SECP256R1()).public_key())}, "it is for another key"),
        ({"names": ["db2"]}, "the host is called otherwise now"),
        ({"addresses": ["192.0.2.7"]}, "the host is called otherwise now"),
        ({"addresses": ["192.0.2.7", "2001:DB8:0::7"]}, ""),
        ({"now": NOW + datetime.timedelta(days=364)}, ""),
        ({"now": NOW + datetime.timedelta(days=366)}, "it ends on"),
    ],
)
def test_a_certificate_is_replaced_for_a_reason(change, reason):
    asked = {"text": Authority(CA, CA_KEY).sign(HOST, NAMES, ADDRESSES, 730, NOW), "authority": Authority(CA, CA_KEY), "key": HOST, "names": NAMES,
             "addresses": ADDRESSES, "now": NOW, **change}
    found = asked["authority"].problem(asked["text"], asked["key"], asked["names"], asked["addresses"], 365, asked["now"])
    assert found.startswith(reason) and bool(found) == bool(reason)


def test_the_preflight_knows_what_cannot_sign():
    def said(replaces="", **values):
        base = {"pki_ca_certificate": CA, "pki_ca_key": CA_KEY, "pki_days": 730, "pki_renew_days": 365}
        return [f"{problem.name} {problem.sentence}" for problem in contract.check_rules({**base, **values}, replaces=replaces)]

    assert said() == []
    assert "has no key that signs for it: pki_ca_key does not belong" in said(pki_ca_key=OTHER_KEY)[0]
    assert "signs for 30 days (pki_days) and again when fewer than 30" in said(pki_days=30, pki_renew_days=30)[0]
    certificate, key = make_ca(days=200)
    assert "and a certificate of a host is to be good for 365 days more" in said(pki_ca_certificate=certificate, pki_ca_key=key)[0]
    assert said("app_secret_key", pki_ca_certificate=certificate, pki_ca_key=key)
    assert said("pki_ca_key", pki_ca_certificate=certificate, pki_ca_key=key) == []
    assert said("pki_ca_key", pki_ca_key=OTHER_KEY)
    assert CA_KEY.splitlines()[1] not in str(said(pki_ca_key="x" + CA_KEY))


# --- On the host ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chown", lambda *_: None)
    return host_certificate.Folder(str(tmp_path), "no-such-group")


def test_the_key_is_made_on_the_host_and_not_readable_by_others(folder):
    assert folder.public_key() == ""
    folder.make_key()
    assert folder.public_key().startswith("-----BEGIN PUBLIC KEY-----")
    assert stat.S_IMODE(os.stat(folder.file("host.key")).st_mode) == 0o640
    assert "PRIVATE" not in folder.public_key()
    assert Authority(CA, CA_KEY).sign(folder.public_key(), NAMES, [], 730, NOW)


def program(folder, text: str) -> pathlib.Path:
    path = pathlib.Path(folder.path, "changed.d", "service")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_who_wants_to_know_of_a_change_is_told(folder, tmp_path):
    folder.make_key()
    program(folder, f"cat {folder.path}/host.pem >> {tmp_path}/told")
    assert folder.install({"ca.pem": "ca\n", "host.pem": "one\n"}) == ""
    assert folder.install({"ca.pem": "ca\n", "host.pem": "two\n"}) == ""
    assert (tmp_path / "told").read_text() == "one\ntwo\n"
    assert not os.path.exists(folder.file(".pending"))


def test_what_a_service_refuses_is_taken_back(folder):
    folder.make_key()
    folder.install({"ca.pem": "old ca\n", "host.pem": "old\n"})
    program(folder, f"echo no good >&2; grep -q old {folder.path}/host.pem")
    reason = folder.install({"ca.pem": "new ca\n", "host.pem": "new\n"})
    assert reason.endswith("ended with 1: no good")
    assert folder.read("host.pem") == "old\n" and folder.read("ca.pem") == "old ca\n"


def test_a_change_that_was_cut_off_is_seen(folder):
    folder.make_key()
    pathlib.Path(folder.file(".pending")).touch()
    assert "an earlier change was cut off" in folder.astray()


def test_a_key_that_others_can_read_is_seen(folder):
    folder.make_key()
    os.chmod(folder.file("host.key"), 0o644)
    assert "host.key has another owner or mode" in folder.astray()


@pytest.fixture
def installed(tmp_path):
    place = host_certificate.Folder(str(tmp_path), "daemon")
    place.make_key()
    place.install({"ca.pem": CA, "host.pem": Authority(CA, CA_KEY).sign(place.public_key(), NAMES, ADDRESSES, 730, NOW)})
    return place


def looked(place) -> dict | None:
    answer = subprocess.run(["/bin/sh"], input=action.question(place.path, "daemon"), capture_output=True, text=True, check=False)
    assert "PRIVATE" not in answer.stdout
    return action.understood(answer.stdout) if answer.returncode == 0 else None


def test_a_host_says_without_the_module_what_it_has(installed):
    assert looked(installed) == {"changed": False, "made": False, "public_key": installed.public_key(), "certificate": installed.read("host.pem"),
                                 "ca": installed.read("ca.pem"), "astray": installed.astray()}


@pytest.mark.parametrize("disturb", [
    lambda place: os.chmod(place.file("host.key"), 0o644),
    lambda place: os.chmod(place.file("ca.pem"), 0o666),
    lambda place: os.chown(place.file("host.key"), 0, 0),
    lambda place: os.chown(place.file("host.pem"), 1, 0),
    lambda place: pathlib.Path(place.file(".pending")).touch(),
    lambda place: os.unlink(place.file("host.key")),
    lambda place: os.unlink(place.file("ca.pem")),
    lambda place: pathlib.Path(place.file("host.key")).write_text("no key"),
    lambda place: shutil.rmtree(place.path),
])
def test_what_the_module_would_mend_or_name_is_left_to_it(installed, disturb):
    disturb(installed)
    assert looked(installed) is None


def test_openssl_takes_what_was_signed(folder, tmp_path):
    folder.make_key()
    folder.install({"ca.pem": CA, "host.pem": Authority(CA, CA_KEY).sign(folder.public_key(), NAMES, ADDRESSES, 730, NOW)})
    for purpose in ("sslserver", "sslclient"):
        done = subprocess.run(["openssl", "verify", "-x509_strict", "-purpose", purpose, "-verify_ip", "192.0.2.7", "-CAfile", folder.file("ca.pem"),
                               folder.file("host.pem")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
