"""Numbered lines on their way to the log server, and what may befall it: none is missing, all are in order, and copies are counted."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
import uuid

import pytest

# Lines of each source: the journal and a log file.
SHORT, LONG = 2500, 100_000
# Writes both at full speed, as a program and nginx would.
WRITER = """
import socket, sys
mark, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/run/systemd/journal/socket")
path = "/var/log/nginx/access.log"
for start in range(first, last, 50):
    numbers = range(start, min(start + 50, last))
    for number in numbers:
        journal.send(f"SYSLOG_IDENTIFIER=drill\\nPRIORITY=6\\nMESSAGE={mark} journal {number}\\n".encode())
    # Opened each time, so that it is never a file that logrotate has put away.
    with open(path, "a") as sink:
        sink.write("".join(f"{mark} file {number}\\n" for number in numbers))
"""
COUNTER = """
import collections, glob, gzip, json, sys
mark, found = sys.argv[1], {"journal": [], "file": []}
for path in sorted(glob.glob(sys.argv[2])):
    with open(path, errors="replace") as source:
        for line in source:
            if mark in line:
                words = json.loads(line)["message"].split()
                if len(words) == 3 and words[0] == mark:
                    found[words[1]].append(int(words[2]))
answer = {}
for kind, numbers in found.items():
    once = list(dict.fromkeys(numbers))
    answer[kind] = {"arrived": len(once), "copies": len(numbers) - len(once), "ordered": once == sorted(once), "last": max(once, default=-1)}
