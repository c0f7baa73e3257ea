"""The sender and the log server as they are, over loopback, with what may befall them: whatever is killed, cut, full or out of date,
no record is missing, and nobody writes as another."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROLES = Path(__file__).parents[2] / "roles"
SENDER, SERVER = ROLES / "logs/files/usr/local/lib/redoubt/logs", ROLES / "log_server/files/usr/local/lib/redoubt/log-server"
NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self.signed(x509.CertificateBuilder().subject_name(self.name).public_key(self.key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True), 30)
        self.path = folder / f"{name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def signed(self, builder: x509.CertificateBuilder, days: int) -> x509.Certificate:
        builder = builder.issuer_name(self.name).serial_number(x509.random_serial_number())
        return builder.not_valid_before(NOW - datetime.timedelta(60)).not_valid_after(NOW + datetime.timedelta(days)).sign(self.key, hashes.SHA256())

    def give(self, *names: str, days: int = 30, path: str = "") -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        builder = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key())
        made = self.signed(builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False), days)
        paths = self.folder / f"{path or names[0]}.pem", self.folder / f"{path or names[0]}.key"
        paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return paths


class World:
    """One log server and one host's sender; the test is the host's rsyslog."""

    def __init__(self, base: Path) -> None:
        self.base = base
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.ca = Authority(base)
        self.store, self.spool = base / "store", base / "spool/files"
        for folder in (self.store, self.spool, base / "spool/journal", base / "state"):
            folder.mkdir(parents=True)
        (base / "positions").mkdir()
        certificate, key = self.ca.give("store1")
        common = {"ca": str(self.ca.path), "port": self.port}
        self.server_settings = {**common, "certificate": str(certificate), "key": str(key), "path": str(self.store), "days": 400, "silent_hours": 3,
                                "full_percent": 100, "host_percent": 100, "hosts": {"app1": {"app": "notes", "zone": "Etc/UTC"}, "app2": {"app": "", "zone": "Etc/UTC"}}}
        certificate, key = self.ca.give("app1")
        self.settings = {**common, "certificate": str(certificate), "key": str(key), "server": "store1", "addresses": ["127.0.0.1"], "spool": str(base / "spool"),
                         "state": str(base / "state"), "positions": str(base / "positions"), "limit": 2 << 30, "silence": 900}
        self.running: dict[str, subprocess.Popen] = {}
        self.written = 0

    def start(self, name: str, env: dict[str, str] | None = None, **more: object) -> subprocess.Popen:
        program, verb, settings = {"server": (SERVER, "serve", self.server_settings), "sender": (SENDER, "send", self.settings),
                                   "collector": (SENDER, "collect", self.settings)}[name]
        config = self.base / f"{name}.json"
        config.write_text(json.dumps(settings))
        environment = {**os.environ, "REDOUBT_LOGS_CONFIG": str(config), "REDOUBT_LOG_SERVER_CONFIG": str(config), **(env or {})}
        (self.base / f"{name}.log").write_text("")
        self.running[name] = subprocess.Popen([str(program), verb], env=environment, stdout=(self.base / f"{name}.log").open("ab"),
                                              stderr=subprocess.STDOUT, **more)
        if name == "server":
            self.until("Listening", name)
        return self.running[name]

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        process = self.running.pop(name)
        process.send_signal(how)
        process.wait()
        if name == "collector":
            # systemd ends all of a unit. What wrote to it may have ended of itself by now.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def write(self, count: int, text: str = "") -> None:
        with (self.spool / "current").open("ab") as sink:
            for _ in range(count):
                sink.write(json.dumps({"t": "2026-11-26T20:44:45.123456+00:00", "l": "6", "in": "imjournal", "id": "x", "m": f"{self.written} {text}"},
                                      separators=(", ", ":")).encode() + b"\n")
                self.written += 1

    def rotate(self, number: int) -> None:
        (self.spool / "current").rename(self.spool / str(number))

    def arrived(self, host: str = "app1") -> list[int]:
        lines = b"".join(path.read_bytes() for path in sorted((self.store / host).glob("*.jsonl"))) if (self.store / host).exists() else b""
        return [int(number) for line in lines[: lines.rfind(b"\n") + 1].splitlines()
                if (number := json.loads(line)["message"].split()[0]).isdigit()]

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.store.glob("app1/*.jsonl"))

    def wait(self, seconds: float = 60) -> list[int]:
        """Until everything written has arrived; what arrived, duplicates included."""
        deadline = time.monotonic() + seconds
        while len(set(found := self.arrived())) < self.written:
            assert time.monotonic() < deadline, f"{self.written - len(set(found))} of {self.written} are missing; {self.said('sender')} {self.said('server')}"
            time.sleep(0.1)
        assert list(dict.fromkeys(found)) == list(range(self.written)), "not in order"
        return found

    def said(self, name: str) -> str:
        return (self.base / f"{name}.log").read_text()

    def until(self, text: str, name: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(text, self.said(name)):
            assert time.monotonic() < deadline, self.said(name)
            time.sleep(0.05)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    for name in list(found.running):
        found.kill(name)


def test_everything_arrives_in_order_and_once(world: World) -> None:
    world.start("server")
    world.start("sender")
    world.write(3000)
    world.wait()
    world.write(20000, "x" * 200)
    world.rotate(1)
    world.write(10)
    assert world.wait() == list(range(world.written))
    # What is acknowledged to its end is removed, what may still be written to is not.
    deadline = time.monotonic() + 10
    while (world.spool / "1").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert (world.spool / "current").exists()


def test_a_writer_that_has_nothing_more_to_say_holds_nothing_back(world: World) -> None:
    """It was told twice of a new file while it had much to write, and opens the next with the next line, whenever that is."""
    writer = subprocess.Popen(["/bin/sh", "-c", "trap '' HUP; printf rsyslogd >/proc/self/comm; while :; do sleep 0.1; done"])
    try:
        (world.spool / "writer.pid").write_text(str(writer.pid))
        for number in (1, 2):
            world.write(5000, "x" * 200)
            world.rotate(number)
        world.start("server")
        world.start("sender")
        world.wait(10)
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("victims", [("server",), ("sender",), ("server", "sender")])
def test_who_is_killed_loses_nothing(world: World, victims: tuple[str, ...]) -> None:
    world.start("server")
    world.start("sender")
    for number in range(1, 6):
        before = world.size()
        world.write(8000, "x" * 300)
        if number % 2:
            world.rotate(number)
        world.write(1)
        # In the middle of it.
        deadline = time.monotonic() + 20
        while world.size() == before:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        for victim in victims:
            world.kill(victim)
        world.write(100)
        for victim in victims:
            world.start(victim)
    world.wait()


def test_a_disk_that_is_full_takes_nothing_and_loses_nothing(world: World) -> None:
    # A file of a limited size fails in the middle of a line, as a full disk does.
    world.start("server", preexec_fn=lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_001, 1_000_001))))
    world.start("sender")
    world.write(4000, "x" * 200)
    world.until("File too large", "server")
    before = world.arrived()
    assert before == list(range(len(before))) and 0 < len(before) < 4000
    (day,) = (world.store / "app1").iterdir()
    assert day.read_bytes().endswith(b"}\n")
    world.kill("server")
    world.start("server")
    assert world.wait() == list(range(world.written))


def test_who_takes_all_that_one_may_waits_and_keeps_no_other_from_anything(world: World) -> None:
    disk = os.statvfs(world.store)
    world.server_settings |= {"host_percent": 2_000_000 / (disk.f_bavail * disk.f_frsize) * 100, "full_percent": 50}
    world.start("server")
    world.start("sender")
    world.write(12000, "x" * 200)
    world.until("<2>The logs of app1 take all that those of one host may", "server")
    (day,) = (world.store / "app1").iterdir()
    before = world.arrived()
    assert before == list(range(len(before))) and 1_500_000 < day.stat().st_size <= 2_100_000
    # Another is served meanwhile.
    certificate, key = world.ca.give("app2")
    text = b'{"t":"", "m":"hello"}'
    assert ask(connect(world, certificate, key), OPEN, b"2 syslog %d %s\n" % (len(text), text)).count(b" rsp ") == 2
    done = subprocess.run([SERVER, "watch"], env={**os.environ, "REDOUBT_LOG_SERVER_CONFIG": str(world.base / "server.json")}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "The logs of app1 take 0.0 of the 0.0 GB that those of one host may" in done.stdout and "of app2 take" not in done.stdout
    # Connecting again changes nothing, and is said once.
    world.kill("sender")
    world.start("sender")
    world.until("(?s)(?=.*it has connected again).*connected 127.0.0.1: app1.*connected 127.0.0.1: app1", "server")
    assert world.arrived() == before and world.said("server").count("<2>") == 1
    # As when a day has become old.
    os.truncate(day, 0)
    world.until("There is room for app1 again.", "server")
    world.until("(?s)<2>.*<2>", "server")
    found = list(dict.fromkeys([*before, *world.arrived()]))
    assert len(before) < len(found) < world.written and found == list(range(len(found)))
    # And when one may take more.
    os.truncate(day, 0)
    world.kill("server")
    world.server_settings["host_percent"] = 100
    world.start("server")
    deadline = time.monotonic() + 60
    while len(rest := {*found, *world.arrived()}) < world.written:
        assert time.monotonic() < deadline, len(rest)
        time.sleep(0.1)


def test_what_a_killed_server_left_of_a_line_is_taken_away(world: World) -> None:
    world.start("server")
    world.start("sender")
    world.write(10)
    world.wait()
    world.kill("sender")
    world.kill("server")
    (day,) = (world.store / "app1").iterdir()
    with day.open("ab") as sink:
        sink.write(b'{"@timestamp": "half')
    world.write(10)
    world.start("server")
    world.start("sender")
    world.wait()


def test_what_a_killed_rsyslog_left_of_a_record_is_left_out(world: World) -> None:
    world.start("server")
    world.start("sender")
    world.write(2)
    with (world.spool / "current").open("ab") as sink:
        sink.write(b'{"t":"2026-11-26T20:44:45.123456+00:00", "l":"6", "m":"hal')
    time.sleep(0.5)
    # It is killed here; what it was about to write it reads again.
    world.write(3)
    with (world.spool / "current").open("ab") as sink:
        sink.write(b'{"t":"2026-11-26T20:44:45.123456+00:00", "l":"6", "m":"hal')
    world.rotate(1)
    world.write(3)
    assert world.wait() == list(range(8))


def test_an_expired_certificate_keeps_the_records_until_it_is_renewed(world: World) -> None:
    world.ca.give("app1", days=-1)
    world.start("server")
    world.start("sender")
    world.write(100)
    world.until("refused 127.0.0.1: certificate has expired", "server")
    assert world.arrived() == []
    world.ca.give("app1")
    assert world.wait() == list(range(100))
    # The server's, which the host looks at.
    world.kill("server")
    world.ca.give("store1", days=-1)
    world.start("server")
    world.write(100)
    world.until("certificate has expired", "sender")
    world.ca.give("store1")
    world.wait()


def test_a_server_of_another_name_is_told_nothing(world: World) -> None:
    certificate, key = world.ca.give("app2")
    world.server_settings |= {"certificate": str(certificate), "key": str(key)}
    world.start("server")
    world.start("sender")
    world.write(10)
    world.until("Hostname mismatch", "sender")
    assert world.arrived() == []


def connect(world: World, certificate: Path, key: Path, ca: Path | None = None) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(ca or world.ca.path))
    context.load_cert_chain(certificate, key)
    found = context.wrap_socket(socket.create_connection(("127.0.0.1", world.port), timeout=10), server_hostname="store1")
    found.settimeout(10)
    return found


def ask(connection: ssl.SSLSocket, *frames: bytes) -> bytes:
    """All that the server answers until it hangs up or waits."""
    answer = b""
    with contextlib.suppress(OSError):
        connection.sendall(b"".join(frames))
        connection.settimeout(1)
        while received := connection.recv(65536):
            answer += received
    return answer


OPEN = b"1 open 46 relp_version=0\nrelp_software=x\ncommands=syslog\n"


def test_strangers_are_refused_and_that_is_said(world: World) -> None:
    world.start("server")
    stranger = Authority(world.base, "stranger")
    for certificate, key in (stranger.give("app1", path="theirs"), world.ca.give("somebody"), world.ca.give("app1", "app2", path="both")):
        with contextlib.suppress(OSError):
            assert ask(connect(world, certificate, key), OPEN, b"2 syslog 1 x\n") == b""
    context = ssl.create_default_context(cafile=str(world.ca.path))
    with contextlib.suppress(OSError):
        assert ask(context.wrap_socket(socket.create_connection(("127.0.0.1", world.port)), server_hostname="store1"), OPEN) == b""
    world.until("PEER_DID_NOT_RETURN_A_CERTIFICATE", "server")
    said = [line for line in world.said("server").splitlines() if "refused" in line]
    assert [re.sub(r".*127\.0\.0\.1: ", "", line) for line in said] == [
        "unable to get local issuer certificate", "the certificate of somebody is none of a host whose logs are kept here",
        "the certificate of app1 and app2 is none of a host whose logs are kept here", "PEER_DID_NOT_RETURN_A_CERTIFICATE"]
    assert not list(world.store.iterdir())


def test_a_host_writes_under_its_own_name_and_no_other(world: World) -> None:
    world.start("server")
    certificate, key = world.ca.give("app2")
    text = b'{"t":"", "host.name":"app1", "m":"../app1 {\\"host.name\\": \\"app1\\"}"}'
    assert ask(connect(world, certificate, key), OPEN, b"2 syslog %d %s\n" % (len(text), text)).count(b" rsp ") == 2
    assert [path.name for path in world.store.iterdir()] == ["app2"]
    (day,) = (world.store / "app2").iterdir()
    assert json.loads(day.read_text())["host.name"] == "app2"


def test_one_address_does_not_keep_the_others_out(world: World) -> None:
    world.start("server")
    with contextlib.ExitStack() as silent:
        for _ in range(10):
            silent.enter_context(socket.create_connection(("127.0.0.1", world.port)))
        world.until("too many connections that have not said who they are", "server", 5)
        # Another address (of this machine, too) is served meanwhile.
        world.settings["addresses"] = ["::1"]
        world.start("sender")
        world.write(10)
        assert world.wait(8) == list(range(10))


@pytest.mark.parametrize("frames", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5000, OPEN + b"2 syslog 99999999 x", OPEN + b"2 delete 3 all\n", OPEN + b"2 syslog 1 xx",
                                    b"2 syslog 1 x\n", OPEN + b"9" * 3_000_000])
def test_what_is_no_relp_ends_the_connection(world: World, frames: bytes) -> None:
    world.start("server")
    certificate, key = world.ca.give("app2")
    assert b"2 rsp" not in ask(connect(world, certificate, key), frames)
    world.until("refused 127.0.0.1: app2: ", "server", 5)
    # And others are served.
    world.start("sender")
    world.write(10)
    assert world.wait() == list(range(10))
    assert world.arrived("app2") == []


def test_a_full_spool_halts_rsyslog_and_goes_on_when_there_is_room(world: World) -> None:
    rsyslog = subprocess.Popen(["/bin/sh", "-c", "printf rsyslogd >/proc/self/comm; while :; do sleep 0.1; done"])
    try:
        (world.spool / "writer.pid").write_text(str(rsyslog.pid))
        world.settings["limit"] = 5_000_000
        world.write(6000, "x" * 1000)
        world.rotate(1)
        world.write(10)
        world.start("sender")

        def state() -> str:
            return Path(f"/proc/{rsyslog.pid}/stat").read_text().split()[2]

        world.until("nothing is collected", "sender")
        assert state() == "T"
        # It says so first, and notes it next.
        status, deadline = world.base / "state/status.json", time.monotonic() + 10
        while not status.exists() or not json.loads(status.read_text())["halted"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        watch = subprocess.run([sys.executable, "-B", str(SENDER), "watch"], env={**os.environ, "REDOUBT_LOGS_CONFIG": str(world.base / "sender.json")},
                               capture_output=True, text=True, check=False)
        assert watch.returncode == 1 and "There is no room for log records any more" in watch.stdout
        world.start("server")
        world.wait()
        world.until("There is room in the spool again", "sender")
        assert state() in "SR"
    finally:
        rsyslog.kill()
        rsyslog.wait()


def test_after_a_boot_what_may_not_have_reached_the_disk_is_read_again(world: World) -> None:
    positions = world.base / "positions"

    def run(boot: str) -> str:
        config = world.base / "sender.json"
        return subprocess.run([sys.executable, "-B", str(SENDER), "rewind"], env={**os.environ, "REDOUBT_LOGS_CONFIG": str(config), "REDOUBT_BOOT": boot},
                              capture_output=True, text=True, check=True).stdout

    (positions / "imjournal.state").write_text("at the checkpoint")
    world.start("server")
    world.start("sender", env={"REDOUBT_BOOT": "one"})
    world.write(100)
    world.wait()
    world.write(100)
    world.wait()
    time.sleep(1.5)
    world.kill("sender")
    # rsyslog has read on, and the power goes: of the spool's last lines the disk has none, of the positions it has.
    (positions / "imjournal.state").write_text("later")
    (positions / "imfile-state:1").write_text("later")
    current = world.spool / "current"
    current.write_bytes(b"".join(current.read_bytes().splitlines(True)[:150]))
    (world.spool / "writer.pid").write_text(str(os.getpid()))
    assert run("one") == "" and (positions / "imjournal.state").read_text() == "later"
    assert not (world.spool / "writer.pid").exists()
    assert "has booted" in run("two")
    assert {path.name: path.read_text() for path in positions.iterdir()} == {"imjournal.state": "at the checkpoint"}
    # What rsyslog writes now is delivered, although as much was acknowledged of this file before.
    world.write(20)
    world.start("sender", env={"REDOUBT_BOOT": "two"})
    world.wait()


# --- The journal -----------------------------------------------------------------------------------------------------

# Stands in for the program: all entries after a cursor, and then those that come.
JOURNALCTL = """#!{python} -B
import json, sys, time
after = next((int(word.split("=")[1]) for word in sys.argv if word.startswith("--after-cursor=")), -1)
position = 0
while True:
    for line in open("{entries}").read().splitlines(True)[position:]:
        if not line.endswith("\\n"):
            break
        position += 1
        if position - 1 > after:
            sys.stdout.write(line)
    sys.stdout.flush()
    time.sleep(0.01)
