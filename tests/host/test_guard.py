"""The guard in the running processes: what it says of itself, what it makes of the settings, and who may ask. Reads only."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.hosts("web")

ASK = """
import http.client, socket, sys
connection = http.client.HTTPConnection({domain!r})
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect({socket!r})
connection.request("GET", {path!r}, headers={{"Host": {domain!r}, "X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1"}})
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""
# Settings that Django's deployment checklist asks for, or that keep passwords and uploads safe: with the guard, none may be left open.
ENFORCED = {"DEBUG", "ALLOWED_HOSTS", "SECRET_KEY", "SESSION_COOKIE_SECURE", "SESSION_COOKIE_HTTPONLY", "CSRF_COOKIE_SECURE", "SECURE_PROXY_SSL_HEADER",
            "SECURE_CONTENT_TYPE_NOSNIFF", "SECURE_REFERRER_POLICY", "X_FRAME_OPTIONS", "AUTH_PASSWORD_VALIDATORS", "PASSWORD_HASHERS",
            "DATA_UPLOAD_MAX_MEMORY_SIZE", "FILE_UPLOAD_PERMISSIONS", "AUTHENTICATION_BACKENDS", "LOGGING"}


@pytest.fixture(scope="module")
def guard(host):
    """The mode that the inventory asks for."""
    mode = host.lab.get("app_guard", "enforce")
    if mode == "off":
        pytest.skip("the inventory leaves this project without the guard")
    return mode


@pytest.fixture(scope="module")
def report(host, guard) -> dict:
    name = host.lab["app_name"]
    release = host.check_output(f"basename $(readlink -f /srv/{name}/live/release)")
    return json.loads(host.check_output(f"/usr/local/lib/redoubt/{name}-run runtime {release} 'python -m redoubt_guard report --json'"))


def test_health_tells_that_it_is_in_place(host, guard) -> None:
    ask = ASK.format(domain=host.lab["app_domains"][0], socket=f"/run/{host.lab['app_name']}/live.sock", path="/-/health")
    status, _, body = host.check_output(f"python3 - <<'E'\n{ask}\nE").partition(" ")
    assert status == "200" and json.loads(body) == {"status": "ok", "guard": guard, "checks": {"database": "ok", "migrations": "ok"}}


def test_health_is_not_for_the_public(host, guard, https) -> None:
    for path in ("/-/health", "/-/health/live", "/-/health/"):
        answer = https.get(f"https://{host.lab['app_domains'][0]}{path}", timeout=20)
        assert answer.status_code == (200 if host.lab["app_health_public"] and not path.endswith("h/") else 404), path
        assert "migrations" not in answer.text or host.lab["app_health_public"]


def test_settings_are_as_the_checklist_asks(report, guard) -> None:
    assert report["mode"] == guard and report["refusal"] is None
    rows = [row for row in report["rows"] if row["setting"] in ENFORCED]
    assert {row["setting"] for row in rows} == ENFORCED
    if guard == "enforce":
        assert not [row for row in rows if row["state"] not in ("set", "left", "skipped")], rows


def test_report_shows_no_secret(host, report) -> None:
    text = json.dumps(report)
    for name, value in host.lab.get("app_secret_env", {}).items():
        assert str(value) not in text, name
