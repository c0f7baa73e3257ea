"""Whole requests through the middleware, WSGI and ASGI: addresses, health, refusals, uploads."""

import asyncio
import io
import json
import os
import stat
import time

import pytest
from conftest import STRONG, browser
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files.storage import default_storage

from redoubt_guard import health, middleware


def test_the_project_sees_the_clients_address(client):
    assert client.get("/").content == b"203.0.113.9"
    assert client.get("/", headers={"x-forwarded-for": "1.1.1.1, 203.0.113.7, 198.51.100.1"}).content == b"203.0.113.7"
    assert client.get("/async/").content == b"203.0.113.9"


def test_the_switch_leaves_the_address(client, monkeypatch):
    original = middleware.GuardMiddleware.__init__

    def without(self, get_response):
        original(self, get_response)
        self.rewrite = False

    monkeypatch.setattr(middleware.GuardMiddleware, "__init__", without)
    client.handler.load_middleware()
    assert client.get("/").content == b""


def asynchronous(path, method="GET", body=b"", **headers):
    """A request as uvicorn hands it over from a unix socket; returns the status and the body."""
    from django.core.handlers.asgi import ASGIHandler

    lines = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "host": "example.test", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path, "query_string": b"", "client": None,
        "server": None, "headers": [(name.encode(), value.encode()) for name, value in lines.items()],
    }  # fmt: skip
    sent = []

    async def run():
        asked = asyncio.Event()

        async def receive():
            if asked.is_set():
                await asyncio.sleep(60)
            asked.set()
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        await ASGIHandler()(scope, receive, send)

    asyncio.run(run())
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_asgi(database, journal):
    assert asynchronous("/") == (200, b"203.0.113.9")
    assert asynchronous("/async/") == (200, b"203.0.113.9")
    assert asynchronous("/forbidden/")[0] == 403
    (event,) = journal.events()
    assert (event["event"], event["ip"], event["path"]) == ("permission_denied", "203.0.113.9", "/forbidden/")
    status, body = asynchronous("/-/health", host="somebody.else")
    assert (status, json.loads(body)["checks"]) == (200, {"database": "ok", "migrations": "ok"})
    assert asynchronous("/-/health/live")[0] == 200


def test_logins_under_asgi(alice, journal):
    form = {"content-type": "application/x-www-form-urlencoded"}
    for _ in range(8):
        status, _ = asynchronous("/api-async/", "POST", b"username=alice&password=wrong", **form)
        assert status == 401
    names = journal.names()
    assert names[:6] == ["login_failed"] * 6
    assert names[-1] == "login_throttled"
    # After the delay the right password gets through, and opens the gate behind it again.
    time.sleep(1.1)
    for _ in range(2):
        assert asynchronous("/api-async/", "POST", b"username=alice&password=correct+horse+battery", **form)[0] == 200
    get_user_model().objects.create_user("bob", password="correct horse battery")
    journal.events()
    assert asynchronous("/api-async/", "POST", b"username=bob&password=correct+horse+battery", **form)[0] == 200
    assert asynchronous("/api-async/", "POST", b"username=bob&password=wrong", **form)[0] == 401
    assert [(event["event"], event["ip"]) for event in journal.events()] == [("login_failed", "203.0.113.9")]


@pytest.mark.parametrize("path", ["/-/health", "/-/health/live"])
def test_health_comes_before_everything(path, client):
    """No host, no https, nothing of the project's."""
    for options in ({}, {"HTTP_HOST": "somebody.else"}, {"HTTP_HOST": "", "HTTP_X_FORWARDED_PROTO": "http"}):
        response = client.get(path, **options)
        assert response.status_code == 200
        assert response["Cache-Control"] == "no-store"
        assert response["Content-Type"] == "application/json"
        assert (response.json()["status"], response.json()["guard"]) == ("ok", "enforce")
        assert set(response.headers) == {"Cache-Control", "Content-Type"} | ({"Content-Length"} & set(response.headers))
    assert client.head(path).status_code == 200
    assert client.post(path).status_code == 405
    assert client.post(path)["Allow"] == "GET, HEAD"


def test_other_paths_are_the_projects(client):
    for path in ("/-/health/", "/-/healthy", "/x/-/health", "/-/"):
        assert client.get(path).status_code == 404


def test_ready_without_database(client, monkeypatch):
    from django.db import connection

    def broken(*args, **kwargs):
        raise RuntimeError("host db.intern user shop")

    monkeypatch.setattr(connection, "cursor", broken)
    response = client.get("/-/health")
    assert response.status_code == 503
    assert response.json() == {"status": "unavailable", "guard": "enforce", "checks": {"database": "RuntimeError", "migrations": "unknown"}}
    assert client.get("/-/health/live").status_code == 200


