"""What a visitor sees, to the byte: handshakes that fail, paths as they are written, headers that come twice."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import warnings
from dataclasses import dataclass
from typing import Any

TIMEOUT = 15
HEADERS = {
    "Strict-Transport-Security",
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Referrer-Policy",
    "Permissions-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "X-Request-ID",
}
PORTS = {"http": 80, "https": 443}


@dataclass
class Answer:
    """One answer, with its headers as they came: repeated ones are not merged."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str:
        values = self.all(name)
        assert len(values) == 1, f"{name} is there {len(values)} times in the answer {self.status}: {values}"
        return values[0]


def assert_header_set(answer: Answer, policy: str = "Content-Security-Policy", secure: bool = True) -> None:
    """The whole set, each header once. `secure`: over TLS; HSTS means nothing elsewhere."""
    for header in HEADERS - {"Content-Security-Policy", "Strict-Transport-Security"} | {policy}:
        answer.one(header)
    assert answer.one("X-Content-Type-Options") == "nosniff"
    assert answer.one("Server") == "nginx", "the version is nobody's business"
    assert not answer.all("X-Powered-By")
    if secure:
        assert "max-age=" in answer.one("Strict-Transport-Security")
    else:
        assert not answer.all("Strict-Transport-Security")


def assert_error_page(answer: Answer) -> None:
    """One of nginx's own pages: it says which request it is about, and takes nothing from anywhere."""
    assert answer.one("Content-Type") == "text/html; charset=utf-8"
    request = answer.one("X-Request-ID")
    assert f"{answer.status} · {request}".encode() in answer.body
    assert answer.one("Content-Security-Policy").startswith(f"default-src 'none'; style-src 'nonce-{request}';")
    assert f'<style nonce="{request}">'.encode() in answer.body
    assert answer.one("Cache-Control") == "no-store"


class Edge:
    """The edge of one host of a lab: whatever name is asked for, this host answers."""

    def __init__(self, lab: Any, host: str) -> None:
        self.lab, self.host = lab, host
        self.variables = lab.vars(host)
        self.domains: list[str] = self.variables["app_domains"]

    @property
    def canonical(self) -> str:
        return self.domains[0]

    def context(self, lowest: ssl.TLSVersion | None = None, highest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.lab.ca)
        if lowest and highest:
            # A client that would talk the old versions, so that a refusal is the server's.
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version, context.maximum_version = lowest, highest
        return context

    def plain(self, scheme: str = "http") -> socket.socket:
        return socket.create_connection(self.lab.published(self.host, PORTS[scheme]), timeout=TIMEOUT)

    def tls(self, name: str | None, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A finished handshake for a name, or without SNI for None."""
        context = context or self.context()
        if name is None:
            context.check_hostname = False
        raw = self.plain("https")
        try:
            return context.wrap_socket(raw, server_hostname=name)
        except BaseException:
            raw.close()
            raise

    def certificate(self, name: str | None = None) -> bytes:
        with self.tls(name or self.canonical) as connection:
            found = connection.getpeercert(binary_form=True)
        assert found
        return found

    def ask(
        self,
        path: str,
        *,
        name: str | None = None,
        host: str | None = None,
        scheme: str = "https",
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        context: ssl.SSLContext | None = None,
    ) -> Answer:
        """Ask for a path as it is written: nothing is normalised on the way."""
        name = name or self.canonical
        connection = http.client.HTTPConnection(name, timeout=TIMEOUT)
        connection.sock = self.tls(name, context) if scheme == "https" else self.plain()
        try:
            connection.request(method, path, body=body, headers={"Host": host or name, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()


# --- From another host of the lab -------------------------------------------------------------------------------------

# Asks on a lab host, which has Python and nothing else. The certificate is not checked: what is looked at is what comes back.
FAR = r"""
import base64, http.client, json, socket, ssl, sys
address, name, questions = json.loads(base64.b64decode(sys.argv[1]))
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
answers = []
for question in questions:
    connection = http.client.HTTPConnection(name, timeout=15)
    try:
        connection.sock = socket.create_connection((address, 443), timeout=15)
        connection.sock = context.wrap_socket(connection.sock, server_hostname=name)
        connection.request(question.get("method", "GET"), question["path"], body=question.get("body"), headers=question.get("headers", {}))
        answer = connection.getresponse()
        answers.append([answer.status, answer.getheaders(), answer.read().decode("utf-8", "replace")])
    except (OSError, http.client.HTTPException) as error:
        answers.append([0, [], repr(error)])
    finally:
        connection.close()
print(json.dumps(answers))
"""


def ask_from(host: Any, edge: Edge, questions: list[dict], address: str = "") -> list[Answer]:
    """Each question over a connection of its own, from a lab host. Status 0: the connection ended without an answer."""
    given = base64.b64encode(json.dumps([address or edge.variables["lab_ipv4"], edge.canonical, questions]).encode()).decode()
    said = host.check_output(f"python3 -c '{FAR}' {given}")
    return [Answer(status, [tuple(pair) for pair in headers], body.encode()) for status, headers, body in json.loads(said)]