"""


class Journal:
    def __init__(self, world: World) -> None:
        self.world, self.count = world, 0
        self.entries = world.base / "entries"
        self.entries.touch()
        programs = world.base / "programs"
        programs.mkdir()
        (programs / "journalctl").write_text(JOURNALCTL.format(python=sys.executable, entries=self.entries))
        (programs / "journalctl").chmod(0o755)
        self.env = {"PATH": f"{programs}:{os.environ['PATH']}"}

    def start(self) -> None:
        self.world.start("collector", env=self.env, start_new_session=True)

    def say(self, count: int, text: str = "") -> None:
        with self.entries.open("a") as sink:
            for _ in range(count):
                sink.write(json.dumps({"MESSAGE": f"{self.world.written} {text}", "__CURSOR": str(self.count), "PRIORITY": "6"}) + "\n")
                self.world.written += 1
                self.count += 1


def test_the_journal_arrives_whoever_is_killed(world: World) -> None:
    journal = Journal(world)
    world.start("server")
    world.start("sender")
    journal.start()
    for victim in ("collector", "sender", "collector", "collector"):
        journal.say(5000, "x" * 300)
        time.sleep(0.3)
        world.kill(victim)
        # As a kill may leave it.
        if victim == "collector":
            with (world.base / "spool/journal/current").open("ab") as sink:
                sink.write(b'{"t":"","j":{"MESSAGE": "hal')
        journal.say(10)
        journal.start() if victim == "collector" else world.start(victim)
    found = world.wait()
    # Numbered files were given up by the collector, and removed.
    assert len(list((world.base / "spool/journal").glob("[0-9]*"))) <= 1
    # Its cursor is in the spool: read from the beginning three times, it would be 30,000 copies. What the killed sender had not noted comes twice.
    assert len(found) - len(set(found)) < 20_000


def test_a_huge_entry_is_cut_and_the_next_is_there(world: World) -> None:
    journal = Journal(world)
    world.start("server")
    world.start("sender")
    journal.say(1, "x" * 2_000_000)
    with journal.entries.open("a") as sink:
        sink.write(json.dumps({"MESSAGE": "x" * 20_000_000, "__CURSOR": "1"}) + "\n")
    with journal.entries.open("a") as sink:
        sink.write(json.dumps({"MESSAGE": [*b"1 ", *([255] * 300_000)], "__CURSOR": "2", "PRIORITY": "6"}) + "\n")
    world.written, journal.count = 2, 3
    journal.say(1)
    journal.start()
    assert world.wait() == [0, 1, 2]
    assert b"".join(path.read_bytes() for path in (world.store / "app1").iterdir()).count(b"An entry of the journal was too large to be sent.") == 1


# --- The store -------------------------------------------------------------------------------------------------------

sys.path.insert(0, str(SERVER.parent))
from redoubt_logs import forward, store


def test_days_are_compressed_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "app1"
    folder.mkdir()
    days = {name: f"{name}\n".encode() * 3 for name in ("2026-11-26", "2026-11-25", "2026-11-24", "2026-11-16", "2026-11-15")}
    for name, content in days.items():
        (folder / f"{name}.jsonl").write_bytes(content)
    (folder / "2026-11-14.jsonl.gz").write_bytes(b"")
    (folder / "2026-11-24.jsonl.gz.new").write_bytes(b"half")
    (folder / "somebody's").write_bytes(b"")
    (tmp_path / "link").symlink_to(folder)
    today = datetime.date(2026, 11, 26)
    assert len(store.keep(tmp_path, 4, today)) == 4
    assert sorted(path.name for path in folder.iterdir()) == [
        "2026-11-16.jsonl.gz", "2026-11-24.jsonl.gz", "2026-11-25.jsonl", "2026-11-26.jsonl", "somebody's"]
    assert gzip.decompress((folder / "2026-11-24.jsonl.gz").read_bytes()) == days["2026-11-24"]
    assert store.keep(tmp_path, 4, today) == []
    # A clock that is wrong removes nothing, and a day that was closed too early keeps what it had.
    store.keep(tmp_path, 4, datetime.date(2028, 1, 1))
    assert len(list(folder.iterdir())) == 5
    (folder / "2026-11-26.jsonl").write_bytes(b"later\n")
    store.keep(tmp_path, 4, datetime.date(2026, 11, 28))
    assert gzip.decompress((folder / "2026-11-26.jsonl.gz").read_bytes()) == days["2026-11-26"] + b"later\n"


def test_on_a_file_system_of_its_own_the_store_has_a_folder_that_is_no_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is root's alone, as mkfs makes it."""
    listed = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder.name == "lost+found":
            raise PermissionError(folder)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    for name in ("app1", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "app1/2026-11-24.jsonl").write_bytes(b"{}\n")
    assert set(store.room(tmp_path, 50)[0]) == {"app1"}
    assert store.keep(tmp_path, 4, datetime.date(2026, 11, 26)) == ["Compressed app1/2026-11-24.jsonl."]
    forward.Forwarder(tmp_path, tmp_path / "positions.json", {})


