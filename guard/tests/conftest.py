"""One project runs in this process (projects/full, in enforce mode); the others get a process each."""

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
GUARD = HERE.parent
PROJECTS = HERE / "projects"

STRONG = "0123456789abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGH"

_scratch = tempfile.TemporaryDirectory(prefix="redoubt-guard-")
os.environ.update(
    DJANGO_SETTINGS_MODULE="redoubt_guard.settings",
    REDOUBT_SETTINGS_MODULE="full.settings",
    REDOUBT_GUARD=json.dumps({"app": "full", "domains": ["example.test"], "trusted_proxies": ["198.51.100.0/24", "2001:db8:ffff::/48"]}),
    REDOUBT_STAGE="web",
    FULL_DATABASE=str(Path(_scratch.name) / "full.sqlite3"),
    FULL_MEDIA=str(Path(_scratch.name) / "media"),
)
sys.path[:0] = [str(GUARD), str(PROJECTS / "full")]


def pytest_configure(config):
    import django

    django.setup()
    from django.core.management import call_command

    # As with PostgreSQL, somebody who reads does not keep others from writing.
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode=WAL")
    call_command("migrate", verbosity=0)
    call_command("createcachetable", "redoubt_guard_cache", verbosity=0)


def pytest_unconfigure(config):
    from django.db import connections

    connections.close_all()
    _scratch.cleanup()


class FakeJournal:
    """The receiving end of the journal's native protocol. Some kernels queue no more than ten datagrams, so somebody must read."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)
        self.found = []
        self.lock = threading.Lock()
        self.open = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while self.open:
            select.select([self.socket], [], [], 0.05)
            with self.lock:
                self._read()

    def _read(self):
        try:
            while True:
                data = self.socket.recv(65536)
                assert data.endswith(b"\n")
                self.found.append(dict(part.split("=", 1) for part in data.decode("ascii")[:-1].split("\n")))
        except BlockingIOError:
            return

    def close(self):
        self.open = False
        self.thread.join()
        self.socket.close()

    def entries(self):
        """The fields of every datagram since the last call."""
        with self.lock:
            self._read()
            found, self.found = self.found, []
        return found

    def events(self):
        """The events since the last call, in order."""
        return [json.loads(entry["MESSAGE"]) for entry in self.entries()]

    def names(self):
        return [event["event"] for event in self.events()]


@pytest.fixture
def journal(tmp_path, monkeypatch):
    from redoubt_guard import events

    fake = FakeJournal(tmp_path / "journal")
    monkeypatch.setattr(events, "journal", events.Journal("full-security", fake.path))
    yield fake
    fake.close()


@pytest.fixture
def database():
    """An empty database."""
    from django.core.management import call_command
    from django.db import connection

    yield
    call_command("flush", interactive=False, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM redoubt_guard_cache")


@pytest.fixture
def client(database):
    """A browser behind nginx."""
    return browser("203.0.113.9")


def browser(ip, **options):
    from django.test import Client

    forwarded = {"HTTP_X_FORWARDED_FOR": ip, "HTTP_X_FORWARDED_PROTO": "https", "HTTP_HOST": "example.test", "REMOTE_ADDR": ""}
    return Client(raise_request_exception=False, **forwarded, **options)


@pytest.fixture
def alice(database):
    from django.contrib.auth import get_user_model

    return get_user_model().objects.create_user("alice", "alice@example.test", "correct horse battery")


def environment(project, **env):
    """The environment of a process of one of the small projects."""
    full = {key: value for key, value in os.environ.items() if not key.startswith(("REDOUBT_", "DJANGO_", "FULL_"))}
    full.update(
        PYTHONPATH=os.pathsep.join([str(GUARD), str(PROJECTS / project)]),
        PYTHONDONTWRITEBYTECODE="1",
        DJANGO_SETTINGS_MODULE="redoubt_guard.settings",
        REDOUBT_GUARD=json.dumps({"app": "shop", "domains": ["example.test"]}),
        FULL_DATABASE=":memory:",
    )
    full.update(env)
    return full


def python(project, code, **env):
    """Run `code` in a process of a project; returns the finished process, its output as text."""
    command = [sys.executable, "-c", code] if isinstance(code, str) else [sys.executable, *code]
    return subprocess.run(
        command, cwd=PROJECTS / project, env=environment(project, **env), capture_output=True, text=True, timeout=120, check=False
    )
