"""The jails that run, what they watch, and where their bans live. Reads only."""

from __future__ import annotations

import json
import re

import pytest
from login import wanted

SITE = ("limits", "login", "probes", "scans")
PORTS = {"sshd": {22}, "recidive": set(), **{jail: {80, 443} for jail in SITE}}


@pytest.fixture(scope="module")
def expected(host) -> set[str]:
    """The jails of this host."""
    jails = set(wanted(host.lab, "fail2ban", "fail2ban_jails"))
    if "web" not in host.lab["group_names"]:
        jails -= set(SITE)
    if host.lab["app_guard"] == "off" or "events" in host.lab["app_guard_skip"]:
        jails -= {"login"}
    return jails


@pytest.fixture(scope="module")
def ask(host):
    """A value of a jail, as the running server has it."""
    return lambda *words: host.check_output("fail2ban-client get " + " ".join(words))


def proxied(host, jail: str) -> bool:
    return jail in SITE and bool(host.lab.get("nginx_trusted_proxies"))


def test_the_service_runs_and_starts_at_boot(host) -> None:
    service = host.service("fail2ban")
    assert service.is_running, host.run("journalctl --unit=fail2ban --lines=20 --no-pager").stdout
    assert service.is_enabled


def test_the_jails_that_are_wanted_run_and_no_others(host, expected) -> None:
    status = host.check_output("fail2ban-client status")
    assert set(status.split("Jail list:")[1].replace(",", " ").split()) == expected
    assert host.run("fail2ban-client --test").rc == 0


def test_jails_have_the_inventorys_numbers(host, expected, ask) -> None:
    for jail in expected:
        numbers = wanted(host.lab, "fail2ban", f"fail2ban_{jail}")
        assert {name: int(ask(jail, name)) for name in numbers} == numbers, jail
        assert ask(jail, "bantime.increment") == "True" and int(ask(jail, "bantime.maxtime")) == wanted(host.lab, "fail2ban", "fail2ban_bantime_max")
        assert ask(jail, "usedns") == "no"


def test_who_is_ignored_is_known_to_every_jail(host, expected, ask) -> None:
    for jail in expected:
        found = {line.split()[-1] for line in ask(jail, "ignoreip").splitlines()[1:]}
        wished = {"127.0.0.0/8", "::1", "fe80::/10", *wanted(host.lab, "fail2ban", "fail2ban_ignore")}
        if proxied(host, jail):
            wished |= set(host.lab["nginx_trusted_proxies"])
        assert found == wished, jail
        assert ask(jail, "ignoreself") == "True"


def test_nobody_else_can_tell_the_jails_on_the_journal_anything(host, expected, ask) -> None:
    """Lines count from units alone, which systemd itself writes beside them, and whose processes are the application's or root's."""
    name = host.lab["app_name"]
    units = {"sshd": {"ssh.service"}, "recidive": {"fail2ban.service"}, "login": {f"{name}@blue.service", f"{name}@green.service"}}
    for jail in expected & set(units):
        terms = ask(jail, "journalmatch").split("\n", 1)[1].split()
        assert "+" not in terms
        found = {term.split("=", 1)[1] for term in terms if term.startswith("_SYSTEMD_UNIT=")}
        assert units[jail] <= found, terms
        for unit in found:
            user = host.check_output(f"systemctl show --property=User --value {unit}")
            assert user == (host.lab["site_user"] if jail == "login" else ""), unit


def test_files_are_watched_as_they_are_written(host, expected) -> None:
    for jail in expected & {"limits", "probes", "scans"}:
        assert "/var/log/nginx/refused.log" in host.check_output(f"fail2ban-client status {jail}")


