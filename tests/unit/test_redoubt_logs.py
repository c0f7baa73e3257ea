"""redoubt-logs on a store of three days and two hosts: what it answers, what it makes of damage, and that nothing reaches a terminal as it came."""

from __future__ import annotations

import datetime
import gzip
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PROGRAM = Path(__file__).resolve().parents[2] / "roles/log_server/files/usr/local/lib/redoubt/redoubt-logs"
DAYS = ["2026-03-01", "2026-03-02", "2026-03-03"]
SPAN = ["--since", "2026-03-01T00:00Z", "--until", "2026-03-04T00:00Z"]
HOSTILE = "a\nb\0c\x1b[31mred\x1b]0;title\x07\x9b2J\u202edesrever\u2028\ud800\x7f\\x1b"


@pytest.fixture(scope="module")
def program():
    loader = importlib.machinery.SourceFileLoader("redoubt_logs", str(PROGRAM))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    sys.modules[loader.name] = module
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def record(at: str, dataset: str, message: str = "", **fields: object) -> dict:
    return {"@timestamp": at, "host.name": "whoever", "event.dataset": dataset, "service.name": dataset.split(".")[0], "log.level": "info",
            "message": message, **({"user.id": 0} if dataset in ("sshd", "fail2ban", "app.release") else {}), **{name.replace("__", "."): value for name, value in fields.items()}}


def login(at: str, ip: str, account: str, action: str = "login_failed") -> dict:
    return record(at, "django.security", "{}", source__ip=ip, event__action=action, user__name=account)


def access(at: str, path: str, status: int) -> dict:
    return record(at, "nginx.access", f"GET {path} {status}", source__ip="192.0.2.1", http__request__method="GET",
                  http__response__status_code=status, url__domain="notes.test", url__path=path, http__request__id="r1")


