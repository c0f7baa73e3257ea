"""What the jails count: the role's filters, rendered for a site, on a corpus of log lines, read by Debian's own fail2ban-regex.

The lines are made as the programs make them: the guard's by its own formatter, nginx' by the log_format of its role. What somebody
has written into them is what people write there: paths, names, headers.
"""

from __future__ import annotations

import ast
import collections
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/fail2ban"
PACKAGE = ROOT / ".cache/fail2ban"
LIBRARY = PACKAGE / "usr/lib/python3/dist-packages"

if not (PACKAGE / "usr/bin/fail2ban-regex").exists():
    pytest.fail(f"There is no {PACKAGE}: `make .cache/fail2ban/usr/bin/fail2ban-regex` unpacks Debian's package there.", pytrace=False)

sys.path.insert(0, str(ROOT / "guard"))
from redoubt_guard import events

A, A6 = "198.51.100.7", "2001:db8:a:1::7"
JUNK = "".join(chr(33 + number * 7 % 93) for number in range(10_000))


# --- The role, rendered ----------------------------------------------------------------------------------------------


def render(target: Path, groups: tuple[str, ...] = ("web", "db"), **inventory) -> Path:
    """The role's templates for an inventory, as a folder of configuration."""
    values: dict = {"ansible_managed": "managed", "group_names": list(groups), "app_name": "notes"}
    for role in ("site", "fail2ban"):
        for kind in ("defaults", "vars"):
            path = ROOT / f"roles/{role}/{kind}/main.yml"
            if path.exists():
                values.update(DataLoader().load_from_file(str(path), trusted_as_template=True) or {})
    templar = Templar(loader=DataLoader(), variables={**values, **inventory})
    for template in (ROLE / "templates").rglob("*"):
        if template.is_file():
            path = target / template.relative_to(ROLE / "templates")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(templar.template(trust_as_template(template.read_text()))) + "\n")
    return target / "etc/fail2ban"


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    return render(tmp_path_factory.mktemp("fail2ban"))


def matched(config: Path, filters: str, lines: list[str], folder: Path) -> list[str]:
    """The addresses that a filter finds in lines, in order. A line that is not understood is not a match."""
    log = folder / "log"
    log.write_text("".join(line + "\n" for line in lines))
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    command = ["/usr/bin/python3", str(PACKAGE / "usr/bin/fail2ban-regex"), "--config", str(config), "--usedns", "no", "--out", "ip", str(log), filters]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode in (0, 255) and "ERROR" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    return done.stdout.split()


# --- The guard's events ----------------------------------------------------------------------------------------------


def entry(message: str, identifier: str = "notes-security") -> str:
    """An entry of the journal as fail2ban puts it before a filter, with the time that journalctl gives it."""
    return f"2026-11-23T00:00:00.123456+0000 app1 {identifier}[812]: {message}"


def event(name: str, ip: str | None = A, **values) -> str:
    given = {"user": None, "target": None, "detail": None, "method": "POST", "path": "/accounts/login/", "request": "b64d", **values}
    return entry(events.line(name, ip=ip, **given))


FORGED = f'x", "event": "login_failed", "ip": "{A}"}} {{"v": 1, "ip": "203.0.113.1", "event": "login_failed", "'
LOGIN = {
    "an attack": ([event("login_failed", user="admin"), event("login_failed", target="unknown:1f8a90ce27d3"), event("login_throttled", detail="8 s")], [A, A, A]),
    "an attack over IPv6": ([event("login_failed", ip=A6)], [A6]),
    "a good login": ([event("login_ok", user="alice"), event("logout", user="alice")], []),
    "other events": ([event(name) for name in events.SEVERITIES if not name.startswith("login_")], []),
    "a command's event": ([event("login_failed", ip=None)], []),
    "names that forge an event": ([event("login_ok", user=FORGED), event("csrf_failed", detail=FORGED, path=FORGED, request=FORGED)], []),
    "a name that forges another address": ([event("login_failed", user=FORGED)], [A]),
    "a name with an end of line": ([event("login_ok", user='x\n2026-11-23T00:00:00+0000 app1 notes-security[1]: {"v": 1, "ip": "203.0.113.1"')], []),
    "junk": ([event("login_ok", user=JUNK, path=JUNK), event("login_failed", user=JUNK), entry(JUNK)], [A]),
    "another version of the line": ([event("login_failed").replace('"v": 1', '"v": 2')], []),
    "another program": ([entry(events.line("login_failed", ip=A, user=None, target=None, detail=None, method=None, path=None, request=None), name)
                         for name in ("notes", "xnotes-security", "notes-security-x", "other-security")], []),
    "an event that is quoted": ([entry('saw {"v": 1, "ip": "203.0.113.1", "event": "login_failed", "user": null}')], []),
}


