"""What nginx sends to another process than gunicorn, and what it does not (the demo's websocket)."""

from __future__ import annotations

import base64
import hashlib
import secrets

import pytest
from edge import Edge

pytestmark = pytest.mark.hosts("web")

PATH = "/ws/echo/"
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@pytest.fixture(scope="module")
def edge(lab, host) -> Edge:
    if not any(route.get("websocket") for route in host.lab["app_routes"].values()):
        pytest.skip("the inventory has no websocket in app_routes")
    return Edge(lab, host.lab["inventory_hostname"])


def upgrade(connection, edge: Edge, origin: str) -> tuple[str, bool]:
    """Ask for a websocket; the status, and whether the answer proves that a websocket server read the question."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    lines = [f"GET {PATH} HTTP/1.1", f"Host: {edge.canonical}", "Connection: Upgrade", "Upgrade: websocket", f"Origin: {origin}"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
    connection.sendall("\r\n".join(lines).encode())
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(1)
        assert data, head
        head += data
    proof = base64.b64encode(hashlib.sha1(f"{key}{MAGIC}".encode()).digest())
    return head.split()[1].decode(), proof in head


def test_a_websocket_echoes_through_nginx(edge: Edge) -> None:
    text = f"hello {secrets.token_hex(8)}".encode()
    mask = secrets.token_bytes(4)
    with edge.tls(edge.canonical) as connection:
        assert upgrade(connection, edge, f"https://{edge.canonical}") == ("101", True)
        connection.sendall(bytes([0x81, 0x80 | len(text)]) + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(text)))
        answer = b""
        while len(answer) < len(text) + 2:
            data = connection.recv(1024)
            assert data, answer
            answer += data
    assert answer == bytes([0x81, len(text)]) + text


def test_a_page_of_another_site_gets_none(edge: Edge) -> None:
    with edge.tls(edge.canonical) as connection:
        assert upgrade(connection, edge, "https://elsewhere.test")[0] == "403"


def test_the_rest_is_gunicorns(host, edge: Edge) -> None:
    """A plain request below the route goes to the other process, one beside it does not."""
    name = host.lab["app_name"]
    process = next(route["process"] for route in host.lab["app_routes"].values() if route.get("websocket"))
    assert edge.ask("/healthz").status == 200
    sockets = host.check_output(f"stat -c '%U:%G %a' /run/{name}/{process}/socket")
    assert sockets.split()[0] == f"{name}:www-data"
