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
# systemd refuses the sixth start in ten seconds, of the socket too, which is what drills one after the other come to.
START = "systemctl reset-failed syslog.socket rsyslog.service; systemctl start rsyslog.service"
# Writes to the file while rsyslog is down, lets it read that, and kills it as soon as it has noted how far it is.
BEHIND = """
import glob, os, subprocess, sys, time
mark, first, last, path = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), "/var/log/nginx/access.log"
def noted():
    return [os.stat(note).st_mtime_ns for note in glob.glob(f"/var/lib/redoubt-logs/rsyslog/imfile-state:{os.stat(path).st_ino}:*[0-9a-f]")]
with open(path, "a") as sink:
    sink.write("".join(f"{mark} file {number}\\n" for number in range(first, last)))
before, deadline = noted(), time.monotonic() + 30
subprocess.run(["systemctl", "reset-failed", "syslog.socket", "rsyslog.service"], check=False)
subprocess.run(["systemctl", "start", "--no-block", "rsyslog.service"], check=True)
killed = False
while not killed:
    assert time.monotonic() < deadline
    # Its notes are doubted, and thereby written, before it is there: until then the file has who was killed before.
    if noted() != before:
        try:
            os.kill(int(open("/var/spool/redoubt-logs/files/writer.pid").read()), 9)
            killed = True
        except (OSError, ValueError):
            pass
subprocess.run(["systemctl", "stop", "rsyslog.service"], check=True)
"""
COUNTER = """
import collections, glob, gzip, json, sys
mark, found = sys.argv[1], {"journal": [], "file": []}
for path in sorted(glob.glob(sys.argv[2])):
    with open(path, errors="replace") as source:
        for line in source:
            # The last one may be half written.
            if mark in line and line.endswith("\\n"):
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

    def rotate(self) -> None:
        """As each night."""
        status, path = "/var/lib/logrotate/status", "/var/log/nginx/access.log"
        before = self.host.check_output(f"stat --format=%i {path}")
        # A host of today has none yet.
        self.host.check_output(f"test -s {status} || echo 'logrotate state -- version 2' >{status}; sed -i '\\|{path}|d' {status} "
                               f"&& echo '\"{path}\" 2026-1-1-0:0:0' >>{status} && systemctl start logrotate.service")
        assert self.host.check_output(f"stat --format=%i {path}.1") == before

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
                                                 self.host.run("journalctl -u redoubt-logs-send -u redoubt-logs-collect -u rsyslog --no-pager -n 5").stdout)
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


@pytest.mark.once
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


@pytest.mark.once
@LENGTHS
def test_who_collects_and_who_sends_are_killed(logs, table, count) -> None:
    logs.write(count, wait=False)
    for unit in ("rsyslog", "redoubt-logs-collect", "redoubt-logs-send", "redoubt-logs-collect", "redoubt-logs-send", "rsyslog", "redoubt-logs-collect"):
        time.sleep(0.5)
        logs.host.check_output(f"systemctl kill --signal=KILL {unit}.service")
    table("logs-delivery", {"what": "who collects and who sends are killed", **logs.delivered()})


@pytest.mark.once
@LENGTHS
def test_rsyslog_is_killed_while_it_has_much_to_read(logs, table, count) -> None:
    """Then it reads more at once than it notes at once: what is noted as read has to be in the spool."""
    logs.host.check_output("systemctl stop syslog.socket rsyslog.service")
    try:
        for _ in range(2):
            logs.host.check_output("python3 -c %s %s %s %s", BEHIND, logs.mark, str(logs.written), str(logs.written + count))
            logs.written += count
    finally:
        logs.host.check_output(START)
    table("logs-delivery", {"what": "rsyslog is killed while it has much to read", **logs.delivered(journal=0)})


@LENGTHS
def test_the_log_file_is_rotated(logs, table, count) -> None:
    logs.write(count, wait=False)
    time.sleep(0.5)
    logs.rotate()
    # Whose lines come before the next.
    logs.host.check_output("timeout 300 sh -c 'while systemctl --quiet is-active \"drill-%s-*\"; do sleep 0.1; done'", logs.mark)
    logs.write(10)
    # What was written in the moment of the change is read the night after, at the latest.
    logs.host.check_output("systemctl start logrotate.service")
    table("logs-delivery", {"what": "logrotate", **logs.delivered()})


def test_who_goes_on_with_a_file_that_was_rotated_is_heard(logs, table) -> None:
    """As nginx does until it is told: before rsyslog has read the rest of it, and after that."""
    logs.write(SHORT)
    logs.delivered()
    lines = [f"{logs.mark} file {logs.written + number}" for number in range(20)]
    early, late = "\\n".join(lines[:10]), "\\n".join(lines[10:])
    # Who has it open while it is renamed writes when logrotate tells him so; and once more when rsyslog is back.
    hold = f"exec 3>>/var/log/nginx/access.log; touch /run/drill.open; until [ -e /run/drill.early ]; do sleep 0.02; done; printf '{early}\\n' >&3; touch /run/drill.did;" \
           f" until [ -e /run/drill.late ]; do sleep 0.02; done; printf '{late}\\n' >&3"
    try:
        logs.host.check_output("systemd-run --quiet --collect --unit=drill-holds sh -c %s", hold)
        logs.host.check_output("timeout 30 sh -c 'until [ -e /run/drill.open ]; do sleep 0.02; done'")
        logs.host.check_output("printf '/run/drill.log { rotate 1\\nsize 1\\nlastaction\\ntouch /run/drill.early; sleep 1\\nendscript\\n}\\n' >/etc/logrotate.d/zz-drill; echo x >/run/drill.log")
        logs.rotate()
        logs.delivered(file=logs.written + 10)
        logs.host.check_output("touch /run/drill.late; timeout 30 sh -c 'while systemctl --quiet is-active drill-holds; do sleep 0.02; done'")
    finally:
        logs.host.check_output("touch /run/drill.early /run/drill.late; rm -f /etc/logrotate.d/zz-drill; sleep 0.2; rm -f /run/drill.*")
    # The night after.
    logs.host.check_output("systemctl start logrotate.service")
    table("logs-delivery", {"what": "a file that was rotated is written to", **logs.delivered(file=logs.written + 20)})


@LENGTHS
def test_the_log_file_is_rotated_while_rsyslog_is_down(logs, table, count) -> None:
    """And was written to until then, since rsyslog read it last."""
    logs.write(count)
    logs.delivered()
    logs.host.check_output("systemctl stop syslog.socket rsyslog.service")
    try:
        logs.write(count)
        logs.host.check_output("logrotate --force /etc/logrotate.d/nginx")
        logs.write(10)
        assert logs.counted()["file"]["arrived"] == count
    finally:
        logs.host.check_output(START)
    table("logs-delivery", {"what": "logrotate while rsyslog is down", **logs.delivered()})


@pytest.mark.once
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


ROOM = 8 << 20


@pytest.fixture
def little_room(logs):
    """The store has ROOM bytes, of which one host may take half. What comes meanwhile is put behind what was there."""
    root = "/var/log/redoubt"
    logs.store.check_output(f"systemctl stop redoubt-log-server && mount -t tmpfs -o size={ROOM},$(stat --format=mode=%a,uid=%u,gid=%g {root}) drill {root}"
                            " && systemctl start redoubt-log-server")
    yield root
    logs.store.check_output(f"systemctl stop redoubt-log-server && mkdir /run/drill && cp -a {root}/. /run/drill/ && umount {root} && cd /run/drill"
                            f" && for file in */*.jsonl; do if [ -e {root}/$file ]; then cat $file >>{root}/$file; else cp -a $file {root}/$file; fi; done"
                            " && rm -r /run/drill && systemctl start redoubt-log-server")


@pytest.mark.slow
def test_one_host_takes_all_that_one_may(lab, logs, table, little_room) -> None:
    other = lab.groups["logs"][0]
    if other == logs.name:
        pytest.skip("the log server of this inventory is the host itself")
    if lab.vars(other).get("log_server_host_percent", 50) != 50:
        pytest.skip("the inventory allows one host another part than half")
    logs.write(LONG // 5)
    # What is said of it is a record of the log server's own, which is kept while the other host waits.
    (record,) = records(logs, f"The logs of {logs.name} take all", host=other)
    assert (record["event.dataset"], record["log.level"]) == ("log_server", "crit")
    taken = int(logs.store.check_output(f"du -s --block-size=1 {logs.folder} | cut -f 1"))
    assert ROOM * 0.4 < taken <= ROOM * 0.5 + (64 << 10)
    before = logs.counted()
    assert all(found["ordered"] for found in before.values()) and sum(found["arrived"] for found in before.values()) < 2 * logs.written
    logs.store.check_output("systemd-cat --identifier=drill echo %s", f"{logs.mark} meanwhile")
    records(logs, f"{logs.mark} meanwhile", host=other)
    assert logs.counted() == before
    # Whoever looks at the log server is told as well.
    assert logs.store.run("systemctl start redoubt-log-watch.service").rc == 1
    records(logs, f"The logs of {logs.name} take 0.0 of the 0.0 GB", host=other)
    logs.store.check_output(f"mount -o remount,size=1g {little_room}")
    table("logs-delivery", {"what": "one host takes all that one may", **logs.delivered()})
    records(logs, f"There is room for {logs.name} again", host=other)


@pytest.mark.once
@LENGTHS
def test_the_certificate_has_ended(lab, logs, table, count, expired) -> None:
    path = f"{lab.vars(lab.web)['site_pki']}/host.pem"
    logs.host.check_output(f"cp --preserve=all {path} /run/drill.pem")
    since = logs.store.check_output("date +@%s.%N")
    try:
        expired(logs.host)
        # A connection that is there goes on with the certificate that it began with.
        logs.host.check_output("systemctl restart redoubt-logs-send.service")
        logs.write(count)
        deadline = time.monotonic() + 60
        while "certificate has expired" not in logs.store.check_output("journalctl -u redoubt-log-server --no-pager --since=%s", since):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert logs.counted()["journal"]["arrived"] == 0
        if count == LONG:
            # As the docs say: the next site.yml makes another.
            lab.playbook("playbooks/site.yml")
    finally:
        if count != LONG:
            logs.host.check_output(f"cp --preserve=all /run/drill.pem {path}")
        logs.host.check_output("rm -f /run/drill.pem")
    table("logs-delivery", {"what": "the certificate has ended", **logs.delivered()})


# --- What is said is one record, whatever it is ----------------------------------------------------------------------

SAY = """
import socket, struct, sys
mark, hostile, times = sys.argv[1].encode(), bytes.fromhex(sys.argv[2]), int(sys.argv[3])
message = mark + b" " + hostile * times + b" end"
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.sendto(b"SYSLOG_IDENTIFIER=drill\\nPRIORITY=3\\nMESSAGE\\n" + struct.pack("<Q", len(message)) + message + b"\\n", "/run/systemd/journal/socket")
"""


def records(logs, text: str, seconds: float = 30, host: str = "") -> list[dict]:
    """Those on the log server that hold a text, once there is one. What sudo and systemd say of the drill's own commands is not meant."""
    deadline = time.monotonic() + seconds
    while not among(logs, host or logs.name, text):
        assert time.monotonic() < deadline, text
        time.sleep(0.3)
    # What else came of it would be there by now.
    time.sleep(1)
    return among(logs, host or logs.name, text)