def test_positions_that_cannot_be_written_cost_copies_and_nothing_else(world: World) -> None:
    """As on a full disk: what is acknowledged is removed all the same, and the connection stays."""
    world.start("server")
    world.write(3000)
    world.rotate(1)
    world.write(10)
    # A name that nothing can be written to, on behalf of root too.
    for name in ("files.json.new", "journal.json.new", "status.json.new", "checkpoint.json.new"):
        (world.base / "state" / name).mkdir()
    world.start("sender")
    assert world.wait() == list(range(3010))
    deadline = time.monotonic() + 10
    while (world.spool / "1").exists():
        assert time.monotonic() < deadline, world.said("sender")
        time.sleep(0.1)
    time.sleep(2)
    assert world.arrived() == list(range(3010)) and world.said("sender").count("Connected") == 1


def test_a_day_begins_a_file(tmp_path: Path) -> None:
    kept = store.Store(tmp_path / "app1")
    for moment in (datetime.datetime(2026, 11, 26, 23, 59, 59, tzinfo=datetime.UTC), datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC)):
        kept.write(b"x\n", moment)
        kept.write(b"y\n", moment)
    kept.close()
    assert {path.name: path.read_bytes() for path in (tmp_path / "app1").iterdir()} == {"2026-11-26.jsonl": b"x\ny\n", "2026-11-27.jsonl": b"x\ny\n"}


