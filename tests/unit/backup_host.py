"""Programs that a backup runs, as small scripts that write down what they were asked and answer as the test says."""

from __future__ import annotations

import datetime
import importlib.machinery
import importlib.util
import ipaddress
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

ROLES = Path(__file__).resolve().parents[2] / "roles"

# The first rule whose words are in the command decides: who is killed, what a shell does, what is said, and how it ends. Tests
# start thousands of these: what each imports is most of what they take.
FAKE = r"""#!{python} -SI
import os, sys

base, name, words = {base!r}, {name!r}, sys.argv[1:]
if name == "setpriv":
    # All users are the one who runs the test; what else is asked of it is the real one's to do.
    kept = [word for word in words[:words.index("--")] if word.startswith("--pdeathsig")]
    command = words[words.index("--") + 1:]
    os.execvp("/usr/bin/setpriv", ["setpriv", *kept, "--", *command]) if kept else os.execvp(command[0], command)
line = " ".join([name, *words])
with open(f"{base}/calls", "a") as sink:
    sink.write(line + "\n")
with open(f"{base}/rules") as source:
    rules = eval(source.read())
rule = next((rule for rule in rules if rule["in"] in line), {})
if rule.get("kill") == "before":
    os.kill(os.getppid(), 9)
    sys.exit(0)
if "sh" in rule:
    import subprocess

    done = subprocess.run(["sh", "-euc", rule["sh"], name, *words], check=False)
    if done.returncode:
        sys.exit(done.returncode)
if name == "systemctl" and not rule.get("code"):
    units = f"{base}/units"
    named = [word for word in words[1:] if word.endswith((".service", ".socket", ".timer"))]
    if words[0] == "list-units":
        for unit in sorted(os.listdir(units)):
            if unit.startswith("notes"):
                print(f"{unit} loaded active running x")
    elif "is-active" in words:
        sys.exit(0 if all(os.path.exists(f"{units}/{unit}") for unit in named) else 3)
    for unit in named:
        if words[0] in ("start", "restart"):
            open(f"{units}/{unit}", "a").close()
        elif words[0] == "stop" and os.path.exists(f"{units}/{unit}"):
            os.unlink(f"{units}/{unit}")
if rule.get("kill") == "after":
    os.kill(os.getppid(), 9)
if "out" in rule:
    print(rule["out"])
if "err" in rule:
    print(rule["err"], file=sys.stderr)
sys.exit(rule.get("code", 0))
"""


class Fakes:
    """A folder of such programs, and what they were asked."""

    def __init__(self, base: Path) -> None:
        self.base, self.bin = base, base / "bin"
        self.bin.mkdir()
        (base / "units").mkdir()
        self.rules: list[dict] = []
        self.write()
        (base / "calls").touch()

    def add(self, *names: str, folder: Path | None = None) -> None:
        for name in names:
            path = (folder or self.bin) / name
            path.write_text(FAKE.replace("{python}", sys.executable).replace("{base!r}", repr(str(self.base))).replace("{name!r}", repr(name)))
            path.chmod(0o755)

    def write(self) -> None:
        pending = self.base / "rules.new"
        pending.write_text(repr(self.rules))
        pending.rename(self.base / "rules")

    def rule(self, inside: str, **what: object) -> None:
        """From now on, answer a command that has `inside` in it like this."""
        self.rules = [{"in": inside, **what}, *[rule for rule in self.rules if rule["in"] != inside]]
        self.write()

    def calls(self, *inside: str) -> list[str]:
        return [line for line in (self.base / "calls").read_text().splitlines() if all(word in line for word in inside)]

    def forget(self) -> None:
        (self.base / "calls").write_text("")

    def running(self) -> set[str]:
        return {path.name for path in (self.base / "units").iterdir()}

    def on_path(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin")


# Answers only who has a certificate: 403 at whose name is another's, 404 where nothing has been begun.
DOOR = """
import http.server, ssl, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response({"/app1/config": 200, "/new/config": 404}.get(self.path, 403))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{sys.argv[1]}/host.pem", f"{sys.argv[1]}/host.key")
context.load_verify_locations(f"{sys.argv[1]}/ca.pem")
context.verify_mode = ssl.CERT_REQUIRED
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Door:
    """The way to the repositories of files: a server with a certificate, which asks for one. A process, for tests fork."""

    def __init__(self, base: Path) -> None:
        self.pki = base / "pki"
        self.pki.mkdir()
        make_pki(self.pki)
        self.process = subprocess.Popen([sys.executable, "-c", DOOR, str(self.pki)], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def repository(self, host: str) -> str:
        return f"rest:https://127.0.0.1:{self.port}/{host}/"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def make_pki(folder: Path) -> None:
    """An authority, and a certificate of 127.0.0.1 for both ends."""
    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "app1")]
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    usage = dict.fromkeys(("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
                           "encipher_only", "decipher_only"), False)
    for name, public, subject, more in (
            ("ca", authority.public_key(), names[0], (x509.BasicConstraints(True, None), x509.KeyUsage(**{**usage, "key_cert_sign": True}))),
            ("host", key.public_key(), names[1], (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), identifier))):
        builder = x509.CertificateBuilder(names[0], subject, public, x509.random_serial_number(), now - datetime.timedelta(hours=1),
                                          now + datetime.timedelta(days=1))
        for extension in (x509.SubjectKeyIdentifier.from_public_key(public), *more):
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        (folder / f"{name}.pem").write_bytes(builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    (folder / "host.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def load(name: str, path: Path) -> types.ModuleType:
    """Import a program that has no suffix."""
    loader = importlib.machinery.SourceFileLoader(name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    sys.modules[name] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


DEAD = 77


def dies(action: Callable[[], object], at: int, calls: tuple[str, ...], processes: bool = False) -> bool:
    """Run in a child that dies before its call number `at` of these of `os`, or before a process; false when it ended before that."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count = 0

            def wrap(original: Callable) -> Callable:
                def call(*args: object, **kwargs: object) -> object:
                    nonlocal count
                    count += 1
                    if count == at:
                        os._exit(DEAD)
                    return original(*args, **kwargs)

                return call

            for name in calls:
                setattr(os, name, wrap(getattr(os, name)))
            if processes:
                subprocess.run = wrap(subprocess.run)
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, DEAD)
    return status == DEAD
