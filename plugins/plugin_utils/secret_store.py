# Copyright (c) 2026 Redoubt maintainers
# MIT License (see LICENSE)
"""The vault of an environment: its text, read and written in memory alone, and what new values are like.

On disk there is never anything but the encrypted file: it is replaced by a rename, from a neighbour that is encrypted already.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import os
import re
import secrets
import string
import subprocess
import typing as t
from pathlib import Path

import yaml
from ansible.errors import AnsibleError
from ansible.parsing.vault import VaultLib, VaultSecret, match_secrets
from ansible_collections.redoubt.django.plugins.plugin_utils import contract
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

MAGIC = b"$ANSIBLE_VAULT;"
MADE = re.compile(r"# made (\d{4}-\d\d-\d\d)")
HEAD = """---
# Secrets of {environment}. playbooks/secrets.yml makes what is missing, and lists what is here. `made` is the day on which the value below it
# came to be: who changes one by hand changes it too.
"""


class Unusable(ValueError):
    """A sentence about a file that cannot be worked with, and what to do."""


# --- The text inside a vault -----------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """YAML as Ansible reads it; a value that is encrypted by itself stays what it is."""


ENCRYPTED = ("!vault", "!vault-encrypted")
for tag in (*ENCRYPTED, "!unsafe"):
    Loader.add_constructor(tag, lambda loader, node: loader.construct_scalar(node))


def shown(value: str | list | bool) -> str:
    """A value as YAML writes it behind its name: texts of several lines as they are, lists in one."""
    if isinstance(value, list):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9)
    if isinstance(value, str) and "\n" in value and value.endswith("\n") and not re.search(r"[^\x20-\x7e\n]|^[ \n]| \n|\n\n\Z", value):
        return "|\n" + "".join(f"  {line}".rstrip() + "\n" for line in value.splitlines())
    return yaml.safe_dump(value, default_style=None, width=10**9).removesuffix("...\n")


class Document:
    """The YAML text of a vault. Changes touch the lines of one name, and leave comments and order as somebody wrote them."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.text = text
        self._parse()

    def _parse(self) -> None:
        try:
            root = yaml.compose(self.text, Loader=Loader)
            self.values: dict[str, t.Any] = yaml.load(self.text, Loader=Loader) or {}
        except yaml.YAMLError as error:
            # Its own message shows the line, and with it a secret.
            mark = getattr(error, "problem_mark", None)
            raise Unusable(f"{self.name} is no YAML{f' (line {mark.line + 1})' if mark else ''}: correct it with `ansible-vault edit {self.name}`.") from None
        if isinstance(root, yaml.ScalarNode) and not root.value:
            root = None  # comments alone
        if root is not None and (not isinstance(root, yaml.MappingNode) or root.flow_style):
            raise Unusable(f"{self.name} is not one name with its value after the other: write `name: value`, one a line, with `ansible-vault edit {self.name}`.")
        self._places = {}
        for key, value in root.value if root else []:
            self._places[key.value] = key.start_mark.line, self._end(value)

    def _end(self, node: yaml.Node) -> int:
        """The line after a value: what its parser skips behind it (comments, empty lines) is not its own."""
        lines = self.text.splitlines()
        end = min(node.end_mark.line + (node.end_mark.column > 0), len(lines))
        # In a text of several lines what looks like a comment is a line of it.
        own = r"\S" if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">") else r"^\s*[^\s#]"
        while end - 1 > node.start_mark.line and not re.search(own, lines[end - 1]):
            end -= 1
        return end

    def made(self, name: str) -> datetime.date | None:
        """The day that is written above a name."""
        line = self._places[name][0]
        found = MADE.fullmatch(self.text.splitlines()[line - 1].strip()) if line else None
        try:
            return datetime.date.fromisoformat(found[1]) if found else None
        except ValueError:
            return None

    def line(self, name: str) -> int:
        return self._places[name][0] + 1

    def put(self, name: str, value: str | list | bool, day: datetime.date) -> None:
        """Set one name, where it is or at the end."""
        self._replace(name, [f"# made {day.isoformat()}\n", f"{name}: {shown(value)}"], {**self.values, name: value})

    def remove(self, name: str) -> None:
        """Take one name away, and the day above it."""
        if name in self.values:
            self._replace(name, [], {key: value for key, value in self.values.items() if key != name})

    def _replace(self, name: str, new: list[str], wanted: dict[str, t.Any]) -> None:
        lines = self.text.splitlines(keepends=True)
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        start, end = self._places.get(name, (len(lines), len(lines)))
        if name in self._places and self.made(name):
            start -= 1
        lines[start:end] = new
        old, self.text = self.text, "".join(lines)
        try:
            self._parse()
        except Unusable:
            self.text = old
            self._parse()
            raise
        if self.values != wanted:
            self.text = old
            self._parse()
            raise Unusable(f"{self.name} is written in a way that {name} cannot be changed: write `name: value`, one a line, with `ansible-vault edit {self.name}`.")


