"""A renewal under load: the served certificate changes, and no visitor notices."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time

import pytest
from cryptography import x509
from edge import Edge

pytestmark = pytest.mark.hosts("web")

FORCE = "/run/systemd/system/certbot-renew.service.d/force.conf"
DROP_IN = """[Service]
ExecStart=
ExecStart=/usr/local/sbin/certbot renew --non-interactive --force-renewal --no-random-sleep-on-renew
"""


@pytest.fixture
def edge(lab, host) -> Edge:
    return Edge(lab, host.lab["inventory_hostname"])


def serial(edge: Edge) -> int:
    return x509.load_der_x509_certificate(edge.certificate()).serial_number


def until(edge: Edge, path: str, stop: threading.Event, failures: list[str], counter: list[int]) -> None:
    """Ask again and again, over a new connection each time."""
    while not stop.is_set():
        try:
            status = edge.ask(path).status
            if status >= 500:
                failures.append(f"{path}: {status}")
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{path}: {error!r}")
        counter[0] += 1
        time.sleep(0.05)


def upload_slowly(edge: Edge, begun: threading.Event, finish: threading.Event, answers: list[int | str]) -> None:
    """A request that begins before the reload and ends after it."""
    body = b"x=" + b"y" * 998
    connection = http.client.HTTPConnection(edge.canonical, timeout=30)
    connection.sock = edge.tls(edge.canonical)
    try:
        connection.putrequest("POST", edge.variables["app_login_paths"][0])
        connection.putheader("Content-Type", "application/x-www-form-urlencoded")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        for position in range(len(body)):
            connection.send(body[position : position + 1])
            begun.set()
            if not finish.is_set():
                time.sleep(0.1)
        answers.append(connection.getresponse().status)
    except (OSError, http.client.HTTPException) as error:
        answers.append(repr(error))
    finally:
        begun.set()
        connection.close()


def test_a_renewal_changes_the_served_certificate_and_fails_no_request(host, edge: Edge) -> None:
    before = serial(edge)
    workers = host.check_output("pgrep --parent $(cat /run/nginx.pid)").split()
    stop, begun, finish = threading.Event(), threading.Event(), threading.Event()
    failures: list[str] = []
    answers: list[int | str] = []
    counter = [0]
    threads = [threading.Thread(target=until, args=(edge, path, stop, failures, counter)) for path in ("/", "/static/none.css")]
    threads.append(threading.Thread(target=upload_slowly, args=(edge, begun, finish, answers)))
    for thread in threads:
        thread.start()
    host.check_output(f"mkdir -p {FORCE.rpartition('/')[0]} && printf '%s' '{DROP_IN}' > {FORCE} && systemctl daemon-reload")
    try:
        assert begun.wait(10)
        renewal = host.run("systemctl start certbot-renew.service")
        log = host.run("journalctl --unit=certbot-renew.service --no-pager --lines=40").stdout
        assert renewal.rc == 0, log
        deadline = time.monotonic() + 10
        while serial(edge) == before and time.monotonic() < deadline:
            time.sleep(0.2)
        after = serial(edge)
        # The upload is still being read by a worker of the old configuration.
        lingering = set(host.check_output("pgrep --parent $(cat /run/nginx.pid)").split()) & set(workers)
        time.sleep(1)
    finally:
        stop.set()
        finish.set()
        for thread in threads:
            thread.join(30)
        host.run(f"rm -rf {FORCE.rpartition('/')[0]} && systemctl daemon-reload")
    assert after != before, log
    assert lingering, "no worker of the old configuration was at work: the drill proved nothing about requests in flight"
    assert failures == [], f"{len(failures)} of {counter[0]} requests failed: {failures[:5]}"
    assert counter[0] > 20
    # Whatever the application thinks of the form: it was asked, and it answered.
    assert len(answers) == 1 and isinstance(answers[0], int) and answers[0] < 500, answers
    print(f"serial {before:x} -> {after:x}; {counter[0]} requests, {len(failures)} failed; slow upload answered {answers[0]}")


# --- When it does not work --------------------------------------------------------------------------------------------


@pytest.fixture
def forced(host):
    """The timer's service renews whether or not it is due; `last` are the alerts since."""
    host.check_output(f"mkdir -p {FORCE.rpartition('/')[0]} && printf '%s' '{DROP_IN}' > {FORCE} && systemctl daemon-reload")
    yield
    host.run(f"rm -rf {FORCE.rpartition('/')[0]} && systemctl daemon-reload && systemctl reset-failed certbot-renew.service")


