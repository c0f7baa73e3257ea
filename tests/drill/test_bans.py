"""Bans under attack: A guesses, scans and knocks from another host of the lab; B, who stands beside him, must not notice."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ipaddress
import json
import random
import secrets
import time
from pathlib import Path

import logged
import pytest

VISITOR = (Path(__file__).parent / "visitor.py").read_text()
# Short, so that the end of a ban is seen too. Logins as many as a drill makes: nginx' own limit has its own test.
SHORT = {
    "nginx_login_rate": "100r/s",
    "nginx_login_burst": 1000,
    "fail2ban_limits": {"maxretry": 5, "findtime": 60, "bantime": 15},
    "fail2ban_login": {"maxretry": 4, "findtime": 600, "bantime": 15},
    "fail2ban_probes": {"maxretry": 3, "findtime": 600, "bantime": 15},
    "fail2ban_scans": {"maxretry": 12, "findtime": 600, "bantime": 15},
    "fail2ban_sshd": {"maxretry": 4, "findtime": 600, "bantime": 15},
    "fail2ban_recidive": {"maxretry": 2, "findtime": 600, "bantime": 3600},
}


# Whom A tries to be. B is somebody else: at a new address he would have to wait for the guard, which slows an account under attack.
SOMEBODY = f"drill-{secrets.token_hex(6)}"
PLAY = """
- name: Configure the edge and the bans alone
  hosts: web
  gather_facts: true
  gather_subset: ["!all", "!min", distribution, virtual, hardware]
  roles:
    - redoubt.django.nginx
    - redoubt.django.fail2ban
"""


class Strangers:
    """Visitors on another host of the lab, each with an address of his own that nobody has had: bans are remembered."""

    def __init__(self, lab):
        self.lab, self.there, self.web = lab, lab.host(lab.stranger), lab.host(lab.web)
        self.site = lab.vars(lab.web)
        self.own = lab.vars(lab.stranger)["lab_ipv4"]
        self.interface = self.interface_to(self.there, self.site["lab_ipv4"])
        self.added: list[str] = []

    @staticmethod
    def interface_to(host, address: str) -> str:
        return host.check_output(f"ip -o route get {address}").split(" dev ")[1].split()[0]

    def newcomer(self) -> str:
        """An address of the lab's network, from its end: podman gives them out from the beginning."""
        network = ipaddress.ip_network(f"{self.own}/24", strict=False)
        while (address := str(network[random.randrange(128, 250)])) in "".join(self.added):
            pass
        self.add(f"{address}/24")
        return address

    def network(self, count: int) -> list[str]:
        """Addresses of a /64 of their own: the lab's holds every host, and would be banned with them."""
        network = ipaddress.ip_network(f"fd00:bad:{random.randrange(1, 0xffff):x}::/64")
        self.web.check_output(f"ip -6 route replace {network} dev {self.interface_to(self.web, self.own)}")
        for number in range(count):
            self.add(f"{network[7 + number]}/64 nodad")
        return [str(network[7 + number]) for number in range(count)]

    def add(self, address: str) -> None:
        self.there.check_output(f"ip addr replace {address.split()[0]} dev {self.interface} {address.partition(' ')[2]}")
        self.added.append(address.split()[0])

    def leave(self) -> None:
        for address in self.added:
            self.there.run(f"ip addr del {address} dev {self.interface}")
            if ":" in address:
                self.web.run(f"ip -6 route del {ipaddress.ip_network(address, strict=False)}")

    def visit(self, source: str, *steps: list, proxied: str = "") -> list:
        """The outcomes of the steps, with their times."""
        server = self.site["lab_ipv6" if ":" in source else "lab_ipv4"]
        job = {"domain": self.site["app_domains"][0], "server": server, "source": source, "ca": self.lab.ca.read_text(), "do": steps}
        job |= {"path": self.site["app_login_paths"][0], "for": proxied}
        # With a password in it, which sudo would log with the command.
        return json.loads(logged.at(self.lab, self.lab.stranger, f"import io, sys\nsys.stdin = io.StringIO({json.dumps(job)!r})\n{VISITOR}"))

    def outcomes(self, source: str, *steps: list, proxied: str = "") -> list:
        return [outcome for _, outcome, *_ in self.visit(source, *steps, proxied=proxied)]

    @contextlib.contextmanager
    def in_the_background(self, source: str, *steps: list, proxied: str = ""):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.visit, source, *steps, proxied=proxied)

    def failures(self, visitor: str, since: float) -> list[float]:
        """When the guard told of his failed logins, as the journal has it."""
        events = f"_TRANSPORT=journal SYSLOG_IDENTIFIER={self.site['app_name']}-security"
        told = self.web.check_output(f"journalctl --no-pager --output=short-unix --since=@{int(since)} {events}").splitlines()
        return [float(line.split()[0]) for line in told if f'"ip": "{visitor}", "event": "login_' in line and "login_ok" not in line]