def moment(day: int) -> datetime.datetime:
    return datetime.datetime(2026, 11, day, 12, tzinfo=datetime.UTC)


def test_a_day_that_a_host_has_open_is_not_compressed(tmp_path: Path) -> None:
    """The clock jumps ahead while it says nothing, and back before it goes on."""
    kept = store.Store(tmp_path / "app1")
    kept.write(b"before\n", moment(26))
    assert store.keep(tmp_path, 4, moment(28).date()) == []
    kept.write(b"after\n", moment(26))
    assert (tmp_path / "app1/2026-11-26.jsonl").read_bytes() == b"before\nafter\n"
    kept.close()
    assert store.keep(tmp_path, 4, moment(28).date()) == ["Compressed app1/2026-11-26.jsonl."]
    assert [path.name for path in (tmp_path / "app1").iterdir()] == ["2026-11-26.jsonl.gz"]


def test_what_comes_for_a_day_that_is_compressed_is_filed_under_the_next_that_is_not(tmp_path: Path) -> None:
    """A clock was ahead, or is behind: no day has two files, of which only one is read."""
    folder = tmp_path / "app1"
    for day in (25, 26):
        kept = store.Store(folder)
        kept.write(b"in time\n", moment(day))
        kept.close()
    store.keep(tmp_path, 4, moment(28).date())
    kept = store.Store(folder)
    for day in (26, 26, 25, 27):
        kept.write(b"%d\n" % day, moment(day))
    kept.close()
    assert {path.name: path.read_bytes() for path in folder.glob("*.jsonl")} == {"2026-11-27.jsonl": b"26\n26\n25\n27\n"}


