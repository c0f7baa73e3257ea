"""From what happens on a host to the answer on the log server: how soon, and whatever the bytes."""

from __future__ import annotations

import base64
import concurrent.futures
import datetime
import json
import math
import re
import secrets
import shlex
import time

import logged
import pytest
from login import at_site

# Waits on the log server until a question is answered, and says when that was. The hosts of a lab have this machine's clock.
WAIT = """
import json, subprocess, sys, time
deadline, words = time.time() + float(sys.argv[1]), sys.argv[2:]
while True:
    done = subprocess.run(["redoubt-logs", *words], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if lines or time.time() > deadline or done.returncode:
        print(json.dumps({"at": time.time(), "lines": lines, "told": done.stderr}))
        break
"""
# Sends one entry to the journal in its own protocol: any bytes, as nobody else can.
SEND = """
import base64, socket, struct, sys
text = base64.b64decode(sys.stdin.read())
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
    journal.sendto(b"PRIORITY=6\\nSYSLOG_IDENTIFIER=drill\\nMESSAGE\\n" + struct.pack("<Q", len(text)) + text + b"\\n", "/run/systemd/journal/socket")
"""
HOSTILE = {
    "newlines": b"a\nb\r\n{\"host.name\": \"another\"}\n",
    "NUL": b"a\0b\0",
    "ANSI escapes": b"\x1b[2J\x1b[31mred\x1b]0;title\x07\x9b2J",
    "invalid UTF-8": b"\xff\xfe\xc3( \xed\xa0\x80 \xf4\x90\x80\x80",
    "separators": "\u2028\u202ereversed\u200b".encode(),
    "64 kB": b"x" * 65000,
    "64 kB of escapes": b"\x1b" * 65000,
}


class Answers:
    """The log server's answers, and what happens on the site's hosts."""

    def __init__(self, lab) -> None:
        self.lab, self.web, self.server = lab, lab.host(lab.web), lab.host(lab.groups["logs"][0])
        self.site = f"https://{lab.vars(lab.web)['app_domains'][0]}"

    def wait(self, *words: str, seconds: float = 60, since: str = "10m") -> tuple[list[dict], float]:
        """The lines of an answer as objects, as soon as there are any, and when that was."""
        answer = json.loads(self.server.check_output(f"python3 -c {shlex.quote(WAIT)} {seconds} {shlex.join([*words, '--json', '--since', since])}"))
        assert answer["lines"], (words, answer["told"], self.web.run("journalctl -u rsyslog -u redoubt-logs-send --no-pager -n 5").stdout)
        return [json.loads(line) for line in answer["lines"]], answer["at"]

    def stored(self, mark: str, dataset: str) -> list[str]:
        """Lines of the store, as they are. What these tests ask is in the log too, as what an administrator ran."""
        lines = self.server.check_output("grep -h %s /var/log/redoubt/*/*.jsonl", mark).splitlines()
        return [line for line in lines if f'"event.dataset": "{dataset}"' in line]


@pytest.fixture(scope="module")
def answers(lab):
    if not lab.groups.get("logs"):
        pytest.skip("no host of this inventory receives logs")
    found = Answers(lab)
    done = lab.playbook("playbooks/logs.yml", "--extra-vars", "since=1s to=span.jsonl", "--check")
    assert done.returncode == 0
    return found


