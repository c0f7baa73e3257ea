"""The form of an event, whatever is put into it."""

import json
import re
import socket
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redoubt_guard import client, events
from redoubt_guard.events import LONGEST, Journal, line, written

KEYS = ["v", "ip", "event", "user", "target", "detail", "method", "path", "request"]
NOBODY = {"ip": None, "user": None, "target": None, "detail": None, "method": None, "path": None, "request": None}

# What a line may look like, told without the code that writes it.
STRING = r'(?:null|"(?:[ !#-\[\]-~]|\\["\\bfnrt]|\\u[0-9a-f]{4})*")'
LINE = re.compile(r'\{"v": 1, ' + ", ".join(f'"{key}": {STRING}' for key in KEYS[1:]) + r"\}")

anything = st.one_of(
    st.none(),
    st.text(),
    st.text(alphabet=st.characters(categories=["Cc", "Cs", "Cf", "Zl", "Zp"])),
    st.text(alphabet='"\\{}:, \n\r\t\0\x7f\x1b\u2028\u202e\ud800\U0001f600'),
    st.text(min_size=200, max_size=400),
    st.integers(),
    st.binary(),
)


def test_the_documented_line():
    text = line(
        "login_failed",
        **{**NOBODY, "ip": "203.0.113.9", "method": "POST", "path": "/login/", "target": "unknown:1f8a90ce27d3", "request": "b64d"},
    )
    assert text == (
        '{"v": 1, "ip": "203.0.113.9", "event": "login_failed", "user": null, "target": "unknown:1f8a90ce27d3", "detail": null, '
        '"method": "POST", "path": "/login/", "request": "b64d"}'
    )


@given(st.sampled_from(sorted(events.SEVERITIES)), *[anything] * 7)
@example("login_failed", '203.0.113.9", "event": "login_ok', '"}\n{"v": 1, "ip": "192.0.2.1"', None, "\\", "\r\n<0>", "\u2028", "\ud83d")
@settings(max_examples=400)
def test_no_input_changes_the_form(event, ip, user, target, detail, method, path, request):
    text = line(event, ip=ip, user=user, target=target, detail=detail, method=method, path=path, request=request)
    assert LINE.fullmatch(text)
    assert len(text.splitlines()) == 1
    assert len(text) <= 9 * (LONGEST + 20)
    pairs = json.loads(text, object_pairs_hook=list)
    assert [key for key, _ in pairs] == KEYS
    assert dict(pairs)["v"] == 1
    assert dict(pairs)["event"] == event


@given(anything)
def test_a_value_is_kept_as_far_as_it_can_be(value):
    text = written(value)
    if value is None:
        assert text == "null"
        return
    plain = re.sub("[\ud800-\udfff\0]", "\ufffd", str(value))
    back = json.loads(text)
    assert len(text) <= LONGEST + 2
    assert back == plain or (back.endswith("…") and plain.startswith(back[:-1]))
    back.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("alice", '"alice"'),
        ("", '""'),
        (7, '"7"'),
        ("null", '"null"'),
        ('a"b\\c', r'"a\"b\\c"'),
        ("a\nb\r\t\0", r'"a\nb\r\t\ufffd"'),
        ("\x7f\x1b", r'"\u007f\u001b"'),
        ("ü\u202e\u2028", r'"\u00fc\u202e\u2028"'),
        ("\U0001f600", r'"\ud83d\ude00"'),
        ("\ud83d", r'"\ufffd"'),
        ("\udfff\ud800x", r'"\ufffd\ufffdx"'),
        ("a" * LONGEST, '"' + "a" * LONGEST + '"'),
        ("a" * (LONGEST + 1), '"' + "a" * (LONGEST - 6) + '\\u2026"'),
        ("a" * 100_000, '"' + "a" * (LONGEST - 6) + '\\u2026"'),
        # Neither an escape nor a pair of them is cut in two: 12 characters each leave room for 20, of 6 for 41, of 2 for 125.
        ("\U0001f600" * 30, '"' + r"\ud83d\ude00" * 20 + '\\u2026"'),
        ("ü" * 50, '"' + r"\u00fc" * 41 + '\\u2026"'),
        ('"' * 200, '"' + r"\"" * 125 + '\\u2026"'),
        ("a" + '"' * 200, '"a' + r"\"" * 124 + '\\u2026"'),
        ("\\ud83d" * 60, '"' + r"\\ud83d" * 35 + r"\\ud8" + '\\u2026"'),
    ],
)
def test_written(value, text):
    assert written(value) == text


def test_an_unknown_event_is_a_mistake_of_the_guard():
    with pytest.raises(KeyError, match="login_fialed"):
        line("login_fialed", **NOBODY)
    with pytest.raises(KeyError):
        events.emit("login_fialed")


def test_severities_are_warnings_at_most():
    assert set(events.SEVERITIES.values()) == {4, 5, 6}
    assert {name for name, severity in events.SEVERITIES.items() if severity == 6} == {"login_ok", "logout", "password_rehashed"}


def test_a_pseudonym_needs_the_key():
    from django.test import override_settings

    mark = events.pseudonym("hunter2")
    assert re.fullmatch("[0-9a-f]{12}", mark)
    assert mark == events.pseudonym("hunter2") != events.pseudonym("hunter3")
    events.pseudonym("\ud800")
    with override_settings(SECRET_KEY="not \udce4 text"):
        assert events.pseudonym("hunter2") != mark
    with override_settings(SECRET_KEY="another"):
        assert events.pseudonym("hunter2") == "aa7a14181df4" != mark


