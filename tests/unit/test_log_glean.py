"""What rsyslog has not read of log files that were put away while it was down: appended to the spool before it starts, once and in order."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "roles/logs/files/usr/local/lib/redoubt/logs"
module = importlib.import_module("backup_host").load("redoubt_logs_program", PROGRAM)


class Host:
    """A web server's log, rsyslog's notes on it, and logrotate; time passes by a second whenever something is done, and by an hour before a file is put away."""

    def __init__(self, base: Path) -> None:
        self.base, self.now = base, 1_790_000_000
        self.log, self.positions, self.spool = base / "log/access.log", base / "positions", base / "spool"
        for folder in (self.log.parent, self.positions, self.spool / "files", base / "state"):
            folder.mkdir(parents=True)
        self.bound(2 << 30)
        self.written = 0

    def bound(self, limit: int) -> None:
        (self.base / "config.json").write_text(json.dumps({"spool": str(self.spool), "state": str(self.base / "state"), "positions": str(self.positions), "limit": limit,
                                                           "files": [{"path": "/elsewhere/*.log", "dataset": "x"}, {"path": str(self.log), "dataset": "nginx.access"}]}))

    def touch(self, path: Path) -> None:
        self.now += 1
        os.utime(path, (self.now, self.now))

    def write(self, count: int, path: Path | None = None, end: str = "\n") -> None:
        with (path or self.log).open("a") as sink:
            for _ in range(count):
                sink.write(f"line {self.written}{end}")
                self.written += 1
        self.touch(path or self.log)

    def read(self) -> None:
        """As rsyslog does, when it is stopped."""
        name = f"imfile-state:{self.log.stat().st_ino}{':d542326e0bcff99a' if self.log.stat().st_size > 512 else ''}"
        size = self.log.stat().st_size
        (self.positions / name).write_text(json.dumps({"filename": str(self.log), "prev_was_nl": 0, "curr_offs": size, "strt_offs": size}))
        self.touch(self.positions / name)

    def rotate(self, compress: bool = False) -> None:
        self.now += 3500
        for number in (3, 2, 1):
            for suffix in ("", ".gz"):
                old = self.log.with_name(f"access.log.{number}{suffix}")
                if old.exists():
                    self.compressed(old.rename(self.log.with_name(f"access.log.{number + 1}{suffix}")))
        new = self.log.rename(self.log.with_name("access.log.1"))
        if compress:
            self.compressed(new)
        self.log.touch()
        self.touch(self.log)

    @staticmethod
    def compressed(path: Path) -> None:
        """As logrotate does, with delaycompress or without."""
        if path.suffix != ".gz":
            status = path.stat()
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            os.utime(path.with_name(f"{path.name}.gz"), ns=(status.st_atime_ns, status.st_mtime_ns))
            path.unlink()

    def glean(self, verb: str = "glean") -> str:
        done = subprocess.run([sys.executable, "-B", PROGRAM, verb], env={**os.environ, "REDOUBT_LOGS_CONFIG": str(self.base / "config.json")},
                              capture_output=True, text=True, check=True)
        assert not done.stderr
        return done.stdout

    @property
    def records(self) -> list[dict]:
        return [json.loads(line) for path in self.pieces for line in path.read_text().splitlines()]

    @property
    def pieces(self) -> list[Path]:
        return sorted((self.spool / "files").glob("*"), key=lambda path: int(path.name) if path.name.isdigit() else 1 << 30)

    @property
    def lines(self) -> list[int]:
        return [int(record["m"].split()[1]) for record in self.records]


@pytest.fixture
def web(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("before", [5, 500])
def test_what_was_not_read_of_a_file_that_was_put_away_is_read_once(web, before) -> None:
    web.write(before)
    web.read()
    web.write(7)
    web.rotate()
    web.write(2)
    assert f"Read 7 lines of {web.log}" in web.glean()
    assert web.lines == list(range(before, before + 7))
    record = web.records[0]
    assert (record["in"], record["tag"], record["f"], record["l"], record["m"]) == ("imfile", "nginx.access", str(web.log), "5", f"line {before}")
    assert (web.spool / "files/current").read_bytes().startswith(module.BEGINNING)
    assert web.glean() == "" and len(web.lines) == 7
    # Who had the file open goes on with it for a moment.
    web.write(3, web.log.with_name("access.log.1"))
    web.glean()
    assert web.lines[7:] == list(range(before + 9, before + 12))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_a_file_that_was_put_away_more_than_once_is_read_with_those_after_it(web, times, compress) -> None:
    # There is one from before, that was read.
    web.write(20)
    web.read()
    web.rotate(compress)
    web.write(20)
    web.read()
    for _ in range(times):
        web.write(5)
        web.rotate(compress)
    web.write(1)
    web.glean()
    assert web.lines == list(range(40, 40 + 5 * times))
    # The one that is new may have an inode that another had, and rsyslog reads it from its beginning.
    assert not list(web.positions.glob(f"imfile-state:{web.log.stat().st_ino}*"))
    assert web.glean() == "" and len(web.lines) == 5 * times


def test_what_was_read_to_its_end_is_not_read_again(web) -> None:
    web.write(20)
    web.read()
    for _ in range(3):
        web.rotate()
        web.write(4)
        web.read()
        assert web.glean() == ""
    assert web.lines == []
    # Notes on files that are no more would be taken for another's that gets the inode.
    assert {module.NOTE.match(path.name)[1] for path in web.positions.iterdir()} <= {str(path.stat().st_ino) for path in web.log.parent.iterdir() if path.suffix != ".gz"}


def test_what_has_its_name_still_is_rsyslogs(web) -> None:
    web.write(5)
    web.read()
    web.write(5)
    assert web.glean() == "" and web.lines == []


def test_half_a_line_waits_for_its_other_half_and_a_long_one_is_cut(web) -> None:
    web.write(1)
    web.read()
    with web.log.open("ab") as sink:
        sink.write(b"line 1 \xff\x00" + b"x" * 100_000 + b"\nline 2")
    web.rotate()
    web.glean()
    (record,) = web.records
    assert record["m"].startswith("line 1 \ufffd\x00xxx") and len(record["m"]) == module.LINE
    web.write(1, web.log.with_name("access.log.1"), end=" end\n")
    web.glean()
    assert [record["m"][:13] for record in web.records][1:] == ["line 2line 1 "]


def test_who_is_killed_reads_again_and_leaves_nothing_out(web, monkeypatch) -> None:
    web.write(10)
    web.read()
    web.write(100)
    web.rotate()
    settings = json.loads((web.base / "config.json").read_text())
    monkeypatch.setattr(module, "PIECE", 200)
    real, calls = module.replace, 0

    def dies(*words: object, **more: object) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            raise KeyboardInterrupt
        real(*words, **more)

    monkeypatch.setattr(module, "replace", dies)
    for _ in range(20):
        try:
            module.Gleaner(settings).run()
            break
        except KeyboardInterrupt:
            pass
    assert list(dict.fromkeys(web.lines)) == list(range(10, 110)) and len(web.lines) > 100


def test_a_spool_without_room_does_not_keep_rsyslog_from_its_start(web) -> None:
    web.write(5)
    web.read()
    web.write(5)
    web.rotate()
    (web.spool / "files/current").symlink_to("/dev/full")
    assert f"<4>Not sent of {web.log}, which was put away: [Errno 28]" in web.glean()
    (web.spool / "files/current").unlink()
    web.glean()
    assert web.lines == list(range(5, 10))


def test_a_spool_is_filled_to_its_bound_and_no_further(web, monkeypatch) -> None:
    """Night after night without the log server, and one piece at a time when it is back."""
    web.bound(60_000)
    monkeypatch.setattr(module, "PIECE", 1000)
    settings = json.loads((web.base / "config.json").read_text())
    web.write(5)
    web.read()
    web.write(4000)
    # Halted, and then ended for the night.
    (note,) = web.positions.iterdir()
    web.touch(note)
    arrived: list[int] = []
    for night in range(100):
        if night < 3:
            web.rotate()
            web.write(30)
        done = module.Gleaner(settings).run()
        sizes = [path.stat().st_size for path in web.pieces]
        assert sum(sizes) < 100_000
        # Each may go when it is acknowledged and the next has begun.
        assert all(size < 40_000 for size in sizes)
        if done:
            break
        assert not module.Gleaner(settings).run() and [path.stat().st_size for path in web.pieces] == sizes
        arrived += web.lines
        for path in web.pieces:
            path.unlink()
    assert night > 3 and arrived + web.lines == list(range(5, 4005 + 60))


def test_rsyslog_begins_when_there_is_room(web, monkeypatch) -> None:
    web.write(5)
    web.read()
    web.write(5)
    web.rotate()
    current = web.spool / "files/current"
    current.write_text("x" * 100)
    web.bound(100)
    (heard := socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(web.base / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(web.base / "notify"))

    def room(seconds: float) -> None:
        # Who starts it does not wait for that.
        assert seconds == 1 and heard.recv(99) == b"READY=1"
        current.unlink()

    monkeypatch.setattr(module.time, "sleep", room)
    begun: list[list[str]] = []
    monkeypatch.setattr(module.os, "execv", lambda program, words: begun.append([program, *words]))
    module.read(json.loads((web.base / "config.json").read_text()), ["/usr/sbin/rsyslogd", "-n"])
    assert begun == [["/usr/sbin/rsyslogd", "/usr/sbin/rsyslogd", "-n"]] and web.lines == list(range(5, 10))


@pytest.mark.parametrize(("lines", "doubted"), [(10, False), (70, True), (6000, True), (7000, False)])
def test_the_first_note_on_a_file_is_not_believed_after_a_kill(web, lines, doubted) -> None:
    """rsyslog writes it before it hands on the line with which the file has become long enough to be known by what is in it."""
    web.write(lines)
    web.read()
    (note,) = web.positions.iterdir()
    before, changed = note.read_text(), note.stat().st_mtime_ns
    # Ended as it should be, it has removed this.
    web.glean("rewind")
    assert note.read_text() == before
    pid = web.spool / "files/writer.pid"
    pid.write_text("1")
    web.glean("rewind")
    assert not pid.exists() and note.stat().st_mtime_ns == changed
    size = web.log.stat().st_size
    assert json.loads(note.read_text()) == {"filename": str(web.log), "prev_was_nl": 0} | dict.fromkeys(("curr_offs", "strt_offs"), 0 if doubted else size)
    # Put away meanwhile, it is read from there as well.
    web.rotate()
    web.glean()
    assert web.lines == (list(range(lines)) if doubted else [])