CORPUS = {
    "app1": {
        "2026-03-01": [
            login("2026-03-01T08:00:00.000001Z", "203.0.113.9", "alice"),
            record("2026-03-01T08:00:01.000000Z", "sshd",
                   "Connection closed by invalid user admin 203.0.113.9 port 5022 [preauth]"),
            record("2026-03-01T08:00:02.000000Z", "sshd",
                   "Connection closed by invalid user a 198.51.100.7 port 1 [preauth] 203.0.113.8 port 5022 [preauth]"),
            record("2026-03-01T08:00:03.000000Z", "sshd", "Accepted publickey for ops from 203.0.113.9 port 5022 ssh2"),
            record("2026-03-01T09:00:00.000000Z", "fail2ban", "[login] Ban 203.0.113.9"),
            record("2026-03-01T09:10:00.000000Z", "fail2ban", "NOTICE [login] Unban 203.0.113.9"),
            record("2026-03-01T09:11:00.000000Z", "fail2ban", "[login] Found 203.0.113.9 - 2026-03-01 09:11:00"),
            record("2026-03-01T09:12:00.000000Z", "sudo", "     ops : TTY=pts/0 ; PWD=/home/ops ; USER=root ; COMMAND=/usr/bin/apt update ; true"),
            record("2026-03-01T09:13:00.000000Z", "sudo", " mallory : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh"),
            record("2026-03-01T09:14:00.000000Z", "sudo", "pam_unix(sudo:session): session opened for user root(uid=0) by ops(uid=1000)"),
        ],
        "2026-03-02": [
            login("2026-03-02T08:00:00.000001Z", "203.0.113.9", "alice"),
            login("2026-03-02T08:00:00.000002Z", "203.0.113.9", "root", "login_throttled"),
            login("2026-03-02T08:00:00.000003Z", "2001:db8::1", "bob"),
            login("2026-03-02T08:00:00.000004Z", "2001:db8::1", "bob", "login_ok"),
            access("2026-03-02T10:00:00.000000Z", "/shop/", 500),
            access("2026-03-02T10:00:01.000000Z", "/shop/", 502),
            access("2026-03-02T10:00:02.000000Z", "/shop/", 200),
            access("2026-03-02T10:00:03.000000Z", "/500", 404),
        ],
        "2026-03-03": [access("2026-03-03T10:00:03.000000Z", "/other/", 504)],
    },
    "db1": {
        # The night's records were sent a day late, and not in order.
        "2026-03-02": [
            record("2026-03-01T23:59:59.500000Z", "postgresql", "duration: 900.125 ms  statement: SELECT 'alice', 17, 18 FROM note WHERE a = $tag$x$tag$",
                   user__name="notes", postgresql__database="notes"),
            record("2026-03-01T23:59:59.250000Z", "postgresql", "duration: 600.5 ms  execute <unnamed>: SELECT 'it''s', 3 FROM note WHERE a = 'y'",
                   user__name="notes", postgresql__database="notes"),
            record("2026-03-02T00:00:01.000000Z", "postgresql", "connection received: host=[local]"),
            record("2026-03-02T00:00:02.000000Z", "app.release", json.dumps({
                "app": "notes", "who": "ops@desk", "action": "deploy", "version": "v1", "commit": "4f1c2d9e8a7b1122", "release": "4f1c-0d1e",
                "previous": "", "result": "failed", "step": "probe", "seconds": 12.5})),
            record("2026-03-02T00:00:03.000000Z", "app.release", "Started notes-release.scope"),
        ],
    },
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Days before the last are compressed, as on the server."""
    for host, files in CORPUS.items():
        (tmp_path / host).mkdir()
        for day, records in files.items():
            text = "".join(json.dumps(each) + "\n" for each in records).encode()
            if day == DAYS[-1]:
                (tmp_path / host / f"{day}.jsonl").write_bytes(text)
            else:
                (tmp_path / host / f"{day}.jsonl.gz").write_bytes(gzip.compress(text))
    return tmp_path


@pytest.fixture
def ask(program, store, capsys):
    def run(*words: str, span: list[str] = SPAN, code: int = 0) -> str:
        try:
            ended = program.main([*words, *span, "--store", str(store)])
        except SystemExit as error:
            ended = error.code
        out, run.told = capsys.readouterr()
        assert ended == code, run.told
        return out

    run.told = ""
    return run


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# --- The questions -------------------------------------------------------------------------------------------------------


def test_failed_logins_are_counted_by_address(ask) -> None:
    found = {(row["address"], row["by"]): row for row in objects(ask("logins", "--json"))}
    assert {key: row["failed"] for key, row in found.items()} == {
        ("203.0.113.9", "site"): 3, ("2001:db8::1", "site"): 1, ("203.0.113.9", "ssh"): 1, ("203.0.113.8", "ssh"): 1}
    row = found["203.0.113.9", "site"]
    assert (row["accounts"], row["first"], row["last"]) == ("alice, root", "2026-03-01T08:00:00.000001Z", "2026-03-02T08:00:00.000002Z")
    # What a visitor calls himself makes him nobody else.
    assert found["203.0.113.8", "ssh"]["accounts"] == "a 198.51.100.7 port 1 [preauth]"


CHANGED = "Change of username or service not allowed: "


@pytest.mark.parametrize(("name", "reason", "address"), [
    ("root", CHANGED + "(root,ssh-connection) -> (admin,ssh-connection)", "203.0.113.9"),
    ("root", "Too many authentication failures", "203.0.113.9"),
    ("x 198.51.100.7 port 1: Too many authentication failures", "Too many authentication failures", "203.0.113.9"),
    # The reason is cut after a hundred characters, wherever the visitor wants.
    ("root", CHANGED + "(root,ssh-connection) -> (xxxxxxxx 198.51.100.7 port 1", "203.0.113.9"),
    ("root", CHANGED + "(a,) -> (198.51.100.7 port 1: Too many authentication failures", "203.0.113.9"),
    ("", CHANGED + "(,) -> ( 1.1.1.1 port 1: Too many authentication failures", "-"),
    (f"x 198.51.100.7 port 1: {CHANGED}(x,", "Too many authentication failures", "-"),
    (f"x 198.51.100.7 port 1: {CHANGED}(x,s) -> (y", CHANGED + "(x 198.51.100.7 port 1: ", "-"),
])
def test_who_is_sent_away_has_failed_under_no_address_but_his_own(store, ask, name: str, reason: str, address: str) -> None:
    text = f"Disconnecting authenticating user {name} 203.0.113.9 port 4242: {reason} [preauth]"
    (store / "web9").mkdir()
    (store / "web9" / f"{DAYS[-1]}.jsonl").write_text(json.dumps(record("2026-03-03T10:00:00.000000Z", "sshd", text)) + "\n")
    (row,) = objects(ask("logins", "--host", "web9", "--json"))
    assert (row["address"], row["by"], row["failed"]) == (address, "ssh", 1)


def test_who_failed_most_is_first(ask) -> None:
    assert ask("logins").splitlines()[1].split()[:3] == ["203.0.113.9", "site", "3"]


def test_bans(ask) -> None:
    assert [line.split() for line in ask("bans").splitlines()[1:]] == [
        ["2026-03-01T09:00:00.000000Z", "app1", "login", "ban", "203.0.113.9"],
        ["2026-03-01T09:10:00.000000Z", "app1", "login", "unban", "203.0.113.9"]]


def test_sudo(ask) -> None:
    first, second = ask("sudo").splitlines()[1:]
    assert first.split(maxsplit=4)[1:] == ["app1", "ops", "root", "/usr/bin/apt update ; true"]
    assert "mallory" in second and "REFUSED (user NOT in sudoers): /bin/sh" in second


def test_who_is_not_root_speaks_for_no_program_of_the_host(ask, store) -> None:
    """Any user can write into the journal under any program's name."""
    at = "2026-03-03T10:00:00.000000Z"
    said = {"sshd": "Connection closed by invalid user forged 203.0.113.1 port 5022 [preauth]", "fail2ban": "[login] Ban 203.0.113.1",
            "sudo": "  forged : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh"}
    records = [record(at, dataset, text, user__id=1005, process__executable="/home/forger/x") for dataset, text in said.items()]
    unknown = [{name: value for name, value in record(at, dataset, text).items() if name != "user.id"} for dataset, text in said.items() if dataset != "sudo"]
    (store / "web9").mkdir()
    (store / "web9" / f"{DAYS[-1]}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records + unknown))
    for question in ("logins", "bans", "sudo"):
        assert "forged" not in ask(question, "--host", "web9") and "203.0.113.1" not in ask(question, "--host", "web9"), question
    true = record(at, "sudo", said["sudo"], user__id=1000, process__executable="/usr/bin/sudo")
    (store / "web9" / f"{DAYS[-1]}.jsonl").write_text(json.dumps(true) + "\n")
    assert "forged" in ask("sudo", "--host", "web9")


def test_errors_are_counted_by_path(ask) -> None:
    assert [(row["path"], row["errors"], row["statuses"]) for row in objects(ask("errors", "--json"))] == [("/shop/", 2, "500, 502"), ("/other/", 1, "504")]


def test_slow_statements_are_counted_by_form_and_without_values(ask) -> None:
    text = ask("slow", "--json")
    (row,) = objects(text)
    assert row["statement"] == "SELECT ?, … FROM note WHERE a = ?"
    assert (row["times"], row["longest ms"], row["total ms"], row["databases"]) == (2, 900, 1501, "notes")
    assert "alice" not in text and "it" not in row["statement"]


def test_a_value_without_an_end_is_not_shown_and_costs_no_more(program) -> None:
    slow = program.Slow(None)

    def shape(statement: str) -> str:
        return slow.row(record("2026-03-01T08:00:00Z", "postgresql", f"duration: 1.0 ms  statement: {statement}"))[-1]

    assert shape("SELECT $a$ secret $b$ it is") == "SELECT ?"
    assert shape("SELECT $1, 'secret") == "SELECT $?, …"
    # A backslash means something where the value says so, and only there.
    assert shape(r"SELECT 'C:\', 'secret'") == shape(r"SELECT E'\'', 'secret'") == "SELECT ?, …"
    began = time.process_time()
    for statement in (" ".join(f"$q{number}$" for number in range(4000)), "$a" * 15000, "'" * 32000, "1" * 32000, "$$" * 16000, "1.1" * 10000):
        assert len(shape(statement)) <= 400
    assert time.process_time() - began < 0.5


def test_deploys(ask) -> None:
    (line,) = ask("deploys").splitlines()[1:]
    assert line.split() == ["2026-03-02T00:00:02.000000Z", "db1", "notes", "ops@desk", "deploy", "v1", "4f1c2d9e8a7b", "failed", "at", "probe", "12.5"]


@pytest.mark.parametrize(("words", "count"), [
    (["--dataset", "sudo"], 3), (["--text", "Accepted publickey"], 1), (["--text", "/shop/"], 3), (["--level", "warning"], 0), (["--level", "info"], 24),
    (["--host", "db1"], 5), (["--host", "db1", "--host", "app1"], 24), (["--dataset", "postgresql", "--text", "alice"], 1)])
def test_records_by_kind_level_and_text(ask, words: list[str], count: int) -> None:
    assert len(objects(ask("show", "--json", *words))) == count


def test_records_of_all_hosts_are_in_the_order_of_their_time(ask) -> None:
    times = [each["@timestamp"] for each in objects(ask("show", "--json"))]
    assert len(times) == 24
    assert times == sorted(times)


def test_another_users_words_are_no_programs(store, ask) -> None:
    forged = [record("2026-03-03T11:00:00.000000Z", "fail2ban", "[login] Ban 203.0.113.99", user__id=1000),
              record("2026-03-03T11:00:00.000000Z", "sshd", "Connection closed by invalid user x 203.0.113.99 port 1 [preauth]", user__id=33),
              record("2026-03-03T11:00:00.000000Z", "app.release", json.dumps(dict.fromkeys(
                  ["app", "who", "action", "version", "commit", "result", "seconds"], "203.0.113.99")), user__id=33)]
    with (store / "app1/2026-03-03.jsonl").open("a") as sink:
        sink.writelines(json.dumps(each) + "\n" for each in forged)
    assert not any("203.0.113.99" in ask(question) for question in ("bans", "logins", "deploys"))
    assert ask("show").count("203.0.113.99") >= 3


def test_a_record_is_its_senders(ask) -> None:
    assert {each["host.name"] for each in objects(ask("show", "--json"))} == {"app1", "db1"}


@pytest.mark.parametrize(("since", "until", "count"), [
    ("2026-03-02T10:00:01Z", "2026-03-02T10:00:02Z", 2), ("2026-03-02T11:00:01+01:00", "2026-03-02T11:00:01+01:00", 1),
    ("2026-03-01T23:59:59.25Z", "2026-03-01T23:59:59.3Z", 1), ("2026-03-01T23:59:59.250001Z", "2026-03-01T23:59:59.3Z", 0)])
def test_a_span_has_both_ends(ask, since: str, until: str, count: int) -> None:
    assert len(objects(ask("show", "--json", span=["--since", since, "--until", until]))) == count


def test_what_came_late_is_looked_for_as_long_as_is_said(ask) -> None:
    span = ["--since", "2026-03-01T23:00Z", "--until", "2026-03-01T23:59:59.9Z"]
    assert len(objects(ask("show", "--json", span=span))) == 2
    assert ask("show", "--json", "--late", "0", span=span) == ""


def test_ago_is_from_now(program) -> None:
    for text, seconds in {"90s": 90, "5m": 300, "2h": 7200, "3d": 259200, "1w": 604800}.items():
        asked = program.moment(text)
        ago = datetime.datetime.now(datetime.UTC) - asked
        assert seconds <= ago.total_seconds() < seconds + 5


def test_more_than_memory_should_hold_is_in_order_too(program, store, ask, monkeypatch) -> None:
    shuffled = [record(f"2026-03-03T11:{n // 60:02}:{n % 60:02}.000000Z", "django", str(n)) for n in range(3000)]
    random.Random(1).shuffle(shuffled)
    (store / "app1/2026-03-03.jsonl").write_text("".join(json.dumps(each) + "\n" for each in shuffled))
    monkeypatch.setattr(program, "HELD", 20_000)
    found = [int(each["message"]) for each in objects(ask("show", "--json", "--dataset", "django"))]
    assert found == list(range(3000))


def test_records_of_one_moment_stay_as_they_came(store, ask) -> None:
    at = "2026-03-03T11:00:00.000000Z"
    (store / "app1/2026-03-03.jsonl").write_text("".join(json.dumps(record(at, "django", text)) + "\n" for text in ("z", "a", "m")))
    assert [each["message"] for each in objects(ask("show", "--json", "--dataset", "django"))] == ["z", "a", "m"]


# --- Damage --------------------------------------------------------------------------------------------------------------


def test_damaged_lines_are_left_out_and_counted(store, ask) -> None:
    good = json.dumps(access("2026-03-03T10:00:04.000000Z", "/other/", 504)).encode()
    status = b'"http.response.status_code": 500'
    with (store / "app1/2026-03-03.jsonl").open("ab") as sink:
        sink.write(b'{"@timestamp": "2026-03-03T10:00:00.1\n' + b"\0" * 64 + good + b"\n" + b"not json\n" + b"{%s}\n[{%s}]\n" % (status, status)
                   + b'{"@timestamp": 5, %s}\n' % status + b'{"a":' * 5000 + b"{%s}" % status + b"}" * 5000 + b"\n"
                   + good.replace(b"GET", b"\xff\xfe") + b"\n" + good[:40])
    (row,) = [row for row in objects(ask("errors", "--json")) if row["path"] == "/other/"]
    assert row["errors"] == 3
    assert "7 damaged lines were left out (app1/2026-03-03.jsonl: 7)" in ask.told


def test_a_line_without_end_costs_a_block_of_memory(program, store, ask, monkeypatch) -> None:
    monkeypatch.setattr(program, "BLOCK", 4096)
    good = json.dumps(access("2026-03-03T10:00:04.000000Z", "/other/", 504)).encode()
    (store / "app1/2026-03-03.jsonl").write_bytes(good + b"\n" + b'{"a": "' + b"x" * 100_000 + b'"}\n' + good + b"\n")
    (row,) = [row for row in objects(ask("errors", "--json")) if row["path"] == "/other/"]
    assert row["errors"] == 2
    assert "1 damaged line was left out" in ask.told


def test_a_day_whose_end_is_missing_is_told_as_far_as_it_goes(store, ask) -> None:
    path = store / "app1/2026-03-02.jsonl.gz"
    with gzip.open(path, "wb") as sink:
        for number in range(5000):
            sink.write(json.dumps(access("2026-03-02T10:00:00.000000Z", f"/{random.Random(number).random()}", 200)).encode() + b"\n")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert 1000 < len(objects(ask("show", "--json", "--dataset", "nginx.access"))) < 4000
    assert "app1/2026-03-02.jsonl.gz could not be read to its end (it is cut off)" in ask.told
    path.write_bytes(whole[:20000] + b"\xff" * 100 + whole[20100:])
    assert ask("show", "--json", "--dataset", "nginx.access")
    assert "could not be read to its end" in ask.told


def test_a_day_that_was_compressed_in_pieces_is_read_whole(store, ask) -> None:
    path = store / "app1/2026-03-02.jsonl.gz"
    path.write_bytes(path.read_bytes() * 3)
    assert len(objects(ask("show", "--json", "--dataset", "nginx.access"))) == 13
    assert ask.told == ""


@pytest.mark.parametrize("last", [False, True])
def test_while_a_day_is_compressed_it_is_read_once(store, ask, monkeypatch, last: bool) -> None:
    """Whichever of its two forms the folder names first."""
    monkeypatch.setattr(Path, "iterdir", lambda folder: (folder / name for name in sorted(os.listdir(folder), reverse=last)))
    (store / "app1/2026-03-03.jsonl.gz").write_bytes(b"\x1f\x8b\x08half")
    assert len(objects(ask("errors", "--json"))) == 2
    assert ask.told == ""


def test_a_day_that_is_compressed_just_now_is_found(program, store, ask, monkeypatch) -> None:
    days = program.days

    def compress_then(folder, *span):
        found = days(folder, *span)
        for path in folder.glob("*.jsonl"):
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        return found

    monkeypatch.setattr(program, "days", compress_then)
    assert len(objects(ask("errors", "--json"))) == 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_costs_what_it_touches(program, tmp_path_factory, data) -> None:
    """However bytes are overwritten or cut, every whole line is told and each other is counted."""
    folder = tmp_path_factory.mktemp("store") / "app1"
    folder.mkdir()
    path = folder / "2026-03-03.jsonl"
    good = [json.dumps(record(f"2026-03-03T10:00:{n:02}.000000Z", "django", f"message {n}")).encode() for n in range(20)]
    text = bytearray(b"".join(line + b"\n" for line in good))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at:at + data.draw(st.integers(0, 300))] = data.draw(st.binary(max_size=40))
    path.write_bytes(bytes(text))
    damage = program.Damage()
    wanted = program.Filter((b'"django"',), lambda _: True, "", "9")
    found = [line for line in program.lines(path, wanted.needles, None, damage) if wanted.found(path, "app1", line, damage)]
    there = [line for line in bytes(text).split(b"\n") if line]
    assert [line for line in found if line in good] == [line for line in there if line in good]
    lost = [line for line in there if program.parse(line) is None and (b'"django"' in line or not program.entire(line))]
    assert sum(damage.lines.values()) == len(lost)


# --- What reaches a terminal ---------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec=None)) | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_value_has_anything_for_a_terminal_to_obey(program, value) -> None:
    shown = program.harmless(value)
    assert shown.isprintable() and "\n" not in shown
    assert all(" " <= each <= "~" for each in program.as_json(value))


def test_hostile_values_are_shown_harmless_by_every_question(store, ask) -> None:
    at = "2026-03-03T12:00:00.000000Z"
    # A dataset and a form for each question, with the same in every place that somebody else chooses.
    hostile = [
        login(at, HOSTILE, HOSTILE),
        record(at, "sshd", f"Connection closed by invalid user {HOSTILE.replace(chr(10), '')} 203.0.113.9 port 1 [preauth]"),
        record(at, "fail2ban", f"[login] Ban 203.0.113.77 {HOSTILE}"),
        record(at, "sudo", f"{HOSTILE} : TTY=x ; PWD=/ ; USER=root ; COMMAND={HOSTILE}"),
        {**access(at, HOSTILE, 500), "url.domain": HOSTILE, "http.request.method": HOSTILE, "http.request.id": {HOSTILE: HOSTILE}},
        record(at, "postgresql", f"duration: 1.0 ms  statement: SELECT {HOSTILE}", user__name=HOSTILE, postgresql__database=[HOSTILE]),
        record(at, "app.release", json.dumps(dict.fromkeys(["app", "who", "action", "version", "commit", "result", "seconds"], HOSTILE))),
        {**record(at, "django", HOSTILE), "service.name": HOSTILE, "log.level": HOSTILE, HOSTILE: HOSTILE},
    ]
    with (store / "app1/2026-03-03.jsonl").open("a") as sink:
        sink.writelines(json.dumps(each) + "\n" for each in hostile)
    for question in ("logins", "bans", "sudo", "errors", "slow", "deploys", "show"):
        for form in ([], ["--json"]):
            text = ask(question, *form)
            assert all(each == "\n" or each.isprintable() for each in text), question
            assert "red" in text or question == "bans"
        assert ask.told == ""
    # One line each, however many are in it.
    assert len(ask("show").splitlines()) == 1 + 24 + len(hostile)


def test_damaged_names_and_mistakes_are_told_harmless(store, ask) -> None:
    (store / "evil\x1b[31m").mkdir()
    assert ask("show", "--host", "\x1b[31m", code=2) == ""
    assert ask.told.count("\n") == 1 and "\x1b" not in ask.told


# --- Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "sentence"), [
    (["--host", "app9"], "no host 'app9' has sent anything; there are: app1, db1"),
    (["--host", "../app1"], "no host '../app1' has sent anything; there are: app1, db1"),
    (["--since", "yesterday"], "argument --since: 'yesterday' is no time: write 90m, 2h or 3d for so long ago"),
    (["--since", "2026-03-01T10:00"], "argument --since: '2026-03-01T10:00' has no zone: write it like 2026-03-01T20:00Z"),
    (["--since", "9" * 30 + "d"], "is no time"),
    (["--since", "0001-01-01T00:00+14:00"], "is no time"),
    (["--since", "1h", "--until", "2h"], "--since is after --until"),
    (["--level", "loud"], "argument --level: 'loud' is no level; there are, worst first: emerg, alert"),
    (["--follow", "--until", "1h"], "--follow has no end"),
    (["--to", "/nowhere/file"], "/nowhere/file cannot be made: No such file or directory"),
])
def test_bad_input_is_told_in_one_sentence(ask, words: list[str], sentence: str) -> None:
    assert ask("show", *words, span=[], code=2) == ""
    assert ask.told.startswith("redoubt-logs: ") and sentence in ask.told
    assert ask.told.count("\n") == 1