@pytest.mark.parametrize("case", LOGIN)
def test_failed_logins(config, tmp_path, case: str) -> None:
    lines, expected = LOGIN[case]
    assert matched(config, "redoubt-login", lines, tmp_path) == expected


# --- nginx' access log -----------------------------------------------------------------------------------------------

# Of a site behind a proxy: with the proxy's own address in the line.
FORMAT = "".join(re.findall(r"'([^']*)'", (ROOT / "roles/nginx/templates/etc/nginx/conf.d/log.conf").read_text().split("log_format redoubt ")[1].split(";\n")[0]))
USUAL = {"request_method": "GET", "limit_req_status": "PASSED", "time_iso8601": "2026-11-23T01:00:00+01:00", "request_id": "b64d", "host": "notes.example",
         "server_protocol": "HTTP/2.0", "body_bytes_sent": "512", "request_time": "0.010", "ssl_protocol": "TLSv1.3", "realip_remote_addr": "192.0.2.80"}


def escaped(text: str) -> str:
    """As nginx' `escape=json` does."""
    return json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007F")


def access(status: int, path: str = "/", client: str = A, referer: str = "", agent: str = "curl/8", **values) -> str:
    found = {**USUAL, "remote_addr": client, "status": str(status), "redoubt_log_path": path, "redoubt_log_referer": referer, "redoubt_log_agent": agent, **values}
    return re.sub(r"\$(\w+)", lambda match: escaped(found.get(match[1], "")), FORMAT)


PROBE = access(404, "/.env", client="203.0.113.1")
FORGERIES = [
    access(200, "/", agent=PROBE), access(200, "/", referer="https://notes.example/.env"), access(200, "/", agent='","path":"/.env'),
    access(200, "/" + PROBE), access(200, "/", host='x","path":"/wp-login.php'), access(200, "/", agent="\n" + PROBE),
    access(200, "/", agent='","status":"404","limit":"REJECTED"'),
]
# What no jail on the access log may count.
HARMLESS = {
    "a good login": [access(200, "/accounts/login/"), access(302, "/accounts/login/", request_method="POST"), access(200, "/")],
    "a login path in the referer": [access(200, "/static/notes.css", referer="https://notes.example/accounts/login/")],
    "a wrong password": [access(200, "/accounts/login/", request_method="POST")],
    "a static asset that is gone": [access(404, "/static/notes.1f8a.css"), access(404, "/media/portrait.png"), access(404, "/favicon.ico")],
    "what browsers and crawlers ask for": [access(404, path) for path in ("/robots.txt", "/apple-touch-icon.png", "/sitemap.xml", "/.well-known/security.txt")],
    "forgeries": FORGERIES,
    "junk": [access(200, "/" + JUNK, agent=JUNK, referer=JUNK), JUNK, ""],
    "a line that is cut off": [PROBE[:40], PROBE[1:]],
    "another program's line": [f'app1 nginx: {PROBE}'],
}


@pytest.mark.parametrize("name", ["limits", "probes", "scans"])
@pytest.mark.parametrize("case", HARMLESS)
def test_what_visitors_do_is_not_counted(config, tmp_path, name: str, case: str) -> None:
    assert matched(config, f"redoubt-{name}", HARMLESS[case], tmp_path) == []


