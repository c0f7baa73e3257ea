"""An outside collector, which is somebody else's: rsyslog with a certificate of another CA, on a host that is none of the inventory's."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest
from test_logs_delivery import Logs

pytestmark = pytest.mark.slow

NAME, LINES = "siem.test", 20_000
# Its records as it keeps them: by whom, as what, and the message as it came.
CONFIG = """
global(DefaultNetstreamDriver="ossl" DefaultNetstreamDriverCAFile="/run/siem/ca.pem" DefaultNetstreamDriverCertFile="/run/siem/host.pem"
       DefaultNetstreamDriverKeyFile="/run/siem/host.key" maxMessageSize="128k")
module(load="imtcp" StreamDriver.Name="ossl" StreamDriver.Mode="1" StreamDriver.AuthMode="anon")
template(name="kept" type="string" string="%hostname% %syslogseverity-text% %msg%\\n")
ruleset(name="siem") { action(type="omfile" file="/run/siem/received" template="kept") }
input(type="imtcp" port="6514" ruleset="siem")
"""
MAKE = """
set -e
if ! ls /usr/lib/*/rsyslog/lmnsd_ossl.so >/dev/null 2>&1; then
    apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install rsyslog rsyslog-openssl
fi >/dev/null
systemctl --quiet disable --now syslog.socket rsyslog.service
rm -rf /run/siem && mkdir -m 700 /run/siem && cd /run/siem
key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
openssl req -x509 $key -keyout ca.key -out ca.pem -subj '/CN=somebody else' -addext keyUsage=critical,keyCertSign
openssl req -x509 $key -keyout host.key -out host.pem -subj /CN=%s -addext subjectAltName=DNS:%s -addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca.key
touch received
"""
COUNTER = """
import collections, json, sys
found, lines = collections.defaultdict(list), set()
for line in open("/run/siem/received"):
    host, severity, message = line.rstrip("\\n").split(" ", 2)
    if sys.argv[1] in message:
        record = json.loads(message)
        words = record["message"].split()
        if len(words) == 3 and words[0] == sys.argv[1]:
            assert (host, severity) == (record["host.name"], record["log.level"]), line
            found[words[1]].append(int(words[2]))
            lines.add(message)
print(json.dumps({"lines": sorted(lines), **{kind: {"arrived": len(set(numbers)), "copies": len(numbers) - len(set(numbers)),
                  "ordered": list(dict.fromkeys(numbers)) == sorted(set(numbers))} for kind, numbers in found.items()}}))
"""


class Collector:
    """Beside the lab's ACME server, in the container that is no host of the inventory."""

    def __init__(self, lab) -> None:
        self.container = lab.vars(lab.web)["lab_container"].removesuffix(lab.web) + "acme"
        self.run(MAKE.replace("%s", NAME))
        self.run("cat >/run/siem/rsyslog.conf", CONFIG)
        self.ca = self.run("cat /run/siem/ca.pem")
        self.address = self.run("hostname -I").split()[0]

    def run(self, script: str, text: str = "") -> str:
        command = [*(["sudo", "-n"] if os.geteuid() else []), "podman", "exec", "--interactive", self.container, "sh", "-c", script]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        self.run("systemd-run --quiet --collect --unit=drill-siem rsyslogd -n -f /run/siem/rsyslog.conf -i /run/siem/pid"
                 " && timeout 10 sh -c 'until ss -ltn | grep -q :6514; do sleep 0.1; done'")

    def signal(self, name: str) -> None:
        self.run(f"systemctl kill --signal={name} drill-siem.service")

    def end(self) -> None:
        self.run("systemctl stop drill-siem.service 2>/dev/null; rm -rf /run/siem; DEBIAN_FRONTEND=noninteractive apt-get -q -y purge rsyslog rsyslog-openssl >/dev/null")

    def counted(self, mark: str) -> dict:
        return {"journal": {"arrived": 0}, "file": {"arrived": 0}, **json.loads(self.run(f"python3 -c '{COUNTER}' {mark}"))}

    def delivered(self, logs: Logs, seconds: float = 150) -> dict:
        """Until it has everything, in order, as the store has it."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.counted(logs.mark)
            if all(found[kind]["arrived"] >= logs.written for kind in ("journal", "file")):
                break
            assert time.monotonic() < deadline, (logs.written, {kind: found[kind] for kind in ("journal", "file")}, said(logs))
            time.sleep(1)
        assert found["journal"]["ordered"] and found["file"]["ordered"]
        stored = logs.store.check_output("grep --no-filename --fixed-strings %s %s/*.jsonl | sort --unique", logs.mark, logs.folder).splitlines()
        # Of what arrived in the store twice, each copy has a time of its own.
        assert len(found["lines"]) >= 2 * logs.written and set(found["lines"]) <= set(stored)
        return {"lines": 2 * logs.written, "missing": 0, "copies": found["journal"]["copies"] + found["file"]["copies"],
                "seconds": round(time.monotonic() - logs.began, 1)}


def said(logs: Logs) -> str:
    return logs.store.check_output("journalctl -u redoubt-log-forward --no-pager -n 20")


def forward(lab, ca: str) -> None:
    """As somebody who runs the log server would."""
    lab.playbook("playbooks/site.yml", "--extra-vars", json.dumps({"log_server_forward": {"host": NAME, "ca": ca} if ca else {}}))


@pytest.fixture(scope="module")
def logs(lab):
    if not lab.groups.get("logs"):
        pytest.skip("no host of this inventory receives logs")
    return Logs(lab)


@pytest.fixture(scope="module")
def collector(lab, logs):
    found = Collector(lab)
    lab.dns(NAME, a=[found.address])
    found.start()
    yield found
    forward(lab, "")
    assert logs.store.run("systemctl is-active redoubt-log-forward.service").stdout.strip() == "inactive"
    assert not logs.store.file("/etc/redoubt/log-server/forward.pem").exists
    logs.store.check_output("rm -rf /var/lib/redoubt-log-forward; systemctl start redoubt-log-watch.service")
    lab.dns(NAME)
    found.end()


def test_another_ca_is_refused_and_that_is_said_aloud(lab, logs, collector) -> None:
    since = logs.store.check_output("date +@%s.%N")
    began = logs.store.check_output("date --utc +%Y-%m-%dT%H:%M:%S")
    forward(lab, lab.vars(lab.web)["pki_ca_certificate"])
    logs.begin()
    logs.write(50)
    logs.delivered()
    deadline = time.monotonic() + 30
    while "certificate verify failed" not in logs.store.check_output("journalctl -u redoubt-log-forward --no-pager --priority=crit --since=%s", since):
        assert time.monotonic() < deadline, said(logs)
        time.sleep(0.5)
    # It has been told of nobody.
    assert collector.run("cat /run/siem/received") == ""
    # After a quarter of an hour it is an alert, every time that is looked.
    positions = "/var/lib/redoubt-log-forward/positions.json"
    assert logs.store.run("systemctl start redoubt-log-watch.service").rc == 0
    logs.store.check_output("touch --date='-16 minutes' %s", positions)
    assert logs.store.run("systemctl start redoubt-log-watch.service").rc == 1
    sentence = f"{NAME} has taken no log record for more than 15 minutes"
    deadline = time.monotonic() + 30
    while True:
        lines = logs.store.run(f"grep --no-filename --fixed-strings '{sentence}' /var/log/redoubt/{logs.lab.groups['logs'][0]}/*.jsonl").stdout.splitlines()
        if any(record["@timestamp"] >= began and (record["event.dataset"], record["log.level"]) == ("alert", "crit") for record in map(json.loads, lines)):
            break
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)


def test_records_arrive_and_a_collector_that_is_away_delays_nothing(lab, logs, collector, table) -> None:
    forward(lab, collector.ca)
    logs.begin()
    logs.write(LINES)
    logs.delivered()
    table("logs_forward", {"what": "nothing happens", **collector.delivered(logs)})
    logs.begin()
    # It takes the connection, and nothing from it; then it is not there at all.
    collector.signal("STOP")
    logs.write(LINES)
    stored = logs.delivered()
    collector.signal("KILL")
    logs.write(LINES)
    stored = logs.delivered()
    # That it was away is no less true.
    assert collector.counted(logs.mark)["file"]["arrived"] == 0
    collector.run("until ! systemctl --quiet is-active drill-siem.service; do sleep 0.1; done")
    collector.start()
    table("logs_forward", {"what": "halted, killed, back", "in the store after s": stored["seconds"], **collector.delivered(logs)})
    assert logs.store.run("systemctl start redoubt-log-watch.service").rc == 0