def test_who_opens_a_day_while_it_is_compressed_writes_into_no_removed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = tmp_path / "app1/2026-11-26.jsonl"
    day.parent.mkdir()
    day.write_bytes(b"before\n")
    kept = store.Store(day.parent)
    writer = threading.Thread(target=kept.write, args=(b"meanwhile\n", moment(26)))
    real = shutil.copyfileobj

    def slowly(*words: object) -> None:
        writer.start()
        writer.join(0.5)
        real(*words)

    monkeypatch.setattr(shutil, "copyfileobj", slowly)
    store.keep(tmp_path, 4, moment(28).date())
    writer.join()
    kept.close()
    found = {path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in day.parent.iterdir()}
    assert found == {"2026-11-26.jsonl.gz": b"before\n", "2026-11-27.jsonl": b"meanwhile\n"}


class Collector:
    """Takes syslog over TLS."""

    def __init__(self, authority: Authority, port: int) -> None:
        certificate, key = authority.give("siem.test")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.listener = socket.create_server(("127.0.0.1", port))
        self.messages: list[dict] = []

    def take(self, last: str, seconds: float = 20) -> None:
        """One connection, until a message has come."""
        self.listener.settimeout(seconds)
        with self.context.wrap_socket(self.listener.accept()[0], server_side=True) as connection:
            connection.settimeout(seconds)
            buffer = b""
            while not self.messages or self.messages[-1]["message"] != last:
                buffer += connection.recv(65536)
                while (found := re.match(rb"(\d+) ", buffer)) and len(buffer) >= found.end() + int(found[1]):
                    frame, buffer = buffer[found.end() : found.end() + int(found[1])], buffer[found.end() + int(found[1]) :]
                    parts = re.fullmatch(rb"<(\d+)>1 (\S+) (\S+) (\S+) (\S+) - - (.*)", frame)
                    self.messages.append({**json.loads(parts[6]), "priority": int(parts[1]), "name": parts[4].decode()})