def test_the_journal_gets_its_fields(journal):
    events.emit("login_ok", user="alice")
    (entry,) = journal.entries()
    assert entry == {
        "MESSAGE": '{"v": 1, "ip": null, "event": "login_ok", "user": "alice", "target": null, "detail": null, "method": null, "path": null, "request": null}',
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "full-security",
        "SYSLOG_FACILITY": "10",
    }


def test_an_event_of_a_request(journal):
    request = SimpleNamespace(method="POST", path="/a", META={"HTTP_X_REQUEST_ID": "r1"})
    visit = client.Visit(request, "203.0.113.9")
    token = client.enter(visit)
    events.emit("logout", user="alice", target="t", detail="d")
    client.leave(token)
    assert journal.events() == [
        {
            "v": 1,
            "ip": "203.0.113.9",
            "event": "logout",
            "user": "alice",
            "target": "t",
            "detail": "d",
            "method": "POST",
            "path": "/a",
            "request": "r1",
        }
    ]
    assert visit.events == {"logout"}


def test_off_means_off(journal, monkeypatch):
    monkeypatch.setattr(events, "enabled", False)
    events.emit("logout")
    assert journal.events() == []


@pytest.mark.parametrize(
    ("path", "kwargs", "args", "shown"),
    [
        ("/notes/5/", {"pk": 5}, (), "/notes/5/"),
        ("/by/alice/", {"name": "alice"}, (), "/by/alice/"),
        ("/reset/MQ/c-123/", {"uidb64": "MQ", "token": "c-123"}, (), "/reset/MQ/…/"),
        ("/i/abc/", {"invite_code": "abc"}, (), "/i/…/"),
        ("/i/" + "a" * 16 + "/", {"slug": "a" * 16}, (), "/i/…/"),
        ("/i/" + "a" * 15 + "/", {"slug": "a" * 15}, (), "/i/" + "a" * 15 + "/"),
        ("/i/" + "a" * 16 + "/", {}, ("a" * 16,), "/i/…/"),
        ("/i/a/", {}, ("a",), "/i/a/"),
        ("/i/", {"token": ""}, (), "/i/"),
        ("/i/" + "a" * 16 + "/b/", None, (), "/i/…/b/"),
        ("/i/" + "a" * 15 + "/", None, (), "/i/" + "a" * 15 + "/"),
    ],
)
def test_a_path_tells_no_token(path, kwargs, args, shown):
    match = None if kwargs is None else SimpleNamespace(kwargs=kwargs, args=args)
    assert events.shown_path(SimpleNamespace(path=path, resolver_match=match)) == shown


def test_without_a_journal_it_is_standard_error(tmp_path, capsys):
    Journal("shop-security", str(tmp_path / "none")).send("{}", 4)
    assert capsys.readouterr().err == "<4>shop-security: {}\n"
    # A socket that nobody listens to any more.
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(str(tmp_path / "dead"))
    dead.close()
    Journal("shop-security", str(tmp_path / "dead")).send("{}", 6)
    assert capsys.readouterr().err == "<6>shop-security: {}\n"


def test_a_busy_journal_does_not_hold_a_request(tmp_path, capsys, journal):
    """Nobody reads: the kernel's queue fills, what does not fit waits, what cannot wait is lost, counted and told."""
    log = Journal("shop-security", journal.path)
    with journal.lock:
        for number in range(1000):
            log.send(str(number), 4)
        assert log.lost > 0
        assert len(log._waiting) == log.WAITING == 256
    assert capsys.readouterr().err == "<4>shop-security: security events cannot be sent: the journal is busy; they wait\n"
    lost, found = log.lost, []
    while log._waiting:
        found += journal.entries()
        log.flush()
    found += journal.entries()
    messages = [entry["MESSAGE"] for entry in found]
    told = next(message for message in messages if "events_lost" in message)
    assert json.loads(told)["detail"] == str(lost)
    assert found[messages.index(told)]["PRIORITY"] == "4"
    assert messages.index(told) == 1000 - lost - 256
    messages.remove(told)
    assert messages == [str(number) for number in (*range(1000 - lost - 256), *range(1000 - 256, 1000))]
    assert log.lost == 0
    log.send("{}", 4)
    assert len(journal.entries()) == 1


def test_a_line_that_cannot_be_sent_at_all_is_lost_and_told(journal, capsys):
    log = Journal("shop-security", journal.path)
    log.send("x" * 10_000_000, 4)
    log.send("y" * 10_000_000, 4)
    assert log.lost == 1
    assert [json.loads(entry["MESSAGE"])["detail"] for entry in journal.entries()] == ["1"]
    assert capsys.readouterr().err.count("security events cannot be sent: OSError") == 1
    log.send("{}", 6)
    told, last = journal.entries()
    assert json.loads(told["MESSAGE"])["detail"] == "1"
    assert (last["MESSAGE"], last["PRIORITY"]) == ("{}", "6")


def test_errors_of_any_kind_are_counted(monkeypatch, capsys):
    log = Journal("shop-security")
    assert log.path == "/run/systemd/journal/socket"
    monkeypatch.setattr(log, "_transmit", lambda text, severity: 1 / 0)
    for _ in range(3):
        log.send("{}", 4)
    assert log.lost == 3
    assert capsys.readouterr().err.count("cannot be sent: ZeroDivisionError") == 1


def test_nothing_left_to_write_to(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    Journal("shop-security", str(tmp_path / "none")).send("{}", 4)


def test_a_mistake_of_the_guard_is_logged_and_harmless(caplog):
    @events.harmless
    def wrong(number):
        if number:
            raise RuntimeError("mistake")
        return "fine"

    assert wrong(0) == "fine"
    assert wrong(1) is None
    assert "wrong failed; the project goes on" in caplog.text
    assert caplog.records[0].name == "redoubt_guard"