@pytest.fixture(scope="module")
def configure(lab, tmp_path_factory):
    """Converges the two roles with other values than the inventory's."""
    play = tmp_path_factory.mktemp("play") / "bans.yml"
    play.write_text(PLAY)
    return lambda **values: lab.playbook(str(play), "--extra-vars", json.dumps(values))


@pytest.fixture(scope="module")
def strangers(lab, configure):
    """With the short times of the drill. At the end the inventory's own, and nobody banned."""
    if lab.vars(lab.web).get("app_repo", "").rsplit("/", 1)[-1] != "notes.git":
        pytest.skip("the login form is the demo project's")
    configure(**SHORT)
    found = Strangers(lab)
    yield found
    found.leave()
    configure()
    lab.host(lab.web).check_output("fail2ban-client unban --all")


@pytest.fixture
def a(strangers) -> str:
    return strangers.newcomer()


@pytest.fixture
def b(strangers) -> str:
    return strangers.newcomer()


@pytest.fixture(autouse=True)
def nobody_is_banned(web, strangers):
    web.check_output("fail2ban-client unban --all")
    yield
    # A restart that somebody else has asked for may still be under way, and a drill that failed may have left it stopped.
    web.check_output("systemctl start fail2ban; timeout 60 sh -c 'until fail2ban-client ping; do sleep 0.2; done' >/dev/null 2>&1; fail2ban-client unban --all")


@pytest.fixture
def password(lab) -> str:
    return lab.vars(lab.web)["vault_app_admin_password"]


@pytest.fixture
def log(web):
    """What fail2ban has said since the test began."""
    since = web.check_output("date +@%s.%6N")
    return lambda: web.check_output(f"journalctl --no-pager --output=cat --since={since} --unit=fail2ban.service")


def banned(web, jail: str) -> set[str]:
    return set(web.check_output(f"fail2ban-client get {jail} banip").split())


def guess(strangers, source: str, count: int) -> str:
    """Logins over SSH with names that are nobody's; what the last one was told."""
    ssh = "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=2"
    return [strangers.there.run(f"{ssh} -b {source} nobody{number}@{strangers.site['lab_ipv4']} true 2>&1 || :").stdout for number in range(count)][-1]


def wait_for(there, web) -> None:
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline, web.run("journalctl --unit=ssh --unit=fail2ban --lines=40 --no-pager").stdout
        time.sleep(0.2)


def test_wrong_passwords_shut_out_who_sends_them_and_nobody_else(strangers, a, b, web, log, password, table) -> None:
    logins = [["login", "admin", password]] * 20
    with strangers.in_the_background(b, *logins) as bystander:
        hold, attack, held, gone, back = strangers.visit(a, ["hold"], ["attack", SOMEBODY, 60], ["held"], ["until", "out", 30], ["until", "in", 90])
        others = bystander.result()
    failed = strangers.failures(a, hold[2])
    told = web.check_output(f"journalctl --no-pager --output=short-unix --since=@{int(hold[2])} --unit=fail2ban.service").splitlines()
    ban = next(float(line.split()[0]) for line in told if f"[login] Ban {a}" in line)
    table("bans", {"jail": "login", "from": "IPv4", "after": SHORT["fail2ban_login"]["maxretry"], "banned after s": round(ban - failed[3], 2),
                   "let in after s": round(back[3] - ban, 1), "good logins beside it": sum(outcome == 302 for _, outcome, *_ in others)})
    # The guard refuses some of them by itself, and those count; more than the threshold only while fail2ban reads.
    assert attack[1] < 60, attack
    assert held[1] in ("reset", "closed"), held
    assert (gone[1], back[1]) == ("out", "in")
    assert [outcome for _, outcome, *_ in others] == [302] * 20
    assert f"Found {b}" not in log() and b not in banned(web, "login")


