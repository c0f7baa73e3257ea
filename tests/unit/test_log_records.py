"""What the log server makes of what a host has sent: docs/log-fields.md, and that no byte of it can do harm."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "roles/log_server/files/usr/local/lib/redoubt"))
from redoubt_logs import records

NOW = datetime.datetime(2026, 11, 26, 20, 44, 46, 1, datetime.UTC)
WHEN = "2026-11-26T20:44:45.123456+00:00"
READER = records.Reader("app1", "notes", "Europe/Berlin")


def kept(raw: bytes, reader: records.Reader = READER) -> dict:
    line = reader.record(raw, NOW)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and line.isascii() and len(line) <= records.LONGEST_RECORD + 1
    assert not any(byte < 32 or byte == 127 for byte in line[:-1])
    found = json.loads(line)
    assert found["host.name"] == "app1" and found["event.ingested"] == "2026-11-26T20:44:46.000001Z"
    assert {"@timestamp", "event.dataset", "log.level", "message"} <= set(found) and found["log.level"] in records.LEVELS
    datetime.datetime.strptime(found["@timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ")
    return found


def journal(message: str | list, **more: object) -> dict:
    names = {"id": "SYSLOG_IDENTIFIER", "unit": "_SYSTEMD_UNIT", "about": "UNIT", "tr": "_TRANSPORT", "pid": "_PID", "uid": "_UID"}
    entry = {"__CURSOR": f"s={'a' * 32};i=5f0d0;b={'b' * 32};m=1;t=1;x=1", "__REALTIME_TIMESTAMP": "1795725885123456", "PRIORITY": "6", "MESSAGE": message}
    return kept(json.dumps({"t": "", "j": {**entry, **{names[name]: value for name, value in more.items()}}}).encode())


def line(dataset: str, message: str) -> dict:
    return kept(json.dumps({"t": WHEN, "l": "5", "in": "imfile", "tag": dataset, "f": "/var/log/x", "m": message}).encode())


@pytest.mark.parametrize("letter", ["Ж", "漢", "😀", "\x7f", '"'])
def test_a_record_whose_text_does_not_fit_has_all_its_other_fields(letter: str) -> None:
    found = journal(letter * 40_000, id="notes-worker", unit="notes-worker.service", tr="stdout", pid="7", uid="998")
    assert (found["log.id"], found["user.id"], found["process.pid"], found["systemd.unit"]) == (f"{'a' * 32}:5f0d0", 998, 7, "notes-worker.service")
    assert found["log.truncated"] and set(found["message"]) == {letter} and len(found) == 12
    # As much as fits.
    size = len(json.dumps(letter).replace("\x7f", "\\u007f")) - 2
    assert len(found["message"]) == records.LONGEST or records.LONGEST_RECORD - 600 < len(found["message"]) * size < records.LONGEST_RECORD


def test_a_request_of_long_texts_says_who_asked_and_what_was_answered() -> None:
    long = "😀" * 2000
    found = line("nginx.access", json.dumps({"client": "203.0.113.9", "status": "500", "method": "GET", "time": WHEN, "id": "b64d", "host": long, "path": f"/{long}",
                                             "referer": long, "agent": long}))
    assert (found["source.ip"], found["http.response.status_code"], found["log.level"], found["http.request.id"]) == ("203.0.113.9", 500, "err", "b64d")
    assert found["url.path"].startswith("/😀😀") and found["message"].startswith("GET /😀😀")


@pytest.mark.parametrize(
    ("more", "dataset", "service"),
    [
        ({"id": "sshd-session", "unit": "ssh.service", "tr": "syslog"}, "sshd", "sshd-session"),
        ({"id": "sudo", "unit": "session-1.scope", "tr": "syslog"}, "sudo", "sudo"),
        ({"id": "notes", "unit": "notes@blue.service", "tr": "stdout"}, "django", "notes"),
        ({"id": "notes-worker", "unit": "notes-worker.service", "tr": "stdout"}, "app.worker", "notes-worker"),
        ({"id": "notes-security", "unit": "notes@blue.service", "tr": "journal"}, "django.security", "notes"),
        # What a project prints is no event of the guard, whatever it calls itself.
        ({"id": "notes-security", "unit": "notes@blue.service", "tr": "stdout"}, "django", "notes"),
        ({"id": "fail2ban-server", "unit": "fail2ban.service", "tr": "stdout"}, "fail2ban", "fail2ban-server"),
        ({"id": "backup", "unit": "redoubt-backup.service", "tr": "stdout"}, "backup", "backup"),
        ({"id": "certbot-renew", "unit": "certbot-renew.service", "tr": "stdout"}, "certbot", "certbot-renew"),
        ({"id": "redoubt-alert", "tr": "stdout"}, "alert", "redoubt-alert"),
        ({"id": "kernel", "tr": "kernel"}, "journal", "kernel"),
        ({"id": "cron", "unit": "cron.service", "tr": "syslog"}, "journal", "cron"),
        ({"tr": "audit"}, "audit", "kernel"),
    ],
)
def test_datasets_of_the_journal(more: dict, dataset: str, service: str) -> None:
    found = journal("text", pid="12", uid="33", **more)
    assert (found["event.dataset"], found["service.name"], found["message"]) == (dataset, service, "text")
    assert found["log.id"] == f"{'a' * 32}:5f0d0" and found["process.pid"] == 12 and found["user.id"] == 33 and found["@timestamp"] == "2026-11-26T20:44:45.123456Z"


def test_bytes_in_the_journal_and_fields_that_come_twice() -> None:
    assert journal([*b"a\0b\xff"], id=["sudo", "x"])["message"] == "a\0b\\xff"
    assert journal([[*b"\xff"], "x"], id=["sudo", "x"])["event.dataset"] == "sudo"


def test_a_unit_that_systemd_speaks_of_is_the_unit() -> None:
    assert journal("Failed.", id="systemd", unit="init.scope", about="notes@blue.service")["systemd.unit"] == "notes@blue.service"


@pytest.mark.parametrize(("more", "dataset"), [({"unit": "init.scope"}, "certbot"), ({"unit": "notes-worker.service"}, "app.worker"), ({}, "journal")])
def test_only_systemd_speaks_of_other_units(more: dict, dataset: str) -> None:
    assert journal("Finished.", id="systemd", about="certbot-renew.service", **more)["event.dataset"] == dataset


def test_an_event_of_the_guard() -> None:
    event = {"v": 1, "ip": "203.0.113.9", "event": "login_failed", "user": "alice", "target": None, "detail": None, "method": "POST", "path": "/login/", "request": "b6"}
    found = journal(json.dumps(event), id="notes-security", tr="journal", unit="notes@blue.service")
    assert {name: found.get(name) for name in ("source.ip", "event.action", "user.name", "http.request.method", "url.path", "http.request.id", "event.reason")} == {
        "source.ip": "203.0.113.9", "event.action": "login_failed", "user.name": "alice", "http.request.method": "POST", "url.path": "/login/",
        "http.request.id": "b6", "event.reason": None}


def test_a_request() -> None:
    text = {"client": "203.0.113.9", "status": "502", "limit": "PASSED", "method": "GET", "time": "2026-11-26T20:44:45+00:00", "id": "b6", "host": "notes.test",
            "path": "/a", "protocol": "HTTP/2.0", "bytes": "815", "seconds": "0.016", "upstream_seconds": "0.001, 0.015", "tls": "TLSv1.3", "at": "1795725885.123",
            "referer": "", "agent": "curl"}
    found = line("nginx.access", json.dumps(text))
    assert found["@timestamp"] == "2026-11-26T20:44:45.123000Z" and found["http.response.status_code"] == 502 and found["log.level"] == "err"
    assert (found["source.ip"], found["url.domain"], found["url.path"], found["http.version"], found["event.duration_s"], found["nginx.upstream_s"]) == (
        "203.0.113.9", "notes.test", "/a", "2.0", 0.016, 0.015)
    assert found["message"] == "GET /a 502" and "http.request.referrer" not in found


def test_bytes_that_are_no_text_hide_no_visitor() -> None:
    raw = json.dumps({"in": "imfile", "tag": "nginx.access", "m": '{"client":"203.0.113.9","status":"404","path":"/a\\\\x1b","agent":"BYTES\\"\\\\"}'}).encode()
    found = kept(raw.replace(b"BYTES", b"\xff\x9b"))
    assert (found["source.ip"], found["http.response.status_code"], found["url.path"]) == ("203.0.113.9", 404, "/a\\x1b")
    assert found["user_agent.original"] == '\\xff\\x9b"\\'


def test_an_error_of_nginx_is_in_the_zone_of_its_host() -> None:
    found = line("nginx.error", '2026/11/26 21:44:45 [error] 33#33: *5 connect() failed, client: 2001:db8::9, server: notes.test, request: "GET / HTTP/2.0"')
    assert (found["@timestamp"], found["log.level"], found["process.pid"], found["source.ip"]) == ("2026-11-26T20:44:45.000000Z", "err", 33, "2001:db8::9")


def test_no_query_string_of_nginx_errors_is_kept() -> None:
    text = '2026/11/26 21:44:45 [error] 3#3: *5 upstream failed, client: 192.0.2.1, server: x, request: "GET /reset?token=s3cret HTTP/2.0", upstream: '
    found = line("nginx.error", text + '"http://unix:/x:/reset?token=s3cret", referrer: "https://x/?key=s3cret"')
    assert "s3cret" not in json.dumps(found) and 'request: "GET /reset HTTP/2.0"' in found["message"]


def test_an_event_of_a_unit_that_is_not_the_applications_is_none() -> None:
    assert journal("{}", id="notes-security", tr="journal", unit="evil.service")["event.dataset"] == "journal"


def test_an_unknown_zone_and_a_huge_number_stop_nothing() -> None:
    kept(b'{"in":"imfile","tag":"nginx.access","m":"{\\"status\\": ' + b"9" * 400 + b'}"}', records.Reader("app1", "notes", "Nowhere/Land"))


def test_a_statement_of_postgresql() -> None:
    text = {"timestamp": "2026-11-26 20:44:45.123 UTC", "user": "notes", "dbname": "notes", "pid": 7, "error_severity": "ERROR", "state_code": "23505",
            "application_name": "psql", "message": "duplicate key", "detail": "Key exists.", "statement": "INSERT …", "backend_type": "client backend"}
    found = line("postgresql", json.dumps(text))
    assert (found["@timestamp"], found["log.level"], found["postgresql.sql_state"], found["user.name"], found["postgresql.database"]) == (
        "2026-11-26T20:44:45.123000Z", "err", "23505", "notes", "notes")
    # Neither the row nor the statement.
    assert found["message"] == "duplicate key" and not any("Key exists" in str(value) or "INSERT" in str(value) for value in found.values())
    assert line("postgresql", json.dumps({"error_severity": "LOG", "message": "duration: 701.250 ms  statement: SELECT 1"}))["event.duration_ms"] == 701.25


def test_packages_and_packets() -> None:
    found = line("packages", "2026-11-26 21:44:45 upgrade libc-bin:amd64 2.40 2.41")
    assert (found["@timestamp"], found["event.action"], found["package.name"], found["package.version"]) == ("2026-11-26T20:44:45.000000Z", "upgrade", "libc-bin", "2.41")
    found = journal("redoubt-drop: IN=eth0 SRC=203.0.113.9 DST=192.0.2.1 PROTO=TCP SPT=4 DPT=23 ", id="kernel", tr="kernel")
    assert (found["event.dataset"], found["source.ip"], found["destination.port"], found["network.transport"]) == ("firewall", "203.0.113.9", 23, "tcp")
    found = journal("redoubt-drop: IN=eth0 SRC=2001:0db8:0000:0000:0000:0000:0000:0009 DST=2001:db8::: PROTO=TCP SPT=4 DPT=23 ", id="kernel", tr="kernel")
    assert found["source.ip"] == "2001:db8::9" and "destination.ip" not in found


def test_a_line_of_the_kernels_audit() -> None:
    found = line("audit", 'type=SYSCALL msg=audit(1764189885.243:981): arch=c000003e syscall=257 success=yes auid=1000 uid=0 exe="/usr/bin/vi" key="sudoers"')
    assert (found["@timestamp"], found["event.action"], found["event.sequence"], found["audit.key"]) == ("2025-11-26T20:44:45.243000Z", "syscall", 981, "sudoers")
    # A login's lines are sshd's and sudo's words: what they have in common is who wrote them down.
    assert found["service.name"] == "auditd"
    assert line("audit", "type=BOGUS")["event.dataset"] == "audit"


def test_a_file_of_the_inventory_has_its_dataset() -> None:
    assert line("billing.jobs", "text")["event.dataset"] == "billing.jobs"
    assert line("a b\n", "text")["event.dataset"] == "journal"


def test_nobody_chooses_whose_record_it_is() -> None:
    for raw in (b'{"t":"x","m":"a","host.name":"store1"}', b'{"host.name":"store1","m":"b"}', b'{"t":"","in":"imfile","tag":"nginx.access","m":"{\\"host.name\\":\\"store1\\"}"}'):
        assert kept(raw)["host.name"] == "app1"


@pytest.mark.parametrize("text", ["a\nb\r\n\0c", "\x1b[31mred\x1b[0m", "\u2028\u202e\ufeff", "\ud800half", "x" * 65536, "\x07" * 65536, '"}{"host.name":"store1"}'])
def test_hostile_text_is_one_harmless_record(text: str) -> None:
    found = journal(text)
    assert found["message"][:100] == text[:100].replace("\ud800", "\N{REPLACEMENT CHARACTER}")
    assert found.get("log.truncated", False) == (len(text) > 40000)


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"{", b"[]", b"null", b"5", b'"x"', b'{"m":', b"[" * 100_000, b'{"m":{"a":[1]}}', b'{"m":1e999,"pid":NaN,"l":"9"}', b"1" * 5000])
def test_what_no_rsyslog_sends_is_kept_all_the_same(raw: bytes) -> None:
    kept(raw)


def test_bytes_that_are_no_text_are_shown() -> None:
    assert kept(b'{"t":"' + WHEN.encode() + b'","m":"a\xffb"}')["message"] == "a\\xffb"


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["t", "l", "in", "tag", "f", "m", "j", "MESSAGE", "PRIORITY", "__CURSOR", "__REALTIME_TIMESTAMP", "_PID", "_SYSTEMD_UNIT"]),
                       JSON | st.sampled_from(["imfile", "nginx.access", "nginx.error", "postgresql", "packages", "kernel", "notes-security", "journal", WHEN])), JSON)
def test_whatever_is_sent_is_one_record(given: dict, inner: object) -> None:
    kept(json.dumps(given).encode())
    kept(json.dumps({"t": "", "j": given}).encode())
    for dataset in records.FILES:
        line(dataset, json.dumps(inner))
        line(dataset, json.dumps(given))
    journal(json.dumps(inner), id="notes-security", tr="journal")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=500))
def test_whatever_bytes_are_sent_are_one_record(raw: bytes) -> None:
    kept(raw)