print(json.dumps(answer))
"""


class Logs:
    """The numbered lines of one run, from the host of the site to the log server."""

    def __init__(self, lab) -> None:
        self.lab, self.name = lab, lab.web
        self.container = lab.vars(lab.web)["lab_container"]
        self.folder = f"/var/log/redoubt/{self.name}"
        self.begin()

    def begin(self) -> None:
        self.mark, self.written, self.began = uuid.uuid4().hex, 0, time.monotonic()

    @property
    def host(self):
        return self.lab.host(self.name)

    @property
    def store(self):
        return self.lab.host(self.lab.groups["logs"][0])

    def write(self, count: int, wait: bool = True) -> None:
        """Lines of both sources; without waiting for their writer."""
        words = ["systemd-run", "--quiet", "--collect", f"--unit=drill-{self.mark}-{self.written}", *(["--wait"] if wait else []),
                 "python3", "-c", WRITER, self.mark, str(self.written), str(self.written + count)]
        self.host.check_output(shlex.join(words))
        self.written += count

    def written_to_file(self) -> int:
        """Of a writer that was killed, what there is to be delivered."""
        return int(self.host.check_output("cat /var/log/nginx/access.log.1 /var/log/nginx/access.log 2>/dev/null | grep --count '^%s file [0-9]*$'", self.mark))

    def counted(self) -> dict:
        return json.loads(self.store.check_output("python3 -c %s %s %s", COUNTER, self.mark, f"{self.folder}/*.jsonl"))

    def delivered(self, journal: int | None = None, file: int | None = None, seconds: float = 180) -> dict:
        """Until everything is there, in order; the figures."""
        wanted = {"journal": self.written if journal is None else journal, "file": self.written if file is None else file}
        deadline = time.monotonic() + seconds
        while True:
            found = self.counted()
            if all(found[kind]["arrived"] >= count for kind, count in wanted.items()):
                break
            assert time.monotonic() < deadline, (wanted, found, self.store.run("journalctl -u redoubt-log-server --no-pager -n 5").stdout,
                                                 self.host.run("journalctl -u redoubt-logs-send -u rsyslog --no-pager -n 5").stdout)
            time.sleep(0.5)
        assert all(found[kind]["arrived"] == count for kind, count in wanted.items()), (wanted, found)
        assert all(figures["ordered"] for figures in found.values()), found
        return {"lines": sum(wanted.values()), "missing": 0, "copies": sum(figures["copies"] for figures in found.values()),
                "seconds": round(time.monotonic() - self.began, 1)}


@pytest.fixture(scope="module")
def the_logs(lab):
    if not lab.groups.get("logs"):
        pytest.skip("no host of this inventory receives logs")
    return Logs(lab)


@pytest.fixture
def logs(the_logs):
    the_logs.begin()
    return the_logs


LENGTHS = pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])


@contextlib.contextmanager
def cut(host):
    """Nothing of the logs leaves the host, and nobody is told."""
    host.check_output("nft add table inet drill && nft 'add chain inet drill out { type filter hook output priority -10; }'"
                      " && nft add rule inet drill out tcp dport 8440 drop")
    try:
        yield
    finally:
        host.check_output("nft delete table inet drill")


@LENGTHS
def test_all_arrive(logs, table, count) -> None:
    logs.write(count)
    table("logs-delivery", {"what": "nothing happens", **logs.delivered()})


@LENGTHS
def test_the_network_is_cut(logs, table, count) -> None:
    logs.write(count, wait=False)
    with cut(logs.host):
        time.sleep(60 if count == LONG else 3)
    table("logs-delivery", {"what": "the network is cut", **logs.delivered()})


@LENGTHS
def test_the_server_is_killed(logs, table, count) -> None:
    logs.write(count, wait=False)
    for _ in range(3):
        time.sleep(0.7)
        logs.store.check_output("systemctl kill --signal=KILL redoubt-log-server.service")
    table("logs-delivery", {"what": "the server is killed three times", **logs.delivered()})


@LENGTHS
def test_rsyslog_and_the_sender_are_killed(logs, table, count) -> None:
    logs.write(count, wait=False)
    for unit in ("rsyslog", "redoubt-logs-send", "rsyslog", "redoubt-logs-send", "rsyslog"):
        time.sleep(0.5)
        logs.host.check_output(f"systemctl kill --signal=KILL {unit}.service")
    table("logs-delivery", {"what": "rsyslog and the sender are killed", **logs.delivered()})


@LENGTHS
def test_the_log_file_is_rotated(logs, table, count) -> None:
    logs.write(count, wait=False)
    time.sleep(0.5)
    logs.host.check_output("logrotate --force /etc/logrotate.d/nginx")
    logs.write(10)
    table("logs-delivery", {"what": "logrotate", **logs.delivered()})


@LENGTHS
def test_the_host_loses_its_power(lab, logs, table, count) -> None:
    """The journal of a lab host is in memory: of what it had taken and nobody had read, nothing is there to be delivered."""
    logs.write(count, wait=False)
    time.sleep(0.7)
    subprocess.run([*(["sudo", "-n"] if os.geteuid() else []), "podman", "kill", "--signal=KILL", logs.container], check=True, capture_output=True)
    lab.hang_up()
    lab.playbook("molecule/lab/create.yml", "--extra-vars", f"lab={lab.name}")
    lab.forget()
    there = logs.written_to_file()
    assert there > 0
    journal = logs.counted()["journal"]["last"] + 1
    found = logs.delivered(journal=journal, file=there)
    table("logs-delivery", {"what": "the host loses its power", **found})


@pytest.fixture
def small_store(logs):
    """The host's folder on the log server has room for little more than it holds."""
    folder = logs.folder
    logs.store.check_output(f"systemctl stop redoubt-log-server && mkdir /run/drill && mount -t tmpfs -o size=$(($(du -sk {folder} | cut -f 1) + 300))k drill /run/drill"
                            f" && cp -a {folder}/. /run/drill/ && chown --reference={folder} /run/drill && chmod --reference={folder} /run/drill"
                            f" && mount --move /run/drill {folder} && systemctl start redoubt-log-server")
    yield
    logs.store.check_output(f"systemctl stop redoubt-log-server && mkdir -p /run/drill && cp -a {folder}/. /run/drill/ && umount {folder}"
                            f" && rm -f {folder}/* && cp -a /run/drill/. {folder}/ && rm -r /run/drill && systemctl start redoubt-log-server")


@LENGTHS
def test_the_servers_disk_is_full(logs, table, count, small_store) -> None:
    since = logs.store.check_output("date +@%s.%N")
    logs.write(count, wait=False)
    deadline = time.monotonic() + 60
    while "No space left on device" not in logs.store.check_output("journalctl -u redoubt-log-server --no-pager --since=%s", since):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert logs.store.run(f"tail -q -c 1 {logs.folder}/*.jsonl | grep -v '^$'").stdout == ""
    logs.store.check_output(f"mount -o remount,size=2g {logs.folder}")
    table("logs-delivery", {"what": "the server's disk is full", **logs.delivered()})