def test_good_logins_never_count(strangers, b, log, password) -> None:
    assert strangers.outcomes(b, *[["login", "admin", password]] * 20) == [302] * 20
    assert "Found" not in log()


@pytest.mark.slow
def test_a_thousand_good_logins_never_count(strangers, configure, log, password, table) -> None:
    """With the inventory's own numbers, under which an address may try 41 at once: 25 offices, 40 people in each."""
    offices = [strangers.newcomer() for _ in range(5)] + [strangers.network(1)[0] for _ in range(20)]
    configure()
    try:
        begin = time.time()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            seen = [outcome for office in pool.map(lambda office: strangers.outcomes(office, *[["login", "admin", password]] * 40), offices) for outcome in office]
        took = time.time() - begin
        counted = log().count("Found")
    finally:
        configure(**SHORT)
    table("bans", {"jail": "all", "from": "5 IPv4, 20 of IPv6", "good logins beside it": seen.count(302), "counted": counted, "took s": round(took)})
    assert seen == [302] * 1000 and counted == 0


def test_an_ipv6_attacker_is_shut_out_with_his_network(strangers, web, password, table) -> None:
    """Two addresses of one /64 take turns; neither reaches the threshold alone."""
    first, second = strangers.network(2)
    (bystander,) = strangers.network(1)
    network = str(ipaddress.ip_network(f"{first}/64", strict=False))
    strangers.outcomes(first, ["attack", SOMEBODY, 2])
    begin = time.time()
    strangers.outcomes(second, ["attack", SOMEBODY, 2])
    assert strangers.outcomes(first, ["until", "out", 30]) == ["out"]
    table("bans", {"jail": "login", "from": "IPv6, two of a /64", "after": 4, "banned after s": f"< {time.time() - begin:.1f}"})
    assert banned(web, "login") == {network}
    assert strangers.outcomes(second, ["until", "out", 1]) == ["out"]
    assert strangers.outcomes(bystander, ["login", "admin", password]) == [302]
    web.check_output(f"fail2ban-client unban {network}")
    assert strangers.outcomes(second, ["until", "in", 10]) == ["in"]


def test_scanners_are_shut_out(strangers, a, b, web, password) -> None:
    assert strangers.outcomes(a, *[["get", path, {}] for path in ("/.env", "/.git/config", "/wp-login.php")], ["until", "out", 30])[-1] == "out"
    assert banned(web, "probes") == {a}
    assert strangers.outcomes(b, ["login", "admin", password]) == [302]