def test_bans_are_in_a_table_of_their_own_before_the_firewalls(host, expected) -> None:
    rules = json.loads(host.check_output("nft --json list ruleset"))["nftables"]
    chains = {(item["chain"]["table"], item["chain"]["name"]): item["chain"] for item in rules if item.get("chain", {}).get("hook") == "input"}
    sets = {item["set"]["name"]: item["set"] for item in rules if item.get("set", {}).get("table") == "redoubt_bans"}
    for jail in {jail for jail in expected if not proxied(host, jail)}:
        assert chains["redoubt_bans", f"ban_{jail}"]["prio"] < chains["redoubt", "input"]["prio"]
        assert chains["redoubt_bans", f"ban_{jail}"]["policy"] == "accept"
        assert (sets[f"{jail}4"]["type"], sets[f"{jail}6"]["type"]) == ("ipv4_addr", "ipv6_addr")
        assert sets[f"{jail}4"]["flags"] == sets[f"{jail}6"]["flags"] == ["timeout"]
        listed = host.check_output(f"nft --stateless --terse list chain inet redoubt_bans ban_{jail}")
        ports = {int(word) for line in listed.splitlines() if "dport" in line for word in line.split("dport")[1].split("ip")[0].strip(" {}").split(",")}
        assert ports == PORTS[jail]
        assert listed.count("ct direction original") == listed.count("goto refuse") == 2
    assert "established reject with tcp reset" in host.check_output("nft list chain inet redoubt_bans refuse")


def test_the_kernel_refuses_whom_fail2ban_says_it_does(host, expected) -> None:
    for jail in sorted(jail for jail in expected if not proxied(host, jail)):
        says = host.check_output(f"fail2ban-client get {jail} banip").split()
        for version in (4, 6):
            listed = json.loads(host.check_output(f"nft --json list set inet redoubt_bans {jail}{version}"))["nftables"][1]["set"].get("elem", [])
            held = {element["elem"]["val"] for element in listed}
            assert {address.removesuffix("/64") for address in says if (":" in address) == (version == 6)} <= held


def test_bans_are_remembered_for_longer_than_they_last(host) -> None:
    assert host.check_output("fail2ban-client get dbfile").split()[-1] == "/var/lib/fail2ban/fail2ban.sqlite3"
    assert int(re.findall(r"\d+", host.check_output("fail2ban-client get dbpurgeage"))[0]) > wanted(host.lab, "fail2ban", "fail2ban_bantime_max")


def test_only_root_can_ban_and_read_who_is_banned(host) -> None:
    for path, mode in (("/run/fail2ban", 0o700), ("/run/fail2ban/fail2ban.sock", 0o700), ("/var/lib/fail2ban", 0o700), ("/var/lib/fail2ban/fail2ban.sqlite3", 0o600)):
        found = host.file(path)
        assert (found.user, found.group, found.mode) == ("root", "root", mode), path


def test_it_says_what_it_does_in_the_journal(host) -> None:
    assert "SYSTEMD-JOURNAL" in host.check_output("fail2ban-client get logtarget")


def test_the_server_is_in_its_sandbox(host) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value fail2ban.service")
    status = dict(line.split(":\t", 1) for line in host.check_output(f"cat /proc/{pid}/status").splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == 1 << 2 | 1 << 12, status["CapEff"]
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    writable = {path for path in ("/etc", "/usr", "/srv", "/var/lib", "/var/log", "/run/fail2ban", "/var/lib/fail2ban")
                if host.run(f"nsenter --mount --target {pid} -- test -w {path}").rc == 0}
    assert writable == {"/run/fail2ban", "/var/lib/fail2ban"}
    assert host.check_output(f"nsenter --mount --target {pid} -- ls -A /root /home").split() == ["/home:", "/root:"]
    shown = host.check_output("systemctl show --property=IPAddressDeny,RestrictAddressFamilies,PrivateTmp fail2ban.service").splitlines()
    said = {name: set(values.split()) for name, _, values in (line.partition("=") for line in shown)}
    assert said == {"IPAddressDeny": {"0.0.0.0/0", "::/0"}, "RestrictAddressFamilies": {"AF_UNIX", "AF_NETLINK"}, "PrivateTmp": {"yes"}}
    verdict = host.check_output("systemd-analyze security --no-pager fail2ban.service").splitlines()[-1]
    assert float(verdict.split(": ")[1].split()[0]) < 2.5, verdict


def test_the_firewalls_start_brings_bans_back(host) -> None:
    assert "try-restart fail2ban.service" in host.check_output("systemctl show --property=ExecStartPost --value nftables.service")
