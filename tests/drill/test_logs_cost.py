"""What shipping costs: processor and bytes on the wire for 100,000 lines, and what visitors notice of it."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import socket
import ssl
import statistics
import threading
import time

import pytest
from test_logs_delivery import Logs

pytestmark = pytest.mark.slow

LINES, PAIRS, SECONDS, PARALLEL = 50_000, 8, 5.0, 6
# Their threads' time on processors so far, in seconds, by unit; of all that the unit runs.
SPENT = """
import json, os, sys
tick, found = os.sysconf("SC_CLK_TCK"), {}
for unit in sys.argv[1:]:
    found[unit] = 0.0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if any(line.rstrip().endswith(f"/{unit}") for line in open(f"/proc/{pid}/cgroup")):
                fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
                found[unit] += (int(fields[11]) + int(fields[12])) / tick
        except OSError:
            pass
print(json.dumps(found))
"""
CLIENT = ["systemd-journald.service", "rsyslog.service", "redoubt-logs-collect.service", "redoubt-logs-send.service"]
SERVER = ["redoubt-log-server.service"]


@pytest.fixture(scope="module")
def logs(lab):
    if not lab.groups.get("logs"):
        pytest.skip("no host of this inventory receives logs")
    return Logs(lab)


def spent(host, units: list[str]) -> dict[str, float]:
    return json.loads(host.check_output(f"python3 -c {shlex.quote(SPENT)} {' '.join(units)}"))


def test_processor_and_bytes_of_100000_lines(logs, lab, table) -> None:
    """Half of them through the journal, half through a file, as short as a numbered line is."""
    port = int(lab.vars(lab.web)["site_log_port"])
    logs.host.check_output(f"nft add table inet drill && nft 'add chain inet drill out {{ type filter hook output priority 10; }}' "
                           f"&& nft 'add rule inet drill out tcp dport {port} counter'")
    try:
        logs.begin()
        before = {**spent(logs.host, CLIENT), **spent(logs.store, SERVER)}
        logs.write(LINES)
        delivered = logs.delivered()
        after = {**spent(logs.host, CLIENT), **spent(logs.store, SERVER)}
        counter = logs.host.check_output("nft list chain inet drill out | sed -n 's/.*counter packets [0-9]* bytes \\([0-9]*\\).*/\\1/p'")
    finally:
        logs.host.check_output("nft delete table inet drill")
    used = {unit: after[unit] - before[unit] for unit in after}
    # A unit whose time was not seen would cost nothing.
    assert all(used.values()), used
    assert int(counter) > LINES
    table("logs_cost", {"lines": delivered["lines"], "copies": delivered["copies"], "until all were there s": delivered["seconds"],
                        **{f"{unit.removesuffix('.service')} CPU s": round(seconds, 1) for unit, seconds in used.items()},
                        "MB on the wire": round(int(counter) / 1e6, 1)})


class Connection(http.client.HTTPSConnection):
    """To the lab's host by the site's name, again too where nginx has ended it after a thousand requests."""

    def __init__(self, visitors: Visitors) -> None:
        super().__init__(visitors.domain, timeout=30)
        self.visitors = visitors

    def connect(self) -> None:
        self.sock = self.visitors.context.wrap_socket(socket.create_connection(self.visitors.address, 30), server_hostname=self.host)


class Visitors:
    """PARALLEL of them, each of whom asks for the front page again as soon as it is there."""

    def __init__(self, lab) -> None:
        self.address, self.domain = lab.published(lab.web, 443), lab.vars(lab.web)["app_domains"][0]
        self.context = ssl.create_default_context(cafile=str(lab.ca))

    def rate(self, seconds: float) -> float:
        """Answers a second."""
        counts, ended, ends = [0] * PARALLEL, [False] * PARALLEL, time.monotonic() + seconds

        def ask(number: int) -> None:
            made = Connection(self)
            while time.monotonic() < ends:
                made.request("GET", "/")
                answer = made.getresponse()
                answer.read()
                assert answer.status == 200
                counts[number] += 1
            made.close()
            ended[number] = True

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(PARALLEL)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(ended), counts
        return sum(counts) / (time.monotonic() - began)


def settle(host, shipping: bool) -> None:
    """What waited has gone before it counts."""
    time.sleep(2)
    deadline = time.monotonic() + 60
    while shipping and json.loads(host.check_output("/usr/local/lib/redoubt/logs status"))["waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_visitors_notice_nothing(logs, lab, table) -> None:
    """In pairs, each in the other order: what else the machine does meanwhile is in both."""
    visitors, shipped = Visitors(lab), CLIENT[1:]
    units = " ".join(shipped)
    visitors.rate(SECONDS)
    rates, used = [], dict.fromkeys([*shipped, *SERVER], 0.0)
    try:
        for number in range(PAIRS):
            pair = {}
            for shipping in (True, False) if number % 2 else (False, True):
                logs.host.check_output(f"systemctl {'start' if shipping else 'stop'} {units}")
                settle(logs.host, shipping)
                before = {**spent(logs.host, shipped), **spent(logs.store, SERVER)}
                pair[shipping] = visitors.rate(SECONDS)
                after = {**spent(logs.host, shipped), **spent(logs.store, SERVER)}
                if shipping:
                    used = {unit: seconds + after[unit] - before[unit] for unit, seconds in used.items()}
            rates.append(pair)
    finally:
        logs.host.check_output(f"systemctl start {units}")
    with_it, without = (statistics.median(pair[shipping] for pair in rates) for shipping in (True, False))
    ratio = statistics.median(pair[True] / pair[False] for pair in rates)
    # In a lab the log server runs on the processors that serve the visitors, where it has a host of its own otherwise: its part is shown, and counts.
    whole = PAIRS * SECONDS * os.cpu_count()
    table("logs_visitors", {"pairs": PAIRS, "requests/s with": round(with_it), "without": round(without), "ratio": round(ratio, 3),
                            "ratio of each": " ".join(f"{pair[True] / pair[False]:.2f}" for pair in rates),
                            **{f"{unit.removesuffix('.service')} % of the processors": round(100 * seconds / whole, 2) for unit, seconds in used.items()},
                            "ratio without the server's part": round(ratio / (1 - used[SERVER[0]] / whole), 3)})
    assert ratio >= 0.97