@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_a_failed_login_is_answered_for(answers, browse, lab, table, count: int) -> None:
    if lab.vars(lab.web).get("app_guard", "enforce") != "enforce":
        pytest.skip("the inventory does not enforce the guard")
    latencies, stored = [], []
    for _ in range(count):
        # A name of its own each time: guesses at one account are slowed. An address may send a login a second.
        began = datetime.datetime.now(datetime.UTC)
        # Who looks is on the log server already, and asks again and again: to log in there is no part of it.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            looking = pool.submit(answers.wait, "show", "--dataset", "django.security", "--text", "login_failed", since=began.isoformat())
            response = at_site(browse(lab.web), answers.site, f"drill-{secrets.token_hex(6)}", "wrong")
            sent = time.time()
            (record,), answered = looking.result()
        assert record["http.request.id"] == response.headers["X-Request-ID"]
        assert (record["event.action"], record["host.name"]) == ("login_failed", lab.web)
        assert re.fullmatch(r"[0-9a-f.:]+", record["source.ip"])
        latencies.append(answered - sent)
        stored.append(datetime.datetime.fromisoformat(record["event.ingested"]).timestamp() - sent)
        time.sleep(max(0, began.timestamp() + 1.1 - time.time()))
    (row, *_), _ = answers.wait("logins", "--host", lab.web)
    assert row["by"] == "site" and row["failed"] >= count
    # In how many seconds so many percent were at the log server, and were answered for by a question that was begun anew each time.
    shares = {kind: {percent: round(sorted(seconds)[math.ceil(count * percent / 100) - 1], 2) for percent in (50, 90, 99, 100)}
              for kind, seconds in (("there", stored), ("answered for", latencies))}
    for kind, seconds in shares.items():
        table("logs_latency", {"failed logins": count, "until": kind, **{f"{percent} % within s": value for percent, value in seconds.items()}})
    if count == 100:
        assert shares["answered for"][99] < 2


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_bytes_are_one_harmless_record(answers, name: str) -> None:
    mark = secrets.token_hex(12)
    text = base64.b64encode(f"{mark} ".encode() + HOSTILE[name]).decode()
    answers.web.check_output(f"printf %s {text} | python3 -c {shlex.quote(SEND)}")
    (record,), _ = answers.wait("show", "--dataset", "journal", "--text", mark)
    assert (record["host.name"], record["service.name"]) == (answers.lab.web, "drill")
    (line,) = answers.stored(mark, "journal")
    # A terminal that shows the store itself, and whoever reads it line by line, meet nothing to obey.
    assert line.isascii() and line.isprintable() and len(line) <= 1 << 16
    shown = answers.server.check_output(f"redoubt-logs show --since 10m --dataset journal --text {mark}").splitlines()
    assert len(shown) == 2 and all(each.isprintable() for each in shown)
    kept = record["message"].removeprefix(f"{mark} ")
    if name in ("newlines", "ANSI escapes"):
        # Nothing of it is lost: an investigator wants to see what was tried.
        assert ("\n" if name == "newlines" else "\x1b[2J\x1b[31mred") in kept
    if name == "64 kB":
        assert record["log.truncated"] and set(kept) == {"x"} and len(kept) > 30_000


def test_what_a_visitor_sends_is_harmless(answers, https) -> None:
    mark = secrets.token_hex(12)
    agent = f"{mark} \x1b[2J".encode() + b"\x9b\xff\xfe\"}\\"
    https.get(f"{answers.site}/%1b[31m{mark}%0a%ff%c2%9b", headers={"User-Agent": agent}, timeout=20)
    (record, *more), _ = answers.wait("show", "--dataset", "nginx.access", "--text", mark)
    assert not more and record["url.path"].isprintable()
    shown = answers.server.check_output(f"redoubt-logs show --since 10m --text {mark}")
    assert all(each.isprintable() for each in shown.splitlines())
    assert all(line.isascii() and line.isprintable() for line in answers.stored(mark, "nginx.access"))


@pytest.mark.once
def test_a_traceback_is_one_record_and_an_error_of_the_site_is_counted(answers, lab, browse) -> None:
    """The database goes away for a moment: the longest tracebacks that Django has."""
    db = lab.host(lab.groups["db"][0])
    unit = db.check_output("systemctl list-units --plain --no-legend 'postgresql@*' | cut -d' ' -f1")
    # A form with a token of before, so that the answer has to ask the database.
    browser = browse(lab.web)
    page = browser.get(f"{answers.site}/accounts/login/", timeout=20).text
    data = {"username": "admin", "password": "x", "csrfmiddlewaretoken": re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]}
    began = db.check_output("date -u +%FT%T")
    db.check_output("systemctl stop %s", unit)
    try:
        response = browser.post(f"{answers.site}/accounts/login/", data=data, headers={"Referer": f"{answers.site}/accounts/login/"}, timeout=30)
    finally:
        db.check_output("systemctl start %s", unit)
    assert response.status_code == 500
    records, _ = answers.wait("show", "--dataset", "django", "--text", "Traceback (most recent call last)", "--level", "err")
    whole = [each["message"] for each in records if "OperationalError" in each["message"]]
    assert whole
    message = max(whole, key=len)
    assert len(message) > 4000 and message.count("\n") > 40
    # Its other lines are no records of their own.
    lines = [json.loads(line)["message"] for line in answers.stored("dj_exc_value", "django") if json.loads(line)["@timestamp"] >= began]
    assert lines and all(text.count("\n") > 40 for text in lines)
    request = response.headers["X-Request-ID"]
    answers.wait("show", "--dataset", "nginx.access", "--text", request)
    counted, _ = answers.wait("errors", "--host", lab.web)
    assert any(row["path"] == "/accounts/login/" and "500" in row["statuses"] for row in counted)