def among(logs, host: str, text: str) -> list[dict]:
    lines = logs.store.run("grep --no-filename --fixed-strings %s /var/log/redoubt/%s/*.jsonl", text, host).stdout.split("\n")
    return [record for record in map(json.loads, filter(None, lines)) if record.get("service.name") not in ("sudo", "systemd")]


@pytest.mark.parametrize(
    ("name", "hostile", "times"),
    [("newlines", b"\nfake: root logged in\r\n\n", 1), ("nul", b"\0a\0", 1), ("ansi", b"\x1b[2J\x1b]0;owned\x07", 1), ("no-utf8", b"\xff\xfe\xc3(", 1), ("64-kB", b"x", 65536),
     ("json", b'"}\n{"@timestamp":"2000-01-01T00:00:00.000000Z","host.name":"store1","message":"', 1), ("unicode", "\u202e\u2028\ufeff".encode(), 1)],
)
def test_hostile_bytes_are_one_harmless_record(logs, name, hostile, times) -> None:
    mark = f"{logs.mark}-{name}"
    logs.host.check_output("python3 -c %s %s %s %s", SAY, mark, hostile.hex(), str(times))
    (record,) = records(logs, mark)
    assert (record["host.name"], record["service.name"], record["log.level"]) == (logs.name, "drill", "err")
    assert record["message"].startswith(f"{mark} ") and len(record["message"]) <= 32768
    raw = logs.store.check_output("grep --no-filename --fixed-strings %s %s/*.jsonl | grep '\"service.name\": \"drill\"'", mark, logs.folder)
    assert raw.isascii() and raw.isprintable() and len(raw) <= 65536