def alerts(host, since: str) -> list[str]:
    said = host.check_output(f"journalctl --no-pager -o cat --since={since} --priority=crit SYSLOG_IDENTIFIER=redoubt-alert")
    return said.splitlines()


def now(host) -> str:
    return host.check_output("date +@%s.%6N")


def assert_renewal_fails_aloud(host, edge: Edge) -> None:
    """One line at crit that says what it is about and how long there is, and the old certificate goes on."""
    before, since = serial(edge), now(host)
    assert host.run("systemctl start certbot-renew.service").rc != 0
    (line,) = alerts(host, since)
    ends = x509.load_der_x509_certificate(edge.certificate()).not_valid_after_utc
    assert f"The certificate of {edge.canonical} was not renewed" in line and ends.strftime("%H:%M:%S %Y GMT") in line, line
    assert serial(edge) == before
    assert edge.ask("/").status == 200


def assert_renewal_works(host, edge: Edge) -> None:
    before, since = serial(edge), now(host)
    renewal = host.run("systemctl start certbot-renew.service")
    assert renewal.rc == 0, host.run("journalctl --unit=certbot-renew.service --no-pager --lines=40").stdout
    deadline = time.monotonic() + 10
    while serial(edge) == before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert serial(edge) != before
    assert alerts(host, since) == []


def test_a_name_that_leads_nowhere_fails_the_renewal_aloud_until_it_is_repaired(lab, host, edge: Edge, forced) -> None:
    name = edge.domains[-1]
    try:
        lab.dns(name)
        assert_renewal_fails_aloud(host, edge)
    finally:
        lab.dns(name, [host.lab["lab_ipv4"]], [host.lab["lab_ipv6"]])
    assert_renewal_works(host, edge)


@pytest.mark.once
def test_an_acme_server_that_is_down_is_told_and_the_site_goes_on(lab, host, edge: Edge, forced) -> None:
    """Not ours to stop: to this host it is gone when its port is."""
    rule = "inet drill_acme"
    host.check_output(f"nft 'add table {rule}; add chain {rule} out {{ type filter hook output priority -10; }}; "
                      f"add rule {rule} out tcp dport {{ 14000, 15000 }} reject with tcp reset'")
    try:
        assert_renewal_fails_aloud(host, edge)
        # A converge changes nothing of a certificate that is good.
        before = serial(edge)
        done = lab.playbook("playbooks/site.yml")
        assert "changed=0" in done.stdout and serial(edge) == before
    finally:
        host.run(f"nft delete table {rule}")
    assert_renewal_works(host, edge)


@pytest.mark.slow
def test_a_domain_is_added_and_removed(lab, host, edge: Edge) -> None:
    """The certificate follows app_domains both ways, and names that are not ours any more get no answer."""
    name = f"added.{edge.canonical}"
    wanted = json.dumps({"app_domains": [*edge.domains, name]})
    lab.dns(name, [host.lab["lab_ipv4"]])
    try:
        lab.playbook("playbooks/site.yml", "--extra-vars", wanted)
        answer = edge.ask("/x?y", name=name)
        assert (answer.status, answer.one("Location")) == (301, f"https://{edge.canonical}/x?y")
    finally:
        lab.playbook("playbooks/site.yml")
        lab.dns(name)
    names = x509.load_der_x509_certificate(edge.certificate()).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert sorted(names.value.get_values_for_type(x509.DNSName)) == sorted(edge.domains)
    with pytest.raises(ssl.SSLError) as caught:
        edge.tls(name).close()
    assert caught.value.reason == "TLSV1_UNRECOGNIZED_NAME"