# --- Each kind arrives as what it is -------------------------------------------------------------------------------------


def test_bans_arrive(answers) -> None:
    address = f"203.0.113.{secrets.randbelow(250) + 1}"
    answers.web.check_output("fail2ban-client set sshd banip %s", address)
    answers.web.check_output("fail2ban-client set sshd unbanip %s", address)
    answers.wait("show", "--dataset", "fail2ban", "--text", f"Unban {address}")
    rows, _ = answers.wait("bans")
    assert [f"Ban {address}" in row["message"] for row in rows if address in row["message"]] == [True, False]


def test_sudo_and_sshd_arrive(answers, lab) -> None:
    mark = secrets.token_hex(8)
    lab.host(lab.web, sudo=False).check_output(f"sudo /usr/bin/test {mark} = {mark}")
    # Of this host: the question itself is asked with sudo, on the log server.
    rows, _ = answers.wait("show", "--dataset", "sudo", "--host", lab.web, "--text", mark)
    assert "COMMAND=/usr/bin/test" in rows[0]["message"]
    assert any(mark in row["message"] for row in answers.wait("sudo", "--host", lab.web)[0])
    answers.wait("show", "--dataset", "sshd", "--host", lab.web)


def test_packages_arrive(answers) -> None:
    answers.web.check_output("apt-get -q -y --no-install-recommends install hello >/dev/null 2>&1 && apt-get -q -y purge hello >/dev/null 2>&1")
    rows, _ = answers.wait("show", "--dataset", "packages", "--text", "hello")
    assert {"install"} <= {row.get("event.action") for row in rows if row.get("package.name") == "hello"}


@pytest.mark.once
def test_deploys_arrive(answers, lab) -> None:
    """One that fails at its first step, for want of the commit."""
    name, mark = lab.vars(lab.web)["app_name"], f"drill-{secrets.token_hex(4)}"
    done = answers.web.run(f"/usr/local/lib/redoubt/release --who={mark} --token={mark} /etc/{name}/release.json build {mark} {'0' * 40}")
    answers.web.check_output(f"rm -rf /srv/{name}/releases/{mark} /var/lib/redoubt/{name}/releases/{mark}")
    assert done.rc == 1, done.stdout + done.stderr
    answers.wait("show", "--dataset", "app.release", "--text", mark)
    said = [json.loads(row["message"]) for row in answers.wait("deploys")[0] if mark in row["message"]]
    assert [(each["who"], each["app"], each["result"], each["step"]) for each in said] == [(mark, name, "failed", "fetch")]


def test_an_administrators_statement_arrives_without_its_text(answers, lab) -> None:
    role, password = f"drill_{secrets.token_hex(4)}", f"hunter{secrets.token_hex(8)}"
    logged.statements(lab, lab.groups["db"][0], role, password)
    rows, _ = answers.wait("show", "--dataset", "postgresql", "--text", "ROLE,DROP ROLE")
    assert rows[-1]["user.name"] == "postgres" and rows[-1]["postgresql.database"] == "postgres"
    told = [row["message"] for row in answers.wait("show", "--dataset", "postgresql", "--text", "AUDIT: SESSION")[0]]
    assert any("ROLE,CREATE ROLE" in text for text in told) and any("ROLE,ALTER ROLE" in text for text in told)
    failed, _ = answers.wait("show", "--dataset", "postgresql", "--level", "err", "--text", role)
    assert "already exists" in failed[0]["message"] and failed[0]["postgresql.sql_state"] == "42710"
    for name in {lab.groups["db"][0], lab.groups["logs"][0]}:
        assert logged.search(lab, name, {"password": password})["found"] == {}