def test_refusals_by_the_limits(config, tmp_path) -> None:
    lines = [access(429, "/accounts/login/", limit_req_status="REJECTED"), access(503, "/", client=A6, limit_req_status="REJECTED"),
             access(200, "/", limit_req_status="DELAYED"), access(429, "/api/", limit_req_status="PASSED"), access(429, "/", limit_req_status=""),
             access(429, "/", limit_req_status="REJECTED_DRY_RUN"), access(429, "/", agent='","limit":"REJECTED",'), access(429, '/","limit":"REJECTED",'),
             access(429, JUNK, limit_req_status="REJECTED", agent=JUNK), access(429, "/", limit_req_status="REJECTED", request_method="")]
    assert matched(config, "redoubt-limits", lines, tmp_path) == [A, A6, A, A]


def test_probes(config, tmp_path) -> None:
    found = ["/.env", "/.ENV", "/.env.production", "//.env", "/.git/config", "/wp-login.php", "/WP-Login.php", "/blog/wp.php", "/vendor/phpunit/x", "/dump.sql", "/cgi-bin/"]
    lines = [access(404, path) for path in found] + [access(403, "/.git/HEAD", client=A6)]
    assert matched(config, "redoubt-probes", lines, tmp_path) == [A] * len(found) + [A6]
    # Answered otherwise: the site has it. Named otherwise: nobody's business.
    others = [access(200, "/.env"), access(301, "/wp-login.php"), access(500, "/x.php"), access(444, "/.env"), access(404, "/env"), access(404, "/notes/.env"),
              access(404, "/git/"), access(404, "/phpinfo"), access(404, '/x.php"y'), access(404, "/wp"), access(404, "/?.env"),
              access(404, "/x", agent='","path":"/.env"'), access(404, "/x", referer='https://x/","path":"/.env"'), access(404, '/x","path":"/.env')]
    assert matched(config, "redoubt-probes", others, tmp_path) == []


def test_every_probe_path_is_found(config, tmp_path) -> None:
    paths = [path.replace("*", "/some/thing") for path in yaml.safe_load((ROLE / "defaults/main.yml").read_text())["fail2ban_probe_paths"]]
    assert len(matched(config, "redoubt-probes", [access(404, path) for path in paths], tmp_path)) == len(paths)


def test_bursts_of_what_is_not_there(config, tmp_path) -> None:
    lines = [access(404, "/backup"), access(403, "/admin/", client=A6), access(404, ""), access(404, "/x.css/y"), access(404, "/" + "a" * 8000), access(404, '/"\\')]
    assert matched(config, "redoubt-scans", lines, tmp_path) == [A, A6, A, A, A, A]
    assert matched(config, "redoubt-scans", [access(status, "/backup") for status in (200, 301, 304, 400, 401, 429, 500)], tmp_path) == []


def test_nginx_writes_down_at_once_all_that_a_jail_may_count(config, tmp_path) -> None:
    refused = re.compile(re.search(r'\$redoubt_refused \{\s*"~(.*)" 1;', (ROOT / "roles/nginx/templates/etc/nginx/conf.d/log.conf").read_text())[1])
    answers = [(limit, status) for limit in ("", "PASSED", "DELAYED", "REJECTED", "DELAYED_DRY_RUN") for status in range(100, 600)]
    lines = [access(status, "/.env", client=f"198.18.{number // 250}.{number % 250}", limit_req_status=limit) for number, (limit, status) in enumerate(answers)]
    written = {f"198.18.{number // 250}.{number % 250}" for number, (limit, status) in enumerate(answers) if refused.search(f"{limit}:{status}")}
    counted = {name: set(matched(config, f"redoubt-{name}", lines, tmp_path)) for name in ("limits", "probes", "scans")}
    assert all(counted.values()) and set().union(*counted.values()) <= written
    # Not what is answered as it was asked for, nor a ban's own answer.
    assert not any(refused.search(each) for each in (":200", "PASSED:200", "PASSED:302", "PASSED:444", "DELAYED:500", "DELAYED:304"))