def test_who_walks_through_what_is_not_there_or_forbidden_is_shut_out(strangers, a, b, web, log, password, table) -> None:
    """404 and 403 in turn. B's browser misses files meanwhile, more than would shut him out."""
    missed = [["get", f"{folder}{secrets.token_hex(4)}.{kind}", {}] for folder in ("/static/", "/") for kind in ("css", "js", "png") for _ in range(3)]
    with strangers.in_the_background(b, *missed, ["login", "admin", password]) as bystander:
        most = SHORT["fail2ban_scans"]["maxretry"]
        walk, gone = strangers.visit(a, ["walk", most], ["until", "out", 30])
        shut = banned(web, "scans")
        others = [outcome for _, outcome, *_ in bystander.result()]
    table("bans", {"jail": "scans", "from": "IPv4", "after": most, "banned after s": f"< {gone[3] - walk[3]:.1f}"})
    assert walk[1] == [404, 403] * (most // 2) and gone[1] == "out" and shut == {a}
    assert others == [404] * len(missed) + [302] and f"Found {b}" not in log()


def test_who_is_banned_again_is_refused_on_every_port_for_long(strangers, a, b, web, password, table) -> None:
    """Guesses at SSH shut A out from there, probes from the site. In the drill two bans are enough for one of all there is."""
    try:
        guess(strangers, a, 4)
        wait_for(lambda: banned(web, "sshd") == {a}, web)
        assert strangers.outcomes(a, *[["get", path, {}] for path in ("/.env", "/.git/config", "/wp-login.php")], ["until", "out", 30]) == [404, 404, 404, "out"]
        begin = time.time()
        wait_for(lambda: banned(web, "recidive") == {a}, web)
        table("bans", {"jail": "recidive", "from": "IPv4", "after": 2, "banned after s": f"< {time.time() - begin:.1f}"})
        # Not the others' work: theirs has ended.
        web.check_output(f"fail2ban-client set sshd unbanip {a} && fail2ban-client set probes unbanip {a} && systemctl restart ssh")
        assert strangers.outcomes(a, ["until", "out", 1]) == ["out"]
        assert "timed out" in guess(strangers, a, 1)
        assert strangers.outcomes(b, ["login", "admin", password]) == [302] and "Permission denied" in guess(strangers, b, 1)
        web.check_output(f"fail2ban-client unban {a}")
        assert strangers.outcomes(a, ["until", "in", 10]) == ["in"] and "Permission denied" in guess(strangers, a, 1)
    finally:
        web.run("systemctl restart ssh")


def test_who_asks_too_fast_is_shut_out(strangers, a, web) -> None:
    admin = strangers.site["app_admin_path"]
    seen, gone = strangers.outcomes(a, ["many", admin, 1000], ["until", "out", 30])
    assert 429 in seen and gone == "out", seen
    assert a in banned(web, "limits")


def test_what_a_visitor_sends_cannot_ban_another(strangers, a, b, log) -> None:
    line = json.dumps({"client": b, "status": "404", "limit": "REJECTED", "method": "GET", "time": "2026-11-23T00:00:00+00:00", "path": "/.env"})
    headers = {"User-Agent": line, "Referer": "https://x/.env", "X-Forwarded-For": b, "X-Real-IP": b, "Forwarded": f"for={b}"}
    strangers.outcomes(a, *[["get", f"/?{number}", headers] for number in range(5)], ["get", "/%22,%22path%22:%22/.env", headers],
                       ["login", f'"ip": "{b}", "event": "login_failed", ', "x"])
    strangers.outcomes(a, ["attack", f'x"}}\n{{"v": 1, "ip": "{b}", "event": "login_failed", "user": "', 1])
    deadline = time.monotonic() + 20
    while log().count("Found") < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert b not in log() and {line.split(" Found ")[1].split()[0] for line in log().splitlines() if " Found " in line} == {a}


def test_a_ban_outlives_restarts(strangers, a, web) -> None:
    (attacker,) = strangers.network(1)
    # Longer than all of this takes, on a machine that is busy too.
    web.check_output(f"fail2ban-client set login bantime 3600 && fail2ban-client set login banip {a} && fail2ban-client set login banip {attacker}")
    sets = "nft list set inet redoubt_bans login4; nft list set inet redoubt_bans login6"

    def there() -> bool:
        found = web.run(sets).stdout
        return f"{a} " in found and f"{attacker[:-1]} " in found

    def comes_back(after: str) -> None:
        deadline = time.monotonic() + 30
        while not there():
            assert time.monotonic() < deadline, after
            time.sleep(0.2)

    # Without a gap: looked at between the steps, not only at the end.
    assert there()
    for command in ("systemctl stop fail2ban", "systemctl start fail2ban", "systemctl restart nftables", "systemctl reload nftables", "systemctl stop nftables; systemctl start nftables"):
        web.check_output(command)
        assert there(), command
    # What a boot leaves: fail2ban's database alone.
    web.check_output("systemctl stop fail2ban; nft delete table inet redoubt_bans; systemctl start fail2ban")
    comes_back("a start without rules")
    # Somebody has flushed everything, and has the firewall loaded again.
    web.check_output("nft flush ruleset; systemctl restart nftables")
    comes_back("nft flush ruleset; systemctl restart nftables")
    assert strangers.outcomes(a, ["until", "out", 1]) == ["out"]


def test_unban_is_one_command(strangers, a, web) -> None:
    web.check_output(f"fail2ban-client set login banip {a}")
    assert strangers.outcomes(a, ["until", "out", 10]) == ["out"]
    web.check_output(f"fail2ban-client unban {a}")
    assert strangers.outcomes(a, ["until", "in", 10]) == ["in"]


def test_ssh_guesses_shut_out_from_ssh_alone(strangers, a, b, web, table) -> None:
    try:
        begin = time.time()
        guess(strangers, a, 4)
        wait_for(lambda: banned(web, "sshd") == {a}, web)
        table("bans", {"jail": "sshd", "from": "IPv4", "after": 4, "banned after s": f"< {time.time() - begin:.1f}"})
        assert "timed out" in guess(strangers, a, 1) and "Permission denied" in guess(strangers, b, 1)
        assert strangers.outcomes(a, ["get", "/", {}]) == [200]
    finally:
        # sshd holds failures against an address as well (Debian 13), for longer than this drill lasts.
        web.run("systemctl restart ssh")


@pytest.mark.once
def test_behind_a_proxy_nginx_shuts_out_whom_it_speaks_for(strangers, configure, a, web, password, table) -> None:
    """Last: with the address of A as the proxy's, everything else as it was."""
    attacker, beside, attacker6 = (f"{start}{random.randrange(1, 250)}" for start in ("198.51.100.", "203.0.113.", "2001:db8:bad:1::"))
    lists = "cat /var/lib/redoubt/nginx-bans/login.conf"
    try:
        configure(**SHORT, nginx_trusted_proxies=[a])
        # Looked at all the while: an attempt takes as long as a password is hashed.
        with strangers.in_the_background(a, ["get", "/", {}], ["until", "out", 90], proxied=attacker) as look:
            attack = strangers.visit(a, ["attack", SOMEBODY, 60], proxied=attacker)[0]
            hold, gone = look.result()
        assert (hold[1], gone[1]) == (200, "out") and attack[1] < 60
        assert web.check_output(lists) == f"{attacker}/32 1;"
        # The proxy goes on, for everybody else.
        assert strangers.outcomes(a, ["login", "admin", password], proxied=beside) == [302]
        assert a not in web.check_output("nft list table inet redoubt_bans") and attacker not in web.check_output("nft list table inet redoubt_bans")
        back = strangers.visit(a, ["until", "in", 90], proxied=attacker)[0]
        ban = float(web.check_output(f"journalctl --no-pager --output=short-unix --unit=fail2ban.service --since=@{int(hold[2])} | grep -F '[login] Ban {attacker}'").split()[0])
        table("bans", {"jail": "login", "from": "behind a proxy", "after": 4, "banned after s": round(gone[3] - strangers.failures(attacker, hold[2])[3], 2),
                       "let in after s": round(back[3] - ban, 1)})
        assert back[1] == "in"
        # IPv6 by the /64, and a ban that outlives a restart of either.
        assert strangers.outcomes(a, ["attack", SOMEBODY, 60], ["until", "out", 30], proxied=attacker6)[1] == "out"
        assert web.check_output(lists) == "2001:db8:bad:1::/64 1;"
        web.check_output("fail2ban-client set login bantime 3600; systemctl restart fail2ban; systemctl restart nginx")
        assert strangers.outcomes(a, ["get", "/", {}], proxied="2001:db8:bad:1::ffff") == ["out"]
        web.check_output("fail2ban-client unban 2001:db8:bad:1::/64")
        assert strangers.outcomes(a, ["until", "in", 30], proxied=attacker6) == ["in"]
    finally:
        configure(**SHORT)