def test_records_are_sent_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    collector = Collector(authority, port)
    root = tmp_path / "store"
    (root / "app1").mkdir(parents=True)
    day = root / "app1" / "2026-11-26.jsonl"

    def write(path: Path, *numbers: int) -> None:
        with path.open("a") as sink:
            sink.writelines(json.dumps({"@timestamp": "2026-11-26T20:44:45.123456Z", "host.name": "app1", "log.level": "err", "service.name": "a b",
                                        "message": f"{number}\u00e9\n"}) + "\n" for number in numbers)

    write(day, 0)
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda address, **more: real(("127.0.0.1", address[1]), **more))
    monkeypatch.setattr(forward, "SETTLED", 5)
    monkeypatch.setattr(forward, "PAUSES", (0.1,))
    started = forward.Forwarder(root, tmp_path / "positions.json", {"host": "siem.test", "port": port, "ca": str(authority.path)})
    threading.Thread(target=started.run, daemon=True).start()
    write(day, 1, 2)
    collector.take("2\u00e9\n")
    # While nobody listens, a day ends, is compressed, and another begins.
    write(day, 3)
    store.compress(day)
    write(root / "app1" / "2026-11-27.jsonl", 4, 5)
    collector.take("5\u00e9\n")
    numbers = list(dict.fromkeys(int(message["message"].rstrip("\n\u00e9")) for message in collector.messages))
    # What was there before the first start is not sent.
    assert numbers == [1, 2, 3, 4, 5]
    assert {(message["priority"], message["name"]) for message in collector.messages} == {(11, "a_b")}