def test_a_traceback_is_one_record(logs, lab) -> None:
    """Of the application itself, through its settings, the guard and the unit that it runs in."""
    app = lab.vars(lab.web)["app_name"]
    code = f"import logging\ntry:\n    raise ValueError('{logs.mark} ' + 'x' * 4096)\nexcept ValueError:\n    logging.getLogger('django.request').exception('Internal Server Error: /')\n"
    unit = f"{app}-drill-{logs.mark[:8]}"
    logs.host.check_output(
        f"systemd-run --quiet --wait --collect --unit={unit} --property=EnvironmentFile=/srv/{app}/live/env --property=User={app}"
        f" --property=SyslogIdentifier={app} --setenv=REDOUBT_LOG_IDENTIFIER={app} --working-directory=/srv/{app}/live/release/src/{lab.vars(lab.web)['app_project_dir']}"
        f" --setenv=REDOUBT_STAGE=worker /srv/{app}/live/release/venv/bin/python manage.py shell -c {shlex.quote(code)}")
    (record,) = records(logs, logs.mark)
    assert "Internal Server Error: /\nTraceback (most recent call last):\n" in record["message"] and record["message"].count("x") >= 4096
    assert (record["log.level"], record["service.name"], record["event.dataset"]) == ("err", unit, f"app.{unit.removeprefix(f'{app}-')}")