def test_ready_needs_the_migrations_and_looks_until_they_are_there(client, monkeypatch):
    from django.db import connection
    from django.db.migrations.recorder import MigrationRecorder
    from django.test.utils import CaptureQueriesContext

    monkeypatch.setattr(health, "_migrated", False)
    recorder = MigrationRecorder(connection)
    recorder.record_unapplied("auth", "0012_alter_user_first_name_max_length")
    response = client.get("/-/health")
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "ok", "migrations": "1 unapplied"}
    recorder.record_applied("auth", "0012_alter_user_first_name_max_length")
    assert client.get("/-/health").json()["checks"] == {"database": "ok", "migrations": "ok"}
    with CaptureQueriesContext(connection) as queries:
        assert client.get("/-/health").status_code == 200
    assert [query["sql"] for query in queries] == ["SELECT 1"]


def test_ready_with_a_broken_migration_table(client, monkeypatch):
    monkeypatch.setattr(health, "_migrated", False)
    monkeypatch.setattr(health, "MigrationExecutor", lambda connection: 1 / 0)
    response = client.get("/-/health")
    assert response.status_code == 503
    assert response.json()["checks"] == {"database": "ok", "migrations": "ZeroDivisionError"}


def test_permission_denied(client, alice, journal):
    assert client.get("/forbidden/", headers={"x-request-id": "r1"}).status_code == 403
    assert journal.events() == [
        {
            "v": 1,
            "ip": "203.0.113.9",
            "event": "permission_denied",
            "user": None,
            "target": None,
            "detail": None,
            "method": "GET",
            "path": "/forbidden/",
            "request": "r1",
        }
    ]
    client.force_login(alice)
    journal.events()
    assert client.get("/forbidden-to/").status_code == 403
    (event,) = journal.events()
    assert (event["event"], event["user"]) == ("permission_denied", "alice")
    client.get("/")
    assert journal.events() == []


def test_a_token_in_the_address_is_not_told(client, journal):
    client.get("/invitation/abc/")
    client.get("/old/0123456789abcdef/")
    assert [event["path"] for event in journal.events()] == ["/invitation/…/", "/old/…/"]


def test_csrf_failure(database, journal):
    client = browser("203.0.113.9", enforce_csrf_checks=True)
    assert client.post("/login/", {"username": "alice", "password": "x"}).status_code == 403
    (event,) = journal.events()
    assert (event["event"], event["ip"], event["path"], event["detail"]) == (
        "csrf_failed", "203.0.113.9", "/login/", "Referer checking failed - no Referer.",
    )  # fmt: skip


def test_suspicious_operation_does_not_repeat_what_was_sent(client, journal):
    assert client.get("/suspicious/?what=hunter2").status_code == 400
    (entry,) = journal.entries()
    assert json.loads(entry["MESSAGE"])["event"] == "suspicious_operation"
    assert json.loads(entry["MESSAGE"])["detail"] == "SuspiciousOperation"
    assert "hunter2" not in entry["MESSAGE"]
    assert entry["PRIORITY"] == "4"


def test_disallowed_host(client, journal):
    assert client.get("/host/", HTTP_HOST='evil.test"\n').status_code == 400
    (event,) = journal.events()
    assert (event["event"], event["detail"]) == ("disallowed_host", 'evil.test"\n')
    assert client.get("/host/").content == b"example.test"


def test_uploads_are_not_for_everybody(client):
    file = io.BytesIO(b"text")
    file.name = "note.txt"
    os.makedirs(settings.MEDIA_ROOT, exist_ok=True)
    os.chmod(settings.MEDIA_ROOT, 0o2750)
    umask = os.umask(0o027)
    try:
        path = default_storage.path(default_storage.save("new/folder/note.txt", file))
        name = client.post("/upload/", {"file": file}).content.decode()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(os.stat(os.path.join(settings.MEDIA_ROOT, name)).st_mode) == 0o640
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    # The set-group bit is what makes the next file in it nginx's to read.
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o2750


def test_cookies_and_headers(client, alice):
    response = client.post("/login/", {"username": "alice", "password": "correct horse battery"})
    cookie = response.cookies["sessionid"]
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")
    assert response["Referrer-Policy"] == "same-origin"
    assert response["X-Frame-Options"] == "SAMEORIGIN"
    assert response["X-Content-Type-Options"] == "nosniff"


def test_the_settings_of_this_project():
    assert settings.DEBUG is False
    assert settings.ALLOWED_HOSTS[0] == "example.test"
    assert settings.SECRET_KEY_FALLBACKS == []
    assert settings.SECRET_KEY == STRONG
    import full.settings

    assert full.settings.DEBUG is False


def test_a_class_by_name():
    class PasswordResetView: ...

    class Own(PasswordResetView): ...

    class View:
        view_class = Own

    class Match:
        func = View

    class Request:
        resolver_match = Match

    assert middleware.on_view(Request, "PasswordResetView")
    assert not middleware.on_view(Request, "PasswordResetConfirmView")
    Match.func = None
    assert not middleware.on_view(Request, "PasswordResetView")
    assert not middleware.on_view(object(), "PasswordResetView")


def test_a_mistake_of_the_guard_does_not_cost_a_request(client, journal, monkeypatch):
    monkeypatch.setattr(middleware, "on_view", lambda *args: 1 / 0)
    assert client.post("/logout/").status_code in (200, 302)
