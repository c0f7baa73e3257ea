"""Several hosts are one site: each serves it by itself, and none keeps to itself what a visitor has done."""

from __future__ import annotations

import json
import re
import secrets
import time

from cryptography import x509
from login import at_site


def test_each_host_serves_with_a_certificate_of_its_own(lab, fleet, browse, site) -> None:
    keys = set()
    for name, host in fleet.hosts.items():
        assert browse(name).get(f"{site}/", timeout=20).status_code == 200, name
        text = host.check_output(f"cat /etc/letsencrypt/live/{fleet.name}/cert.pem")
        keys.add(x509.load_pem_x509_certificate(text.encode()).public_key().public_numbers())
    assert len(keys) == len(fleet.hosts) > 1


def test_they_serve_the_same_release(fleet) -> None:
    assert len(set(fleet.serving.values())) == 1


def test_a_session_of_one_host_is_one_of_the_other_and_ends_on_both(lab, fleet, browse, site) -> None:
    first, second = (browse(name) for name in list(fleet.hosts)[:2])
    deadline = time.monotonic() + 60
    # Whoever guessed before may have left a delay.
    while at_site(first, site, "admin", lab.vars(lab.web)["vault_app_admin_password"]).status_code != 302:
        assert time.monotonic() < deadline
        time.sleep(1)
    second.cookies.update(first.cookies)
    for browser in (first, second):
        assert browser.get(f"{site}/notes/new/", timeout=20, allow_redirects=False).status_code == 200
    page = second.get(f"{site}/notes/new/", timeout=20).text
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    second.post(f"{site}/accounts/logout/", data={"csrfmiddlewaretoken": token}, headers={"Referer": f"{site}/notes/new/"}, timeout=20)
    # The cookie that the first still sends is worth nothing any more.
    assert first.get(f"{site}/notes/new/", timeout=20, allow_redirects=False).status_code == 302


def test_guesses_on_one_host_count_on_the_other(fleet, browse, site) -> None:
    first, second = list(fleet.hosts)[:2]
    user = f"drill-{secrets.token_hex(6)}"
    since = fleet.hosts[second].check_output("date +@%s.%6N")
    for _ in range(6):
        at_site(browse(first), site, user, "wrong")
    at_site(browse(second), site, user, "wrong")
    journal = f"journalctl --no-pager -o cat --since={since} _TRANSPORT=journal SYSLOG_IDENTIFIER={fleet.name}-security"
    told = [json.loads(line)["event"] for line in fleet.hosts[second].check_output(journal).splitlines()]
    # Nobody had guessed there before.
    assert told == ["login_throttled"]


def test_the_acme_server_may_ask_any_host(fleet, browse, site) -> None:
    token = f"probe-{secrets.token_hex(8)}"
    path = f"/.well-known/acme-challenge/{token}"
    host = list(fleet.hosts.values())[-1]
    url = site.replace("https://", "http://") + path
    host.check_output(f"printf %s {token}.key > /var/lib/acme/webroot{path} && chmod 644 /var/lib/acme/webroot{path}")
    try:
        for name in fleet.hosts:
            answer = browse(name).get(url, timeout=20)
            assert (answer.status_code, answer.text) == (200, f"{token}.key"), name
        # Who is asked by another host asks nobody: without this two hosts would ask each other for ever.
        first = browse(next(iter(fleet.hosts)))
        assert first.get(url, headers={"X-Redoubt-Peer": "1"}, timeout=20).status_code == 404
    finally:
        host.check_output(f"rm /var/lib/acme/webroot{path}")
    for name in fleet.hosts:
        assert browse(name).get(url, timeout=20).status_code == 404, name