def test_the_time_is_the_lines_own(config, tmp_path) -> None:
    """An hour off, and every ban would come an hour late or never."""
    log = tmp_path / "log"
    log.write_text(access(404, "/.env") + "\n")
    command = ["/usr/bin/python3", str(PACKAGE / "usr/bin/fail2ban-regex"), "--config", str(config), "--out", "row", str(log), "redoubt-probes"]
    for zone in ("UTC", "Asia/Kolkata"):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(LIBRARY), "TZ": zone}, check=True, timeout=60)
        assert ast.literal_eval(done.stdout)[0][1] == 1795392000.0, done.stdout


# --- SSH and fail2ban's own log --------------------------------------------------------------------------------------

SSH = {
    "wrong names": ([f"Invalid user admin from {A} port 50022", f"Invalid user  from {A} port 50022", f"Invalid user oracle from {A6} port 22"], [A, A, A6]),
    "a name that forges an address": ([f"Invalid user x from 203.0.113.1 port 22 from {A} port 50022"], [A]),
    "a client that has no key to offer": ([f"Disconnected from authenticating user root {A} port 50022 [preauth]"], [A]),
    "a good login": ([f"Connection from {A} port 50022 on 192.0.2.1 port 22 rdomain \"\"", f"Failed publickey for ops from {A} port 50022 ssh2: ED25519 SHA256:x",
                      f"Accepted publickey for ops from {A} port 50022 ssh2: ED25519 SHA256:x", f"Disconnected from user ops {A} port 50022"], []),
    "a port scan": ([f"Connection closed by {A} port 50022", "kex_exchange_identification: Connection closed by remote host"], []),
    "junk": ([f"Bad protocol version identification '{JUNK[:200]}' from {A} port 50022", JUNK], []),
}


# Debian 12's fail2ban knows sshd by its old name, and its sshd has no other.
PROGRAMS = ["sshd"] if 'version = "1.0.' in (LIBRARY / "fail2ban/version.py").read_text() else ["sshd", "sshd-session"]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("case", SSH)
def test_failed_ssh_logins(tmp_path, case: str, program: str) -> None:
    lines, expected = SSH[case]
    # Each in a connection of its own.
    texts = [f"2026-11-23T00:00:00.123456+0000 app1 {program}[{100 + number}]: {line}" for number, line in enumerate(lines)]
    assert matched(PACKAGE / "etc/fail2ban", "sshd[mode=extra]", texts, tmp_path) == expected


def test_bans_by_other_jails(config, tmp_path) -> None:
    lines = [entry(text, "fail2ban") for text in (
        f"[login] Ban {A}", "[scans] Ban 2001:db8:a:1::/64", f"[recidive] Ban {A}", f"[login] Restore Ban {A}", f"[login] Unban {A}", f"[login] Found {A} - 2026",
        f"[login] {A} already banned", f"[login] Increase Ban {A} (2 # 0:20:00 -> 2026-11-23 00:20:00)", f"Jail 'x [login] Ban {A}",
    )]
    lines.append(f"2026-11-23T00:00:00+0000 app1 notes[9]: [login] Ban {A}")
    assert matched(config, "redoubt-recidive", lines, tmp_path) == [A, "2001:db8:a:1::/64"]


# --- The jails -------------------------------------------------------------------------------------------------------


