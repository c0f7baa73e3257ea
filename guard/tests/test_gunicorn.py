"""gunicorn as the role configures it: a worker that dies while it answers has sent nothing, or all there was to send."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import types

import pytest
from conftest import GUARD

TEMPLATE = GUARD.parent / "roles/app/templates/_app/gunicorn.conf.py"
SITE = """
import os, signal, socket

BODIES = {"/whole": [b"whole" * 20000], "/pieces": [b"hello ", b"world"], "/late": [b"", b"hello world"], "/empty": [b""], "/none": []}
sendall = socket.socket.sendall


def die(connection, data):
    sendall(connection, data)
    os.kill(os.getpid(), signal.SIGKILL)


def site(environ, start_response):
    path, how = environ["PATH_INFO"], environ["QUERY_STRING"]
    if how == "die":
        socket.socket.sendall = die
    body = BODIES[path]
    start_response("200 OK", [] if how == "chunked" else [("Content-Length", str(sum(map(len, body))))])
    return body
"""


def configuration(threads: int) -> str:
    """What the role writes, with the same number for all that it fills in."""
    return re.sub(r"\{\{.*?\}\}", str(threads), TEMPLATE.read_text()).replace(f"timeout = {threads}", "timeout = 30")


class Served:
    def __init__(self, folder, threads):
        self.path = str(folder / "socket")
        (folder / "gunicorn.conf.py").write_text(configuration(threads))
        # Not where it is started, but in the folder of the project beside the environment.
        project = folder / "src" / str(threads)
        project.mkdir(parents=True)
        (project / "served.py").write_text(SITE)
        command = [sys.executable, "-c", "from gunicorn.app.wsgiapp import run; run()", "--config=gunicorn.conf.py", "--workers=1", "--max-requests=0", f"--bind=unix:{self.path}", "served:site"]
        self.process = subprocess.Popen(command, cwd=folder, env={**os.environ, "VIRTUAL_ENV": str(folder / "venv")}, stderr=subprocess.DEVNULL, start_new_session=True)

    def ask(self, target: str) -> tuple[bytes, bytes]:
        """All that is sent until the connection ends: headers and body."""
        deadline = time.monotonic() + 30
        while True:
            with socket.socket(socket.AF_UNIX) as connection:
                try:
                    connection.connect(self.path)
                except OSError:
                    assert time.monotonic() < deadline and self.process.poll() is None
                    time.sleep(0.05)
                    continue
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: example.test\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(1 << 20), b""))
                head, _, body = answer.partition(b"\r\n\r\n")
                return head, body


@pytest.fixture(params=[1, 2], ids=["sync", "threads"])
def served(request, tmp_path):
    found = Served(tmp_path, request.param)
    yield found
    os.killpg(found.process.pid, signal.SIGTERM)
    found.process.wait(40)


def test_an_answer_begins_with_its_body(served):
    whole = b"whole" * 20000
    for target, body in {"/whole": whole, "/pieces": b"hello world", "/late": b"hello world", "/empty": b"", "/none": b""}.items():
        head, got = served.ask(target)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n") and got == body, target
    assert served.ask("/pieces?chunked")[1] == b"6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"
    # The worker dies after the first thing it has sent: that was all of it.
    assert served.ask("/whole?die")[1] == whole
    # What is sent in pieces is lost from the first that was not.
    assert served.ask("/pieces?die")[1] == b"hello "


class Wire:
    def __init__(self):
        self.sent = []

    def sendall(self, data):
        self.sent.append(data)

    send = sendall


class Answer:
    """As gunicorn has it since version 20."""

    def __init__(self):
        self.sock, self.headers_sent = Wire(), False

    def write(self, data):
        if not self.headers_sent:
            self.sock.sendall(b"headers ")
            self.headers_sent = True
        if not isinstance(data, bytes):
            raise TypeError
        self.sock.sendall(data)


class WithoutState(Answer):
    def __init__(self):
        self.connection = Wire()

    def write(self, data):
        self.connection.sendall(b"headers ")
        self.connection.sendall(data)


class SendsOtherwise(Answer):
    def write(self, data):
        self.sock.sendall(b"headers ")
        self.sock.send(data)


def configured(monkeypatch, kind, times=1):
    """The class after the configuration was read; without it in gunicorn when there is none."""
    module = types.ModuleType("gunicorn.http.wsgi")
    if kind:
        module.Response = type(kind.__name__, (kind,), {"write": kind.write} if hasattr(kind, "write") else {})
    monkeypatch.setitem(sys.modules, "gunicorn.http.wsgi", module)
    monkeypatch.setenv("VIRTUAL_ENV", "/srv/notes/live/release/venv")
    for _ in range(times):
        exec(configuration(1), {})  # noqa: S102 as gunicorn reads it
    return module.Response if kind else None


def test_a_gunicorn_built_otherwise_goes_on_as_it_does(monkeypatch):
    answer = configured(monkeypatch, Answer)()
    answer.write(b"body ")
    answer.write(b"more")
    assert answer.sock.sent == [b"headers body ", b"more"]

    # An error after the headers leaves them sent, as it did.
    answer = configured(monkeypatch, Answer)()
    with pytest.raises(TypeError):
        answer.write("text")
    assert answer.sock.sent == [b"headers "]

    answer = configured(monkeypatch, WithoutState)()
    answer.write(b"body")
    assert answer.connection.sent == [b"headers ", b"body"]

    answer = configured(monkeypatch, SendsOtherwise)()
    answer.write(b"body")
    assert answer.sock.sent == [b"headers ", b"body"]

    configured(monkeypatch, None)
    configured(monkeypatch, object)


def test_a_reload_changes_nothing(monkeypatch):
    assert configured(monkeypatch, Answer, times=3).write.__closure__[0].cell_contents is Answer.write