def test_what_a_file_system_of_its_own_has_beside_the_hosts_is_no_host(store, ask, monkeypatch) -> None:
    (store / "lost+found").mkdir()
    listed = Path.iterdir

    def iterdir(folder):
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert len(objects(ask("show", "--json"))) == 24


def test_a_host_that_keeps_no_logs_says_who_does(program, tmp_path, capsys) -> None:
    assert program.main(["show", "--store", str(tmp_path / "none")]) == 2
    assert "logs are kept on the host in the group logs" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["span.jsonl", "span.jsonl.gz"])
def test_a_file_is_the_callers_alone_and_never_another(ask, tmp_path, name: str) -> None:
    path = tmp_path / name
    assert ask("show", "--json", "--to", str(path)) == ""
    text = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert len(objects(text.decode())) == 24
    assert path.stat().st_mode & 0o777 == 0o600
    ask("show", "--json", "--to", str(path), code=2)
    assert "exists" in ask.told


def test_who_has_seen_enough_ends_it_without_a_word(store) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, PROGRAM, "show", *SPAN, "--store", store], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_who_imports_it_does_not_end_with_a_pipe(ask) -> None:
    ask("show")
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN


# --- Follow --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def follower(store):
    running, timers = [], []

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-u", str(PROGRAM), *words, "--follow", "--json", "--store", str(store)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        # What is never told ends the test, instead of being waited for.
        timers.append(threading.Timer(45, running[-1].kill))
        timers[-1].start()
        return running[-1]

    yield start
    for timer in timers:
        timer.cancel()
    for process in running:
        process.kill()
        process.communicate()