def jails(config: Path) -> dict[str, dict[str, str]]:
    """What the configuration says, Debian's beneath it, as fail2ban's own reader has it: jail to option to value."""
    program = """
import json, sys
from fail2ban.client.configurator import Configurator
reader = Configurator()
reader.setBaseDir(sys.argv[1])
reader.readAll()
reader.getOptions()
reader.convertToProtocol(allow_no_files=True)
print(json.dumps(reader.getConfigStream()))
"""
    for name in ("jail.conf", "jail.d", "fail2ban.conf", "paths-debian.conf", "paths-common.conf"):
        if not (config / name).exists():
            (config / name).symlink_to(PACKAGE / "etc/fail2ban" / name)
    for source in (PACKAGE / "etc/fail2ban/filter.d").iterdir():
        if not (config / "filter.d" / source.name).exists():
            (config / "filter.d" / source.name).symlink_to(source)
    done = subprocess.run(["/usr/bin/python3", "-c", program, str(config)], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(LIBRARY)}, timeout=60)
    found: dict[str, dict] = collections.defaultdict(dict)
    for command in json.loads(done.stdout):
        if command[0] == "add":
            found[command[1]]["backend"] = command[2]
        elif command[0] == "set" and command[1] in found:
            found[command[1]][command[2]] = command[3:]
        elif command[0] == "set":
            found["server"][command[1]] = command[2]
    return dict(found)


def test_the_jails_of_a_web_host(tmp_path) -> None:
    found = jails(render(tmp_path, app_processes={"worker": {"command": "x"}, "asgi": {"command": "x", "listen": True}}))
    assert set(found) == {"server", "login", "limits", "probes", "scans", "sshd", "recidive"}
    assert found["login"]["addjournalmatch"] == [
        "_TRANSPORT=journal", "SYSLOG_IDENTIFIER=notes-security", "_SYSTEMD_UNIT=notes@blue.service", "_SYSTEMD_UNIT=notes@green.service", "_SYSTEMD_UNIT=notes-asgi.service"]
    assert found["sshd"]["addjournalmatch"] == ["_SYSTEMD_UNIT=ssh.service", "_UID=0"]
    assert {name: jail["addaction"][2] for name, jail in found.items() if name != "server"} == {
        "login": '{"ports": "80,443"}', "limits": '{"ports": "80,443"}', "probes": '{"ports": "80,443"}', "scans": '{"ports": "80,443"}',
        "sshd": '{"ports": "22"}', "recidive": "{}"}
    for name, jail in found.items():
        if name != "server":
            assert jail["addignoreip"] == ["127.0.0.0/8", "::1", "fe80::/10"] and jail["usedns"] == ["no"], name
            assert jail["bantime.increment"] == [True] and jail["bantime.maxtime"] == ["604800"], name
    assert int(found["server"]["dbpurgeage"]) > 604800


def test_the_jails_of_another_host(tmp_path) -> None:
    assert set(jails(render(tmp_path, groups=("logs",)))) == {"server", "sshd", "recidive"}


def test_without_the_guards_events_there_is_no_login_jail(tmp_path) -> None:
    for index, inventory in enumerate([{"app_guard": "off"}, {"app_guard_skip": ["events"]}]):
        assert set(jails(render(tmp_path / str(index), **inventory))) == {"server", "limits", "probes", "scans", "sshd", "recidive"}
    assert "login" in jails(render(tmp_path / "report", app_guard="report"))


def test_jails_that_are_not_wanted_do_not_run(tmp_path) -> None:
    assert set(jails(render(tmp_path, fail2ban_jails=["login"]))) == {"server", "login"}


def test_behind_a_proxy_bans_are_nginx_own_and_never_the_proxys(tmp_path) -> None:
    found = jails(render(tmp_path, nginx_trusted_proxies=["192.0.2.0/24"], fail2ban_ignore=["203.0.113.9"]))
    for name in ("login", "limits", "probes", "scans"):
        assert found[name]["addaction"][2] == '{"nginx": "/var/lib/redoubt/nginx-bans"}'
        assert found[name]["addignoreip"][-2:] == ["203.0.113.9", "192.0.2.0/24"]
    assert found["sshd"]["addaction"][2] == '{"ports": "22"}'
    assert "ReadWritePaths=/var/lib/redoubt/nginx-bans" in (tmp_path / "etc/systemd/system/fail2ban.service.d/redoubt.conf").read_text()


# --- The action ------------------------------------------------------------------------------------------------------


