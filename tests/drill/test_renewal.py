"""A renewal under load: the served certificate changes, and no visitor notices."""

from __future__ import annotations

import http.client
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