class Sent:
    """What a forwarder would send; it may be started again."""

    def __init__(self, base: Path) -> None:
        self.root, self.state = base / "store", base / "positions.json"
        (self.root / "app1").mkdir(parents=True)
        self.count = 0

    def start(self) -> None:
        self.forwarder = forward.Forwarder(self.root, self.state, {})

    def write(self, day: str, count: int = 1, text: str = "") -> list[int]:
        with (self.root / f"app1/{day}.jsonl").open("a") as sink:
            for number in range(self.count, self.count + count):
                sink.write(json.dumps({"@timestamp": "2026-11-26T20:44:45.123456Z", "host.name": "app1", "message": f"{number} {text}"}) + "\n")
        self.count += count
        return list(range(self.count - count, self.count))

    def next(self) -> list[int]:
        """All that there is, which has arrived."""
        found = []
        for _ in range(200):
            found += [int(number) for number in re.findall(rb'"message": "(\d+) ', b"".join(self.forwarder.next(self.root / "app1")))]
        self.forwarder.settled = dict(self.forwarder.positions)
        self.forwarder.save()
        return found


@pytest.fixture
def sent(tmp_path: Path) -> Sent:
    return Sent(tmp_path)


def test_a_clock_that_was_wrong_keeps_no_record_from_being_sent_on(sent: Sent) -> None:
    sent.start()
    for day in ("2026-11-26", "2027-05-01", "2026-11-26", "1970-01-01", "2027-05-01", "2026-11-27"):
        written = sent.write(day)
        assert sent.next() == written, day
    for day in ("1970-01-01", "2026-11-26"):
        store.compress(sent.root / f"app1/{day}.jsonl")
    assert sent.next() == []
    # And while it is not there.
    written = sent.write("2026-11-28", 3) + sent.write("2026-11-29", 3)
    store.compress(sent.root / "app1/2026-11-28.jsonl")
    sent.start()
    assert sent.next() == written
    sent.start()
    assert sent.next() == []