@pytest.fixture
def jail(monkeypatch):
    """A jail of fail2ban's own, with the action in it; what it would run is in `jail.ran`."""
    monkeypatch.syspath_prepend(str(LIBRARY))
    logging.raiseExceptions = False
    from fail2ban.server.jail import Jail

    made = Jail("login", backend="polling")
    made.ran = []
    made.answers = {}

    def act(**options):
        made.actions.add("redoubt", str(ROLE / "files/etc/fail2ban/action.d/redoubt.py"), options)
        action = made.actions["redoubt"]

        def run(command, text=None):
            made.ran.append((command, text))
            return subprocess.CompletedProcess(command, made.answers.pop(command[0], 0), "", "broken")

        monkeypatch.setattr(type(action), "run", staticmethod(run))
        return action

    made.act = act
    made.filter.setMaxRetry(3)
    made.filter.setFindTime("10m")
    made.filter.addFailRegex("^ failure from <ADDR>$")
    made.filter.setDatePattern("^EPOCH")
    made.filter.addIgnoreIP("2001:db8:a:1::99")
    made.filter.addIgnoreIP("192.0.2.0/24")
    return made


def failures(jail, *addresses: str) -> list[str]:
    for address in addresses:
        jail.filter.processLineAndAdd(f"{int(time.time())} failure from {address}")
    tickets = []
    while ticket := jail.getFailTicket():
        tickets.append(str(ticket.getID()))
    return tickets


def ban(jail, action, address: str, seconds: int = 600) -> None:
    from fail2ban.server.ipdns import IPAddr
    from fail2ban.server.ticket import BanTicket

    ticket = BanTicket(IPAddr(address), time.time())
    ticket.setBanTime(seconds)
    jail.actions.banManager.addBanTicket(ticket)
    action.ban({"fid": ticket.getID(), "time": ticket.getTime(), "bantime": seconds})


def test_an_ipv6_network_counts_as_one(jail) -> None:
    jail.act(ports="80,443")
    assert failures(jail, *(f"2001:db8:a:1::{number:x}" for number in range(1, 4))) == ["2001:db8:a:1::/64"]
    assert failures(jail, "2001:db8:a:2::1", "2001:db8:a:3::1", "2001:db8:a:4::1") == []


def test_ipv4_addresses_count_each_for_itself(jail) -> None:
    jail.act(ports="80,443")
    assert failures(jail, "198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.1", "198.51.100.1") == ["198.51.100.1"]


def test_who_is_ignored_is_not_counted_in_his_network(jail) -> None:
    jail.act(ports="80,443")
    assert failures(jail, *["2001:db8:a:1::99"] * 5, *["192.0.2.9"] * 5, *["2001:db8:a:1::7"] * 2) == []
    assert failures(jail, "2001:db8:a:1::8") == ["2001:db8:a:1::/64"]


def test_a_ban_is_an_element_with_the_time_that_is_left(jail) -> None:
    action = jail.act(ports="80,443")
    ban(jail, action, "198.51.100.7")
    ban(jail, action, "2001:db8:a:1::/64")
    (_, first), (cut, _), (_, second), (cut6, _) = jail.ran
    assert re.search(r"^add element inet redoubt_bans login4 \{ 198\.51\.100\.7 timeout 61\ds \}$", first, re.MULTILINE)
    assert re.search(r"^add element inet redoubt_bans login6 \{ 2001:db8:a:1:: timeout 61\ds \}$", second, re.MULTILINE)
    assert cut[:2] == ["ss", "--kill"] and cut[-1] == "dst 198.51.100.7 and ( sport = :80 or sport = :443 )"
    assert cut6[-1].startswith("dst 2001:db8:a:1::/64 ")


def test_a_ban_by_hand_is_the_networks_too(jail) -> None:
    action = jail.act()
    ban(jail, action, "2001:db8:a:1::7")
    assert "login6 { 2001:db8:a:1:: timeout" in jail.ran[0][1] and jail.ran[1][0][-1] == "dst 2001:db8:a:1::/64"