def append(path: Path, text: str) -> None:
    with path.open("a") as sink:
        sink.write(text)


def written(number: int) -> str:
    return json.dumps(record(f"2026-03-03T13:00:{number:02}.000000Z", "django", f"new {number}")) + "\n"


def test_follow_goes_on_over_the_end_of_a_day_and_with_a_new_host(store, follower) -> None:
    process = follower("show", "--dataset", "django", "--since", "2026-03-03T00:00Z")
    day = store / "app1/2026-03-03.jsonl"
    append(store / "db1/2026-03-03.jsonl", "")
    told = []

    def until(count: int) -> list[str]:
        while len(told) < count:
            told.append(json.loads(process.stdout.readline())["message"])
        return told

    # What the program has not begun to follow yet, it tells as past.
    append(day, written(1))
    assert until(1) == ["new 1"]
    # Half a line waits for its other half.
    append(day, written(2)[:30])
    time.sleep(1.2)
    append(day, written(2)[30:] + written(3))
    assert until(3)[1:] == ["new 2", "new 3"]
    # The last of the day, the first of the next, and the day compressed.
    append(day, written(4))
    append(store / "app1/2026-03-04.jsonl", written(5))
    (store / "app1/2026-03-03.jsonl.gz").write_bytes(gzip.compress(day.read_bytes()))
    day.unlink()
    assert until(5)[3:] == ["new 4", "new 5"]
    (store / "app2").mkdir()
    append(store / "app2/2026-03-04.jsonl", written(6))
    assert until(6)[5:] == ["new 6"]
    append(store / "db1/2026-03-04.jsonl", "damaged\n" + written(7))
    assert until(7)[6:] == ["new 7"]