# --- The file --------------------------------------------------------------------------------------------------------


class Vault:
    """The encrypted file of an environment; a new one when there is none."""

    def __init__(self, path: Path, environment: str, keys: list[tuple[str, VaultSecret]], name: str = "") -> None:
        # A link stays a link: what it leads to is replaced.
        self.path = Path(os.path.realpath(path))
        self.environment = environment
        self.name = name or str(path)
        self.known: bytes | None = None
        if not os.path.lexists(self.path):
            self.id = environment
            self.key = next((key for identity, key in match_secrets(keys, [environment])), None)
            self.document = Document(HEAD.format(environment=environment), self.name)
        else:
            self.known = self.path.read_bytes()
            self.id = vault_id(self.known)
            text, self.key = decrypt(self.known, keys, self.name)
            self.document = Document(text, self.name)

    def write(self) -> None:
        """Put the text in place of what is there, encrypted; refuse when somebody else has been faster."""
        if self.key is None:
            raise Unusable(f"{self.name} cannot be made without a password: add --vault-id {self.environment}@inventories/vault-client.")
        encrypted = VaultLib([(self.id or self.environment, self.key)]).encrypt(self.document.text, secret=self.key, vault_id=self.id or self.environment)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        pending = self.path.with_name(f".{self.path.name}.new")
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            found = self.path.read_bytes() if self.path.exists() else None
            if found != self.known:
                raise Unusable(f"{self.name} has been changed by somebody else meanwhile: run this again.")
            with contextlib.suppress(FileNotFoundError):
                pending.unlink()
            with os.fdopen(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
                sink.write(encrypted)
                sink.flush()
                os.fsync(sink.fileno())
            pending.replace(self.path)
            os.fsync(folder)
        finally:
            os.close(folder)
        self.known = encrypted


def vault_id(data: bytes) -> str:
    fields = data.split(b"\n", 1)[0].decode(errors="replace").strip().split(";")
    return fields[3] if len(fields) > 3 else ""


def decrypt(data: bytes, keys: list[tuple[str, VaultSecret]], name: str) -> tuple[str, VaultSecret]:
    identity = vault_id(data)
    if not data.startswith(MAGIC):
        raise Unusable(f"{name} is not encrypted: make its values new, since they have been in plain text, and encrypt it "
                       "(`ansible-vault encrypt --encrypt-vault-id ENVIRONMENT`).")
    try:
        text, _, key = VaultLib(keys).decrypt_and_get_vault_id(data)
        return text.decode(), key
    except (AnsibleError, UnicodeDecodeError):
        raise Unusable(f"{name} does not open: give its password, with --vault-id {identity or 'ENVIRONMENT'}@inventories/vault-client.") from None


def ask(client: Path, identity: str) -> tuple[VaultSecret | None, str]:
    """What the client script knows of an environment's password; or why nothing."""
    try:
        done = subprocess.run([str(client), "--vault-id", identity], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{client} cannot be asked: {type(error).__name__}"
    if done.returncode == 0 and done.stdout.strip():
        return VaultSecret(done.stdout.strip(b"\r\n")), ""
    return None, "" if done.returncode == 2 else " ".join(done.stderr.decode(errors="replace").split())


def loaded(loader) -> list[tuple[str, VaultSecret]]:
    """The passwords that this run was given."""
    return list(getattr(getattr(loader, "_vault", None), "secrets", None) or [])


# --- New values ------------------------------------------------------------------------------------------------------


def random_text(length: int = 50) -> str:
    """Letters and digits alone: they mean nothing to any file, URL or shell. 50 are 297 bits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def deploy_key(comment: str) -> tuple[str, str]:
    """A key for `app_deploy_key`, and the line that the git server is given."""
    key = ed25519.Ed25519PrivateKey.generate()
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()).decode()
    return text, key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode() + f" {comment}"


def authority_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def authority_certificate(key: str, environment: str, now: datetime.datetime, days: int = 3650) -> str:
    """The certificate of a CA that signs for hosts alone, as `authority` wants it."""
    signer = serialization.load_pem_private_key(key.encode(), None)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, environment[:64])])
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "digital_signature", "encipher_only",
                           "decipher_only"), False)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(signer.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(minutes=10)).not_valid_after(now + datetime.timedelta(days=days))
    builder = builder.add_extension(x509.BasicConstraints(True, 0), True)
    builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(signer.public_key()), False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


# --- Plain text ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plain:
    """A secret that anybody who sees the file can read."""

    file: Path
    line: int
    name: str


# How Ansible gets onto a host and becomes root there, and what the application's open environment should not hold.
PASSWORD = re.compile(r"ansible_(become_|ssh_|sudo_)?pass(word)?")
TOKEN = re.compile(r"(?i)(.*[_-])?(token|(api|access)_?key)")


def is_secret(name: str, known: t.Collection[str]) -> bool:
    return name.startswith("vault_") or name in known or bool(PASSWORD.fullmatch(name))


def plain_texts(path: Path, known: t.Collection[str]) -> t.Iterator[Plain]:
    """Secrets in a file that is not encrypted: variables called vault_*, those that roles call secret (`known`), passwords of hosts and of app_env."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    if data.startswith(MAGIC):
        return
    text = data.decode(errors="replace")
    try:
        roots = list(yaml.compose_all(text, Loader=Loader)) if path.suffix in (".yml", ".yaml", ".json", "") else []
    except yaml.YAMLError:
        roots = []
    if any(isinstance(root, yaml.MappingNode) for root in roots):
        for root in roots:
            yield from (Plain(path, line, name) for name, line in _plain_nodes(root, known))
        return
    for number, line in enumerate(text.splitlines(), 1):  # an inventory in INI's form
        for name, value in re.findall(r"(?<![\w{])(\w+)\s*=\s*(\"[^\"]*\"|'[^']*'|\S+)", line.split("#")[0]):
            if is_secret(name, known) and value.strip("'\"") and "{{" not in value:
                yield Plain(path, number, name)


def _plain_nodes(node: yaml.Node, known: t.Collection[str]) -> t.Iterator[tuple[str, int]]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _plain_nodes(item, known)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = str(key.value)
        if is_secret(name, known):
            for path, leaf in _leaves(value):
                if leaf.tag not in ENCRYPTED and _literal(leaf):
                    yield ".".join([name, *path]), leaf.start_mark.line + 1
        elif name == "app_env" and isinstance(value, yaml.MappingNode):
            for inner, leaf in value.value:
                if isinstance(leaf, yaml.ScalarNode) and leaf.tag not in ENCRYPTED and _literal(leaf) and (contract.SECRET_NAME.fullmatch(inner.value) or TOKEN.fullmatch(inner.value)):
                    yield f"app_env.{inner.value}", leaf.start_mark.line + 1
        elif name == "app_files" and isinstance(value, yaml.SequenceNode):
            for item in value.value:
                parts = {part.value: inner for part, inner in item.value} if isinstance(item, yaml.MappingNode) else {}
                content = parts.get("content")
                if getattr(parts.get("secret"), "value", "").lower() in ("true", "yes", "on") and content is not None:
                    for line, word in _passwords(content):
                        yield f"app_files (content: {word})", line
        else:
            yield from _plain_nodes(value, known)


def _passwords(content: yaml.Node) -> t.Iterator[tuple[int, str]]:
    """Lines of a secret configuration file that set a password to itself."""
    first = content.start_mark.line + (2 if content.style in ("|", ">") else 1)
    for number, line in enumerate(str(content.value).splitlines()):
        found = re.search(r"(?i)([\w-]*(?:passw|passphrase|secret|token|api_?key)[\w-]*)[\"']?\s*[:=]\s*(\S.*)", line)
        if found and "{{" not in found[2] and found[2].strip("\"', ;"):
            yield first + number, found[1]


def _leaves(node: yaml.Node, path: tuple = ()) -> t.Iterator[tuple[tuple, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _leaves(value, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _leaves(value, (*path, str(index)))
    else:
        yield path, node


def _literal(node: yaml.Node) -> bool:
    """Whether a value stands there itself: not empty, not a switch, not taken from elsewhere, and not encrypted by SOPS."""
    return bool(str(node.value).strip()) and not node.value.startswith("ENC[") and "{{" not in node.value and "{%" not in node.value and node.tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