def test_rules_that_somebody_has_flushed_come_back_with_all_bans(jail) -> None:
    action = jail.act()
    ban(jail, action, "198.51.100.7")
    jail.ran.clear()
    jail.answers["nft"] = 1
    ban(jail, action, "198.51.100.8")
    again = jail.ran[1][1]
    assert "add table inet redoubt_bans" in again and "198.51.100.7 timeout" in again and "198.51.100.8 timeout" in again


def test_a_jail_that_stops_keeps_its_bans_and_one_that_is_emptied_does_not(jail) -> None:
    action = jail.act()
    jail.actions.active = False
    assert action.flush() is True
    action.stop()
    assert jail.ran == []
    jail.actions.active = True
    assert action.flush() is True
    assert "flush set inet redoubt_bans login4" in jail.ran[0][1] and "flush set inet redoubt_bans login6" in jail.ran[0][1]


def test_a_reload_keeps_the_action(jail) -> None:
    """fail2ban takes an action that has not taken the new options for one that is gone, and lifts its bans."""
    first = jail.act(ports="80,443")
    jail.actions.reload(begin=True)
    jail.actions.add("redoubt", str(ROLE / "files/etc/fail2ban/action.d/redoubt.py"), {"ports": "8443"}, reload=True)
    jail.actions.reload(begin=False)
    assert jail.actions["redoubt"] is first and first.ports == "8443" and "th dport { 8443 }" in jail.ran[-1][1]


def test_behind_a_proxy_nginx_gets_a_list_and_one_reload(jail, tmp_path) -> None:
    action = jail.act(nginx=str(tmp_path))
    for address in ("203.0.113.5", "2001:db8:a:1::/64", "203.0.113.6"):
        ban(jail, action, address)
    deadline = time.monotonic() + 20
    while not (tmp_path / "login.conf").exists() or not jail.ran:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "login.conf").read_text() == "2001:db8:a:1::/64 1;\n203.0.113.5/32 1;\n203.0.113.6/32 1;\n"
    assert [command for command, _ in jail.ran] == [["systemctl", "reload", "nginx.service"]] and len(action.told) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["login.conf"] and (tmp_path / "login.conf").stat().st_mode & 0o777 == 0o644


def test_behind_a_proxy_nobody_banned_is_nothing_to_tell(jail, tmp_path) -> None:
    """It would be one of the few times that nginx is told at once."""
    action = jail.act(nginx=str(tmp_path))
    action.write()
    assert (list(tmp_path.iterdir()), jail.ran, action.told) == ([], [], [])


@pytest.mark.parametrize(("ago", "lowest", "highest"), [
    ([], 0, 1), ([1], 0, 1), ([1] * 11, 0, 1), ([70] * 50 + [1] * 11, 0, 1), ([1] * 12, 3, 4.1), ([59] * 11 + [2], 2, 3.1), ([9] * 30, 0, 1),
])
def test_behind_a_proxy_a_ban_waits_only_when_there_were_many(jail, tmp_path, ago, lowest, highest) -> None:
    action = jail.act(nginx=str(tmp_path))
    action.told = [time.monotonic() - seconds for seconds in ago]
    action.publish()
    action.stop()
    assert lowest <= action.timer.interval <= highest


def test_behind_a_proxy_a_new_ban_does_not_wait_for_what_a_start_restores(jail, tmp_path) -> None:
    action = jail.act(nginx=str(tmp_path))
    action.start()
    first = action.timer
    action.ban({"restored": 1})
    action.unban({})
    assert action.timer is first and first.interval > 1
    action.ban({"restored": 0})
    assert first.finished.is_set() and action.timer.interval < 1
    action.stop()


def test_behind_a_proxy_the_kernel_lets_go_of_whom_it_held(jail, tmp_path) -> None:
    jail.act(nginx=str(tmp_path)).start()
    assert "flush set inet redoubt_bans login4" in jail.ran[0][1] and "th dport" not in jail.ran[0][1]