def test_a_slow_statement_of_the_application_arrives(answers, lab) -> None:
    name = lab.vars(lab.web)["app_name"]
    mark = f"drill_{secrets.token_hex(4)}"
    script = f"from django.db import connection as c; k = c.cursor(); k.execute('SELECT pg_sleep(0.8) AS {mark}')"
    answers.web.check_output(f"/usr/local/sbin/{name}-manage shell -c \"{script}\"")
    rows, _ = answers.wait("show", "--dataset", "postgresql", "--text", mark)
    assert rows[0]["event.duration_ms"] > 700
    found = [row for row in answers.wait("slow")[0] if mark in row["statement"]]
    assert found[0]["times"] == 1 and "0.8" not in found[0]["statement"]


@pytest.mark.once
def test_certificates_backups_and_alerts_arrive(answers, lab) -> None:
    answers.web.check_output("systemctl start certbot-renew.service")
    answers.wait("show", "--dataset", "certbot")
    if lab.groups.get("backups"):
        answers.web.run("systemctl start redoubt-backup-check.service")
        answers.wait("show", "--dataset", "backup", "--host", lab.web)
    mark = secrets.token_hex(8)
    answers.web.check_output(f"/usr/local/lib/redoubt/alert drill {mark}")
    (record, *_), _ = answers.wait("show", "--dataset", "alert", "--level", "crit", "--text", mark)
    assert record["log.level"] == "crit"


@pytest.mark.parametrize("kind", ["firewall", "audit"])
def test_what_the_kernel_says_arrives(answers, lab, stranger, kind: str) -> None:
    if answers.web.run("systemd-detect-virt --quiet --container").rc == 0:
        pytest.skip(f"{kind}: a container cannot read its kernel's log, nor be audited")
    if kind == "firewall":
        for _ in range(20):
            stranger.run(f"timeout 1 bash -c 'echo > /dev/tcp/{lab.vars(lab.web)['lab_ipv4']}/23'")
        record = answers.wait("show", "--dataset", "firewall", "--host", lab.web)[0][-1]
        assert record["destination.port"] == 23 and record["network.transport"] == "tcp"
    else:
        answers.web.check_output("touch /etc/sudoers.d/drill~ && rm /etc/sudoers.d/drill~")
        assert answers.wait("show", "--dataset", "audit", "--host", lab.web, "--text", "sudoers")[0][-1]["audit.key"] == "sudoers"


# --- The span on the controller ------------------------------------------------------------------------------------------


@pytest.mark.once
def test_a_span_is_fetched_for_its_reader_alone(answers, lab, tmp_path) -> None:
    path = tmp_path / "span.jsonl"
    lab.playbook("playbooks/logs.yml", "--extra-vars", json.dumps({"since": "10m", "host": lab.web, "dataset": "sshd", "to": str(path)}))
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records and {(each["host.name"], each["event.dataset"]) for each in records} == {(lab.web, "sshd")}
    assert path.stat().st_mode & 0o777 == 0o600
    assert answers.server.run("ls -d /var/tmp/redoubt-logs.*").stdout == ""
    other = str(tmp_path / "other.jsonl")
    for values, sentence in ({"since": "10m"}, "Say from when on and into which file"), ({"since": "never", "to": other}, "'never' is no time"), (
            {"since": "1m", "to": str(path)}, f"{path} is there already"), ({"since": "1m", "to": other, "host": "app99"}, "no host 'app99' has sent anything; there are: "):
        done = lab.playbook("playbooks/logs.yml", "--extra-vars", json.dumps(values), check=False)
        assert done.returncode != 0 and sentence in re.sub(r"\s+", " ", done.stdout + done.stderr)
