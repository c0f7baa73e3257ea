"""The guard under attack: guesses are told and slowed, and nothing that a visitor sends can pass for an event."""

from __future__ import annotations

import json
import re
import secrets
import time

import pytest
from login import at_site

KEYS = ["v", "ip", "event", "user", "target", "detail", "method", "path", "request"]


@pytest.fixture
def site(lab, source):
    if lab.vars(lab.web).get("app_guard", "enforce") != "enforce":
        pytest.skip("the inventory does not enforce the guard")
    return f"https://{lab.vars(lab.web)['app_domains'][0]}"


@pytest.fixture
def events(lab, web):
    """The events since the test began, oldest first, as whoever reads the journal finds them."""
    name = lab.vars(lab.web)["app_name"]
    # Not a cursor: with a match beside it, Debian 12's journalctl leaves out the first entry after it.
    since = web.check_output("date +@%s.%6N")

    def read() -> list[dict]:
        lines = web.check_output(f"journalctl --no-pager -o cat --since={since} _TRANSPORT=journal SYSLOG_IDENTIFIER={name}-security").splitlines()
        found = [json.loads(line) for line in lines]
        assert all(list(event) == KEYS and line.startswith('{"v": 1, "ip": ') for event, line in zip(found, lines, strict=True)), lines
        return found

    return read


def test_logins_are_told_with_the_address_first(https, browse, site, lab, events) -> None:
    password = lab.vars(lab.web)["vault_app_admin_password"]
    # Whoever ran drills before may have left a delay; a good login ends it for this address.
    deadline = time.monotonic() + 60
    while at_site(browse(lab.web), site, "admin", password).status_code != 302:
        assert time.monotonic() < deadline
        time.sleep(1)
    before = len(events())
    assert at_site(https, site, "admin", "wrong").status_code == 200
    assert at_site(https, site, "admin", password).status_code == 302
    told = events()[before:]
    assert [event["event"] for event in told] == ["login_failed", "login_ok"], told
    assert {event["user"] for event in told} == {"admin"} and len({event["ip"] for event in told}) == 1
    assert re.fullmatch(r"[0-9a-f.:]+", told[0]["ip"]) and not told[0]["ip"].startswith("127.")
    assert password not in json.dumps(told)


def test_a_name_cannot_forge_an_event_or_leave_a_password_behind(https, site, web, lab, events) -> None:
    typed = f'hunter{secrets.token_hex(4)}\n{{"v": 1, "ip": "192.0.2.1", "event": "login_failed"}}\x1b[2J'
    at_site(https, site, typed, "x")
    https.get(f"{site}/nothing?{typed}", timeout=20)
    told = events()
    assert [event["event"] for event in told] == ["login_failed"]
    assert told[0]["user"] is None and told[0]["target"].startswith("unknown:") and "hunter" not in json.dumps(told)
    assert told[0]["ip"] != "192.0.2.1"


def test_guesses_are_slowed_and_the_delay_ends_by_itself(browse, site, lab, events) -> None:
    # A name of its own: failures of an account with a good login from here are counted apart.
    user = f"drill-{secrets.token_hex(6)}"
    for _ in range(7):
        at_site(browse(lab.web), site, user, "wrong")
    told = [event["event"] for event in events()]
    assert told.count("login_failed") >= 5 and "login_throttled" in told, told
    time.sleep(5)
    at_site(browse(lab.web), site, user, "wrong")
    assert [event["event"] for event in events()][-1] == "login_failed"


def test_changes_of_rights_and_other_refusals_are_told(https, site, lab, web, events) -> None:
    name = lab.vars(lab.web)["app_name"]
    user = f"drill-{secrets.token_hex(6)}"
    script = (f"from django.contrib.auth import get_user_model as m; u = m().objects.create_user('{user}', password='{secrets.token_hex(16)}'); "
              "u.is_staff = True; u.save(); u.is_staff = False; u.save(); u.delete()")
    web.check_output(f"/usr/local/sbin/{name}-manage shell -c \"{script}\"")
    https.post(f"{site}/accounts/login/", data={"username": "admin", "password": "x"}, timeout=20)
    told = [(event["event"], event["detail"]) for event in events()]
    for wanted in (("user_created", None), ("staff_changed", "granted"), ("staff_changed", "revoked"), ("user_deleted", None)):
        assert wanted in told, told
    assert "csrf_failed" in [event for event, _ in told]