def test_follow_alone_tells_nothing_of_the_past(store, follower) -> None:
    process = follower("show")
    time.sleep(1.5)
    append(store / "app1/2026-03-03.jsonl", written(1))
    assert json.loads(process.stdout.readline())["message"] == "new 1"


def test_half_a_line_that_is_taken_away_makes_nobody_tell_the_day_again(program, tmp_path) -> None:
    """As the server does when it was killed in the middle of one."""
    day = tmp_path / "2026-03-03.jsonl"
    tail = program.Tail(tmp_path, from_start=True)
    append(day, "one\ntw")
    assert [line for _, line in tail.read()] == [b"one"]
    os.truncate(day, 4)
    assert list(tail.read()) == []
    append(day, "two\n")
    assert [line for _, line in tail.read()] == [b"two"]


def test_follow_goes_on_when_a_clock_was_ahead(store, follower) -> None:
    append(store / "app1/2027-05-01.jsonl", written(1))
    process = follower("show", "--dataset", "django", "--since", "2026-03-03T00:00Z")
    assert json.loads(process.stdout.readline())["message"] == "new 1"
    time.sleep(1.2)
    for day, number in (("2026-03-03", 2), ("2027-05-01", 3), ("2026-03-04", 4)):
        append(store / f"app1/{day}.jsonl", written(number))
        assert json.loads(process.stdout.readline())["message"] == f"new {number}"


def test_who_has_seen_enough_sees_no_traceback(store, follower) -> None:
    process = follower("show", "--since", "2026-03-01T00:00Z")
    process.stdout.readline()
    process.stdout.close()
    append(store / "app1/2026-03-03.jsonl", written(1) * 2000)
    process.wait(timeout=20)
    assert process.stderr.read() == ""


def test_the_program_needs_nothing_but_python() -> None:
    done = subprocess.run([sys.executable, "-SI", str(PROGRAM), "--help"], capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "150"})
    for question in ("logins", "bans", "sudo", "errors", "slow", "deploys", "show"):
        assert f"redoubt-logs {question} " in done.stdout