# --- Who is somebody else --------------------------------------------------------------------------------------------

# What somebody who owns a host can say with its key: frames to the log server, and what it answers.
CLIENT = """
import json, socket, ssl, sys
context = ssl.create_default_context(cafile="/etc/redoubt/pki/ca.pem")
context.check_hostname = False
if sys.argv[3]:
    context.load_cert_chain(sys.argv[3], sys.argv[4])
answer = b""
try:
    with context.wrap_socket(socket.create_connection((sys.argv[1], 8440), timeout=10)) as connection:
        connection.settimeout(3)
        connection.sendall(bytes.fromhex(sys.argv[2]))
        while received := connection.recv(65536):
            answer += received
except OSError as error:
    answer += type(error).__name__.encode()
print(answer.decode(errors="replace"))
"""
OPEN = b"1 open 46 relp_version=0\nrelp_software=x\ncommands=syslog\n"


def say(logs, *frames: tuple[str, bytes], certificate: str = "/etc/redoubt/pki/host.pem", key: str = "/etc/redoubt/pki/host.key") -> str:
    data = OPEN + b"".join(b"%d %s %d %s\n" % (number, command.encode(), len(data), data) for number, (command, data) in enumerate(frames, 2))
    address = logs.lab.vars(logs.lab.groups["logs"][0])["lab_ipv4"]
    return logs.host.check_output("python3 -c %s %s %s %s %s", CLIENT, address, data.hex(), certificate, key)


def test_an_owned_host_writes_as_itself_and_does_nothing_else(logs) -> None:
    other = next(name for name in logs.lab.groups["all"] if name != logs.name)
    claim = json.dumps({"t": "", "host.name": other, "m": f"{logs.mark} {{\"host.name\": \"{other}\"}}", "in": f"../{other}", "tag": f"../{other}/x", "f": f"/var/log/redoubt/{other}"})
    assert "2 rsp 6 200 OK" in say(logs, ("syslog", claim.encode()))
    (record,) = records(logs, logs.mark)
    assert record["host.name"] == logs.name
    assert among(logs, other, logs.mark) == []
    # RELP has commands for nothing else, and this end knows none.
    for command in ("read", "delete", "starttls", "serverclose", "rsp"):
        assert "2 rsp" not in say(logs, (command, b"x")), command
    # Nor does anything else of the log server let it in.
    address = logs.lab.vars(logs.lab.groups["logs"][0])["lab_ipv4"]
    assert logs.host.run(f"timeout 10 ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
                         f" -i /etc/redoubt/pki/host.key root@{address} id || exit 1").rc == 1


def test_a_strangers_certificate_is_refused_and_that_is_shipped(logs) -> None:
    since = logs.store.check_output("date --utc +%Y-%m-%dT%H:%M:%S")
    logs.host.check_output("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /run/drill.key -out /run/drill.pem -subj /CN=%s"
                           f" -addext subjectAltName=DNS:{logs.name} 2>/dev/null", logs.name)
    try:
        assert "rsp" not in say(logs, ("syslog", b"x"), certificate="/run/drill.pem", key="/run/drill.key")
        assert "rsp" not in say(logs, ("syslog", b"x"), certificate="", key="")
    finally:
        logs.host.check_output("rm /run/drill.key /run/drill.pem")
    deadline = time.monotonic() + 30
    wanted = {"self-signed certificate", "PEER_DID_NOT_RETURN_A_CERTIFICATE"}
    while True:
        lines = logs.store.run(f"grep --no-filename '\"event.action\": \"refused\"' /var/log/redoubt/{logs.lab.groups['logs'][0]}/*.jsonl").stdout.splitlines()
        found = [record for record in map(json.loads, lines) if record["@timestamp"] >= since]
        if wanted <= {record["event.reason"] for record in found}:
            break
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    assert {record["source.ip"] for record in found} == {logs.lab.vars(logs.name)["lab_ipv4"]}
    assert {record["log.level"] for record in found} == {"warning"}
