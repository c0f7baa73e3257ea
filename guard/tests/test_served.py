"""The servers as they are used: gunicorn and uvicorn on a unix socket, several processes, requests as nginx sends them."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PROJECTS, FakeJournal, environment, python


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("example.test", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def ask(path, url, method="GET", body=None, ip="203.0.113.9", **headers):
    connection = Connection(path)
    lines = {"Host": "example.test", "X-Forwarded-For": f"1.1.1.1, {ip}", "X-Forwarded-Proto": "https", **headers}
    if body:
        lines["Content-Type"] = "application/x-www-form-urlencoded"
    connection.request(method, url, body, lines)
    response = connection.getresponse()
    return response.status, response.read()


@pytest.fixture(params=["gunicorn", "uvicorn"])
def served(request, tmp_path):
    """A server of three processes (uvicorn: one), with a database of its own; returns its socket and its journal."""
    journal = FakeJournal(tmp_path / "journal")
    database, path = str(tmp_path / "db.sqlite3"), str(tmp_path / "web.sock")
    env = {
        "FULL_DATABASE": database,
        "REDOUBT_SETTINGS_MODULE": "full.settings",
        "REDOUBT_STAGE": "web",
        "REDOUBT_GUARD": json.dumps({"app": "full", "domains": ["example.test"]}),
        "PROJECT_JOURNAL": journal.path,
    }
    setup = """
import django
django.setup()
from django.core.management import call_command
from django.db import connection
connection.cursor().execute("PRAGMA journal_mode=WAL")
call_command("migrate", verbosity=0)
call_command("createcachetable", "redoubt_guard_cache", verbosity=0)
from django.contrib.auth.models import User
User.objects.create_user("alice", password="correct horse battery")
"""
    assert python("full", setup, **env).returncode == 0
    # The journal's place is fixed in the package: the test's own is put there as the app gets ready.
    code = """
import os, sys
from redoubt_guard import events
real = events.Journal
events.Journal = lambda identifier: real(identifier, os.environ["PROJECT_JOURNAL"])
"""
    if request.param == "gunicorn":
        code += "from gunicorn.app.wsgiapp import run\nsys.argv[0] = 'gunicorn'\nrun()"
        arguments = ["--workers=3", f"--bind=unix:{path}", "--forwarded-allow-ips=*", "full.wsgi"]
        under_way = 3
    else:
        code += "from uvicorn.main import main\nsys.argv[0] = 'uvicorn'\nmain()"
        arguments = [f"--uds={path}", "--forwarded-allow-ips=*", "--log-level=error", "full.asgi:application"]
        under_way = 20
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=PROJECTS / "full",
        env=environment("full", **env),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.time() + 30
        while True:
            try:
                assert ask(path, "/-/health")[0] == 200
                break
            except OSError:
                assert time.time() < deadline and process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
        yield path, journal, under_way
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()
        journal.close()


def test_served(served):
    path, journal, under_way = served
    assert json.loads(ask(path, "/-/health")[1]) == {"status": "ok", "guard": "enforce", "checks": {"database": "ok", "migrations": "ok"}}
    assert ask(path, "/-/health/live", Host="nobody.test")[0] == 200
    # Whatever the server makes of X-Forwarded-For, the project sees nginx's own word.
    assert ask(path, "/") == (200, b"203.0.113.9")
    assert ask(path, "/forbidden/")[0] == 403
    (entry,) = journal.entries()
    assert entry["SYSLOG_IDENTIFIER"] == "full-security"
    assert entry["MESSAGE"].startswith('{"v": 1, "ip": "203.0.113.9", "event": "permission_denied", ')

    # A hundred guesses at once from a hundred addresses, over all processes: few are tried, and every one is told of.
    def guess(number):
        return ask(path, "/api/", "POST", "username=alice&password=wrong", ip=f"198.18.0.{number}")[0]

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(guess, range(100))) == {401}
    time.sleep(0.2)
    assert ask(path, "/")[0] == 200
    names = journal.names()
    failed = names.count("login_failed")
    assert failed + names.count("login_throttled") == 100
    # Five are free; those under way when the sixth was counted go on, and in the seconds of this test the gate opens a few times.
    assert 6 <= failed <= 5 + under_way + 5
    # The right password from elsewhere has to wait like any. On a slow machine the delay may be over; the next failure makes a longer one.
    for number in range(200, 208):
        ask(path, "/api/", "POST", "username=alice&password=wrong", ip=f"198.18.1.{number}")
        if ask(path, "/api/", "POST", "username=alice&password=correct+horse+battery", ip=f"198.18.2.{number}")[0] == 401:
            break
    else:
        pytest.fail("the right password was let in each time, right after a failure")
    assert journal.names()[-1] == "login_throttled"