def test_what_was_sent_on_by_the_first_day_and_its_offset_is_not_sent_again(sent: Sent) -> None:
    for day in ("2026-11-24", "2026-11-25", "2026-11-26"):
        sent.write(day, 2)
    for day in ("2026-11-24", "2026-11-25"):
        store.compress(sent.root / f"app1/{day}.jsonl")
    sent.state.write_text(json.dumps({"app1": ["2026-11-26", (sent.root / "app1/2026-11-26.jsonl").stat().st_size // 2]}))
    sent.start()
    assert sent.next() == [5]


def test_nothing_of_a_host_is_sent_on_that_was_there_before(sent: Sent) -> None:
    for day in ("2026-11-22", "2026-11-23"):
        sent.write(day, 2)
        store.compress(sent.root / f"app1/{day}.jsonl")
    sent.start()
    assert sent.next() == []
    written = sent.write("2026-11-28", 2)
    assert sent.next() == written
    assert json.loads(sent.state.read_text()).keys() == {"app1"}


def test_damage_is_left_out_and_said_and_the_rest_is_sent_on(sent: Sent, capsys: pytest.CaptureFixture) -> None:
    sent.start()
    day = sent.root / "app1/2026-11-26.jsonl"
    sent.write(day.stem)
    with day.open("ab") as sink:
        sink.write(b'{"half": \n\xff\xfe\n[]\n{}\n{"@timestamp": 5, "host.name": "app1"}\n' + b'{"a":' * 5000 + b"\n" + b"\0" * 64)
    sent.write(day.stem)
    with day.open("ab") as sink:
        sink.write(b"x" * 3 * forward.READ + b"\n" + b"\0" * 2 * forward.READ)
    sent.write(day.stem)
    # The end of one that is still being written.
    with day.open("ab") as sink:
        sink.write(b'{"half": ')
    sent.write("2026-11-27")
    assert sent.next() == [0, 1, 2, 3]
    assert "<4>6 damaged lines of app1/2026-11-26.jsonl left out of what is sent on.\n" in capsys.readouterr().out


def test_a_day_whose_end_is_missing_is_sent_on_as_far_as_it_goes(sent: Sent, capsys: pytest.CaptureFixture) -> None:
    sent.start()
    for name, day in (("cut", "2026-11-24"), ("overwritten", "2026-11-25"), ("no gzip", "2026-11-26")):
        path = sent.root / f"app1/{day}.jsonl"
        written = sent.write(day, 5000, str(random.Random(day).random()) * 5)
        store.compress(path)
        packed = path.with_name(f"{path.name}.gz")
        whole = packed.read_bytes()
        middle = len(whole) // 2
        packed.write_bytes({"cut": whole[:middle], "overwritten": whole[:middle] + b"\xff" * 100 + whole[middle + 100 :], "no gzip": b"x" + whole}[name])
        following = sent.write("2026-11-27")
        found = sent.next()
        assert found[-1:] == following and found[:1000] == (following if name == "no gzip" else written[:1000]), name
        assert f"<4>app1/{day}.jsonl.gz could not be read to its end (" in capsys.readouterr().out, name


def test_a_compressed_day_is_unpacked_once(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece by itself would be all before it as well."""
    sent.start()
    written = sent.write("2026-11-24", 20_000, "x" * 200)
    store.compress(sent.root / "app1/2026-11-24.jsonl")
    opened = []
    real = gzip.open
    monkeypatch.setattr(gzip, "open", lambda *words: opened.append(words) or real(*words))
    assert sent.next() == written
    assert len(opened) == 1
    # What has not arrived is sent again.
    sent.forwarder.positions = {"app1": {"2026-11-24": 0}}
    assert sent.next() == written


def test_a_clock_that_was_ahead_makes_no_host_talk_and_no_collector_take(world: World) -> None:
    world.server_settings |= {"forward": {"host": "siem.test", "port": 6514, "ca": ""}, "hosts": {"app1": {"app": "", "zone": "Etc/UTC"}}}
    config, positions, folder = world.base / "server.json", world.base / "positions.json", world.store / "app1"
    config.write_text(json.dumps(world.server_settings))
    folder.mkdir()

    def watch() -> str:
        environment = {**os.environ, "REDOUBT_LOG_SERVER_CONFIG": str(config), "STATE_DIRECTORY": str(world.base)}
        return subprocess.run([SERVER, "watch"], env=environment, capture_output=True, text=True, check=False).stdout.strip()

    def touch(path: Path, hours: float) -> None:
        path.touch()
        os.utime(path, (time.time() + hours * 3600,) * 2)

    touch(positions, 0)
    assert watch() == "app1 has never sent a log record."
    touch(folder / "2099-01-01.jsonl", 1000)
    assert watch() == "app1 has sent no log record since this host's clock was set back."
    touch(folder / "2026-11-26.jsonl", -5)
    assert watch() == "app1 has sent no log record for 5 hours."
    # To be compressed is no sign of life.
    store.compress(folder / "2026-11-26.jsonl")
    assert watch() == "app1 has sent no log record for 5 hours."
    touch(folder / "2026-11-27.jsonl", -1)
    assert watch() == ""
    touch(positions, 1000)
    assert "siem.test has taken no log record" in watch()


def test_another_collector_than_the_one_that_is_meant_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    collector = Collector(Authority(tmp_path, "somebody"), port)
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda address, **more: real(("127.0.0.1", address[1]), **more))
    monkeypatch.setattr(forward, "PAUSES", (0.1,))
    (tmp_path / "store").mkdir()
    meant = Authority(tmp_path, "meant").path
    started = forward.Forwarder(tmp_path / "store", tmp_path / "positions.json", {"host": "siem.test", "port": port, "ca": str(meant)})
    threading.Thread(target=started.run, daemon=True).start()
    with pytest.raises(ssl.SSLError):
        collector.take("", 10)
    deadline = time.monotonic() + 10
    while "<2>Nothing is sent on: [SSL: CERTIFICATE_VERIFY_FAILED]" not in capsys.readouterr().out:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_collector_that_takes_nothing_is_an_alert(world: World) -> None:
    world.server_settings |= {"forward": {"host": "siem.test", "port": 6514, "ca": ""}, "hosts": {}}
    config, positions = world.base / "server.json", world.base / "positions.json"
    config.write_text(json.dumps(world.server_settings))

    def watch() -> subprocess.CompletedProcess:
        environment = {**os.environ, "REDOUBT_LOG_SERVER_CONFIG": str(config), "STATE_DIRECTORY": str(world.base)}
        return subprocess.run([SERVER, "watch"], env=environment, capture_output=True, text=True, check=False)

    assert watch().returncode == 1
    positions.write_text("{}")
    assert watch().returncode == 0, watch().stdout
    os.utime(positions, (time.time() - 16 * 60,) * 2)
    assert watch().returncode == 1 and "siem.test has taken no log record for more than 15 minutes" in watch().stdout
