# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""The CA of an environment, on the controller: which certificate a host must have, and how it is signed.

Its key is handled in memory alone. Everything here takes and gives PEM texts.
"""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Unusable(ValueError):
    """What the inventory says of its CA cannot be worked with: the variable, and a sentence about it."""


class Authority:
    """The certificate that signs, and its key."""

    def __init__(self, certificates: str, key: str) -> None:
        try:
            found = x509.load_pem_x509_certificates(certificates.encode())
        except ValueError:
            raise Unusable("pki_ca_certificate", "holds no certificate: put in the PEM text, with the lines -----BEGIN CERTIFICATE----- and "
                           "-----END CERTIFICATE-----") from None
        try:
            self.key = serialization.load_pem_private_key(key.encode(), None)
        except TypeError:
            raise Unusable("pki_ca_key", "is a key with a passphrase: the vault protects it already, keep it there without one") from None
        except Exception:  # noqa: BLE001 - cryptography raises a wide set of errors for a broken key
            raise Unusable("pki_ca_key", "is no private key: put the whole text in, with the lines -----BEGIN … and -----END …") from None
        if isinstance(self.key, (ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)):
            # PostgreSQL binds its logins to the hash that a certificate is signed with, and such a signature names none.
            raise Unusable("pki_ca_key", "is an Edwards curve key, whose certificates PostgreSQL cannot log anybody in with: make a P-256 one")
        # While one CA takes another's place both are trusted.
        own = [each for each in found if public(each.public_key()) == public(self.key.public_key())]
        if not own:
            raise Unusable("pki_ca_key", "does not belong to pki_ca_certificate: it must be the key of one of the certificates of the text")
        self.certificate = own[0]
        try:
            constraints = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = None
        if constraints is None or not constraints.ca:
            raise Unusable("pki_ca_certificate", "is not a CA's: make one with basicConstraints=critical,CA:TRUE,pathlen:0")
        if constraints.path_length != 0:
            raise Unusable("pki_ca_certificate", "lets other CAs be made below it: make one with pathlen:0")

    def problem(self, certificate: str, key: str, names: list[str], addresses: list[str], left: int, now: datetime.datetime) -> str:
        """Why a host's certificate must be replaced; empty where it need not be."""
        try:
            found = x509.load_pem_x509_certificate(certificate.encode())
        except ValueError:
            return "there is none"
        try:
            found.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return "it is not of this CA"
        if public(found.public_key()) != key:
            return "it is for another key"
        try:
            alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return "it names nothing"
        named = set(alternatives.get_values_for_type(x509.DNSName)), set(alternatives.get_values_for_type(x509.IPAddress))
        if named != (set(names), {ipaddress.ip_address(address) for address in addresses}):
            return "the host is called otherwise now"
        if found.not_valid_after_utc < now + datetime.timedelta(days=left):
            return f"it ends on {found.not_valid_after_utc:%Y-%m-%d}"
        return ""

    def sign(self, key: str, names: list[str], addresses: list[str], days: int, now: datetime.datetime) -> str:
        """A certificate for the public key, for both ends of a connection."""
        holder = serialization.load_pem_public_key(key.encode())
        called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])] if len(names[0]) <= 64 else [])
        alternatives = [*map(x509.DNSName, names), *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
                               "encipher_only", "decipher_only"), False)
        end = min(now + datetime.timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(called)
            .issuer_name(self.certificate.subject)
            .public_key(holder)
            .serial_number(x509.random_serial_number())
            # A host whose clock is a little behind takes it too.
            .not_valid_before(now - datetime.timedelta(minutes=10))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.KeyUsage(digital_signature=True, **usage), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .add_extension(x509.SubjectAlternativeName(alternatives), not list(called))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(holder), False)
            .add_extension(self._issuer(), False)
        )
        return builder.sign(self.key, self._digest()).public_bytes(serialization.Encoding.PEM).decode()

    def client(self, name: str, days: int, passphrase: str, now: datetime.datetime) -> tuple[bytes, x509.Certificate]:
        """A new key with its certificate for somebody who logs in with it, as PKCS#12 for browsers; and the certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        holder = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        end = min(now + datetime.timedelta(days=days), self.certificate.not_valid_after_utc)
        builder = x509.CertificateBuilder().subject_name(holder).issuer_name(self.certificate.subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=10)).not_valid_after(end)
        builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        # Of no use to pose as a host.
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), True)
        builder = builder.add_extension(self._issuer(), False)
        certificate = builder.sign(self.key, self._digest())
        protection = serialization.BestAvailableEncryption(passphrase.encode())
        return pkcs12.serialize_key_and_certificates(name.encode(), key, certificate, [self.certificate], protection), certificate

    def _digest(self) -> hashes.HashAlgorithm:
        return hashes.SHA384() if isinstance(self.key, ec.EllipticCurvePrivateKey) and self.key.key_size > 256 else hashes.SHA256()

    def _issuer(self) -> x509.AuthorityKeyIdentifier:
        try:
            own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.certificate.public_key())


def public(key) -> str:
    """A public key as `openssl pkey -pubout` prints it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def described(certificate: str) -> str:
    """What a diff shows of a certificate."""
    try:
        found = x509.load_pem_x509_certificate(certificate.encode())
        alternatives = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ""
    named = [*alternatives.get_values_for_type(x509.DNSName), *map(str, alternatives.get_values_for_type(x509.IPAddress))]
    return f"for: {' '.join(named)}\nissuer: {found.issuer.rfc4514_string()}\nuntil: {found.not_valid_after_utc:%Y-%m-%d}\n"
