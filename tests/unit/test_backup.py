"""The program that backs a host up and restores it: whatever fails or is killed, the data from before or the restored is in place, whole, and runs.

PostgreSQL, pgBackRest, restic and systemd are small scripts here; what they really do is seen in the lab's drills.
"""

from __future__ import annotations

import datetime
import hashlib
import http.server
import importlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
backup_host = importlib.import_module("backup_host")
dies = backup_host.dies

FILES = backup_host.ROLES / "backup/files/usr/local/lib/redoubt"
ALERT = backup_host.ROLES / "base/files/usr/local/lib/redoubt/alert"
UNIT = "postgresql@17-main.service"
APP = {"notes@blue.service", "notes@blue.socket", "notes-worker.service", "notes-prune.timer"}
SEGMENTS = [f"00000001000000000000000{number}" for number in (3, 4)]
LOG = (*SEGMENTS, "00000002.history", "000000010000000000000005.partial")
MUTATING = ("mkdir", "rename", "unlink", "rmdir", "chown")
NEXT = "redoubt-restored-next.service"
SENDER = "redoubt-backup-send.service"
# What only the server of the service is asked, once the restored cluster is in its place.
SWAPPED = "-h /run/postgresql -d postgres -c SELECT pg_database_size"

# What pgBackRest's restore makes, in the folder it is told.
RESTORE = """
for word; do case $word in --pg1-path=*) folder=${word#--pg1-path=};; esac; done
mkdir -p $folder/pg_wal
echo new > $folder/who
echo archived > $folder/pg_wal/000000010000000000000003
printf "# Do not edit\nwork_mem = '8MB'\nrestore_command = 'x'\nrecovery_target_time = 'y'\n" > $folder/postgresql.auto.conf
"""
# A server beside the service: it runs from now on.
START = """
for word; do case $word in --unit=*) touch BASE/units/${word#--unit=};; esac; done
"""
# Each server answers while it runs.
ANSWER = f"""
unit={UNIT}
for word; do case $word in /run/redoubt-restored-*) unit=${{word#/run/}}.service;; esac; done
test -e BASE/units/$unit || {{ echo 'psql: error: no' >&2; exit 2; }}
"""
# What restic's does.
BRING = """
for word; do case $word in --target=*) folder=${word#--target=};; esac; done
cp -a BASE/snapshot/. $folder/
"""


class Machine:
    """A host with an application, its database and its files."""

    def __init__(self, base: Path, door: backup_host.Door, monkeypatch: pytest.MonkeyPatch) -> None:
        self.door = door
        self.base, self.root, self.config, self.state = base, base / "root", base / "config", base / "state"
        self.fakes = backup_host.Fakes(base)
        self.fakes.add("systemctl", "pgbackrest", "restic", "setpriv", "systemd-run", "journalctl", "systemd-cat")
        binaries = self.root / "usr/lib/postgresql/17/bin"
        for folder in (binaries, self.config, self.state, base / "run"):
            folder.mkdir(parents=True)
        shutil.copytree(door.pki, base / "pki")
        self.fakes.add("psql", "pg_dump", "pg_restore", folder=binaries)
        self.media, self.data = base / "srv/media", base / "srv/data"
        self.configure()
        monkeypatch.setenv("BACKUP_CONFIG", str(self.config))
        monkeypatch.setenv("BACKUP_ROOT", str(self.root))
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(base / "run"))
        self.mounted("/")
        self.fakes.on_path(monkeypatch)
        # Where the folders are is read when they are imported.
        for name in [name for name in sys.modules if name.split(".")[0] == "redoubt_backup"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(FILES))
        self.common, self.application, self.database, self.files, self.drill = (
            importlib.import_module(f"redoubt_backup.{name}") for name in ("common", "application", "database", "files", "drill"))
        self.program = backup_host.load("redoubt_backup_program", FILES / "backup")
        self.refused = self.common.Refused
        us = pwd.struct_passwd(("postgres", "x", os.getuid(), os.getgid(), "", "/", "/bin/false"))
        monkeypatch.setattr(self.database.pwd, "getpwnam", lambda name: us)
        self.begin()

    def configure(self, **changes: object) -> None:
        wanted = {"app": "notes", "host": "app1", "store": "store1", "repository": self.door.repository("app1"),
                  "database": True, "web": True, "version": 17, "paths": ["/nowhere"], "exclude": ["*.tmp"],
                  "media": str(self.media), "data": str(self.data), "state": str(self.state), "pki": str(self.base / "pki"), "manage": "python manage.py",
                  "max_age_hours": 26, "drill_max_age_days": 15, **changes}
        (self.config / "config.json").write_text(json.dumps(wanted))

    @property
    def settings(self) -> object:
        return self.common.Settings()

    def mounted(self, *points: object) -> None:
        """As the kernel lists them."""
        listed = self.root / "proc/self/mountinfo"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"36 35 98:0 / {str(point).replace(' ', chr(92) + '040')} rw,noatime shared:1 - ext4 /dev/sda1 rw\n" for point in points))

    @property
    def cluster(self) -> Path:
        return self.root / "var/lib/postgresql/17/main"

    def begin(self) -> None:
        """A cluster and folders with what was there before, all of it running; something aside that an earlier restore has left."""
        for path in (self.root / "var", self.base / "srv", self.state, self.base / "snapshot", self.base / "units"):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        for path, who in ((self.cluster, "old"), (self.cluster.with_name("main.before-restore"), "older")):
            (path / "pg_wal/archive_status").mkdir(parents=True)
            (path / "who").write_text(f"{who}\n")
            for name in LOG:
                (path / "pg_wal" / name).write_text(who)
        for folder in (self.media, self.data):
            folder.mkdir(parents=True)
            (folder / "who").write_text("old\n")
            (folder / "gone").write_text("since\n")
            kept = self.base / "snapshot" / str(folder).lstrip("/")
            kept.mkdir(parents=True)
            (kept / "who").write_text("new\n")
            aside = folder.with_name(f"{folder.name}.before-restore-19990101T000000Z")
            aside.mkdir()
            (aside / "who").write_text("older\n")
        for unit in (UNIT, SENDER, *APP):
            (self.base / "units" / unit).touch()
        self.fakes.rules = []
        self.rules_of_a_good_restore()

    def rules_of_a_good_restore(self) -> None:
        rule = self.fakes.rule
        self.backups(("full", 3600))
        rule(" restore --pg1-path", sh=RESTORE)
        rule("--target=/", sh=BRING.replace("BASE", str(self.base)))
        rule(" dump ", out=json.dumps({"files": {}, "database": None}))
        self.snapshots(("aa" * 32, "2026-11-20T02:15:00.123456789+01:00"), ("bb" * 32, "2026-11-25T02:15:00Z"))
        rule("systemd-run", sh=START.replace("BASE", str(self.base)))
        rule("pg_is_in_recovery", sh=ANSWER.replace("BASE", str(self.base)), out="f")
        rule("FROM pg_database WHERE datname", out="1")
        rule("to_regclass('redoubt.canary')", out="t")
        rule("max(at) FROM redoubt.canary", out="2026-11-25 02:15:00+00")
        rule("pg_database_size", out="1024")

    def backups(self, *found: tuple[str, float], system: int = 7) -> None:
        told = [{"type": kind, "label": f"label{number}", "timestamp": {"stop": int(time.time() - age)}, "info": {"size": 1000}}
                for number, (kind, age) in enumerate(found)]
        self.fakes.rule("info --output=json", out=json.dumps([{"backup": told, "db": [{"system-id": system}]}]))

    def snapshots(self, *found: tuple[str, str]) -> None:
        self.fakes.rule("snapshots --json", out=json.dumps([{"id": name, "short_id": name[:8], "time": when} for name, when in reversed(found)]))

    def restore(self, *parts: str, at: str = "") -> dict:
        return self.program.restore(self.settings, list(parts or ["database", "media"]), at, "")

    def who(self, folder: Path) -> str:
        return (folder / "who").read_text().strip() if (folder / "who").exists() else ""

    def before(self, *beside: str) -> None:
        """All is as it was before the restore, and runs."""
        assert self.who(self.cluster) == "old"
        assert {path.name: path.read_text() for path in (self.cluster / "pg_wal").iterdir() if path.is_file()} == dict.fromkeys(LOG, "old")
        for folder in (self.media, self.data):
            assert self.who(folder) == "old" and (folder / "gone").exists()
        self.runs(*beside)

    def after(self, *parts: str) -> None:
        """What was restored is in place and runs, and what was there before is aside."""
        for folder in [*([self.cluster] if "database" in parts else []), *([self.media, self.data] if "media" in parts else [])]:
            assert self.who(folder) == "new"
            assert not (folder / "gone").exists()
            (aside,) = folder.parent.glob(f"{folder.name}.before-restore{'' if folder == self.cluster else '-2[0-9]*T*Z'}")
            assert self.who(aside) == "old"
        self.runs()

    def release(self) -> None:
        """What an administrator does after a restore that was cut off and could not be begun again."""
        self.application.release(self.settings)

    def runs(self, *beside: str) -> None:
        assert self.fakes.running() == {UNIT, SENDER, *APP, *beside}
        assert not (self.state / "standing-still.json").exists()
        assert not list(self.media.parent.glob(".restoring-*"))
        assert not self.database.InPlace(self.settings).pending()
        if not beside:
            assert not list((self.root / "var/lib/postgresql/redoubt-restored").glob("*"))


@pytest.fixture(scope="session")
def door(tmp_path_factory) -> Iterator[backup_host.Door]:
    found = backup_host.Door(tmp_path_factory.mktemp("door"))
    yield found
    found.close()


@pytest.fixture
def machine(tmp_path, door, monkeypatch) -> Machine:
    return Machine(tmp_path, door, monkeypatch)


# --- Times and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "wanted"), [
    ("2026-11-20 02:15:00+00", "2026-11-20T02:15:00+00:00"),
    ("2026-11-20 02:15", "2026-11-20T02:15:00+00:00"),
    (" 2026-11-20T03:15:00+01:00\n", "2026-11-20T02:15:00+00:00"),
    ("2026-11-20T02:15:00.123456789Z", "2026-11-20T02:15:00.123456+00:00"),
])
def test_a_time_is_taken_as_people_and_restic_write_it(machine, text, wanted) -> None:
    assert machine.common.moment(text).isoformat() == wanted


@pytest.mark.parametrize("text", ["yesterday", "", "2026-13-01", "2026-11-20 25:00", "0001-01-01 00:00+10:00", "1700000000", "2026-11-20", "2026-11-20+02:00"])
def test_what_is_no_time_is_a_sentence(machine, text) -> None:
    with pytest.raises(machine.refused, match=r"is no time: write it as 2026-11-20T02:15:00Z\.$"):
        machine.restore(at=text or " ")
    machine.before()
    assert not machine.fakes.calls("stop")


def test_pgbackrest_is_told_the_time_in_its_own_words(machine) -> None:
    at = machine.common.moment("2026-11-20 03:15:00.5+01:00")
    assert machine.database.target(at) == ["--type=time", "--target=2026-11-20 02:15:00.500000+00", "--target-timeline=current",
                                           "--target-action=promote"]
    assert machine.database.target(None) == []


def test_a_time_that_is_yet_to_come_is_refused(machine) -> None:
    with pytest.raises(machine.refused, match="^2999-01-01 00:00 is yet to come: choose a time that has been.$"):
        machine.restore(at="2999-01-01 00:00")
    machine.before()
    assert not machine.fakes.calls()


@pytest.mark.parametrize("name", ["drill", "next", "", "..", "../x", "a/b", "A", "1a", "a b", "a" * 22, "a\n", "-x", "."])
@pytest.mark.parametrize("verb", ["restore", "remove"])
def test_a_restore_beside_has_a_plain_name_of_its_own(machine, verb, name) -> None:
    if verb == "restore" and not name:
        pytest.skip("without a name it is in place")
    words = ["restore", f"--into={name}"] if verb == "restore" else ["remove", "--", name]
    before = sorted(machine.root.rglob("*"))
    done = subprocess.run([sys.executable, "-B", str(FILES / "backup"), *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{name!r} is no name for a restore: take small letters, digits and dashes, other than 'drill' and 'next'.\n")
    assert sorted(machine.root.rglob("*")) == before and not machine.fakes.calls()


# --- What is listed --------------------------------------------------------------------------------------------------


def test_what_has_not_changed_keeps_its_hash(machine, tmp_path, monkeypatch) -> None:
    root = tmp_path / "listed"
    (root / "sub").mkdir(parents=True)
    for name in ("a", "sub/b", "c", "d"):
        (root / name).write_text(name)
    (root / "link").symlink_to("a")
    os.mkfifo(root / "fifo")
    first = machine.files.listed([root], {})
    assert sorted(first) == [str(root / name) for name in ("a", "c", "d", "sub/b")]
    assert first[str(root / "a")]["sha256"] == hashlib.sha256(b"a").hexdigest()
    read = []
    hashed = machine.files.hashed
    monkeypatch.setattr(machine.files, "hashed", lambda path: (read.append(path.name), hashed(path))[1])
    assert machine.files.listed([root], first) == first and not read
    # Of the same length, by time; of the same time and length, by inode; of the same time and inode, by length.
    (root / "a").write_text("A")
    was = (root / "c").stat()
    (root / "new").write_text("C")
    os.utime(root / "new", ns=(was.st_mtime_ns, was.st_mtime_ns))
    (root / "new").rename(root / "c")
    was = (root / "d").stat()
    (root / "d").write_text("dd")
    os.utime(root / "d", ns=(was.st_mtime_ns, was.st_mtime_ns))
    second = machine.files.listed([root], first)
    assert sorted(read) == ["a", "c", "d"]
    assert all(second[str(root / name)]["sha256"] == hashed(root / name) for name in ("a", "c", "d"))


def test_what_goes_while_it_is_listed_is_not_listed(machine, tmp_path, monkeypatch) -> None:
    root = tmp_path / "listed"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).write_text(name)

    def vanishing(path: Path) -> str:
        if path.name == "a":
            path.unlink()
        return path.read_text()

    monkeypatch.setattr(machine.files, "hashed", vanishing)
    assert list(machine.files.listed([root, tmp_path / "none"], {})) == [str(root / "b")]


def test_what_was_written_or_removed_since_has_moved(machine, tmp_path) -> None:
    root = tmp_path / "listed"
    root.mkdir()
    for name in ("same", "gone", "longer", "later"):
        (root / name).write_text(name)
    found = machine.files.listed([root], {})
    (root / "gone").unlink()
    (root / "longer").write_text("longer than it was")
    os.utime(root / "later", (1, 1))
    assert sorted(machine.files.moved(found)) == [str(root / name) for name in ("gone", "later", "longer")]


def test_what_came_back_is_compared_byte_for_byte(machine, tmp_path) -> None:
    root, target = tmp_path / "listed", tmp_path / "target"
    root.mkdir()
    for name in ("same", "missing", "shorter", "other", "moving", "folder"):
        (root / name).write_text(f"{name} text")
    manifest = {"files": machine.files.listed([root], {})}
    shutil.copytree(root, target / str(root).lstrip("/"))
    there = target / str(root).lstrip("/")
    assert machine.files.compared(manifest, target, []) == []
    for name in ("missing", "moving", "folder"):
        (there / name).unlink()
    (there / "folder").mkdir()
    (there / "shorter").write_text("x")
    (there / "other").write_text("OTHER text")
    assert sorted(machine.files.compared(manifest, target, [str(root / "moving")])) == [
        f"{root}/folder is missing", f"{root}/missing is missing", f"{root}/other has other content", f"{root}/shorter has other content"]


@pytest.mark.parametrize(("at", "wanted"), [("", "bb"), ("2026-11-25 02:15:00", "bb"), ("2026-11-25 02:14:59", "aa"), ("2026-11-20 01:15:00.2", "aa")])
def test_the_newest_snapshot_until_then_is_chosen(machine, at, wanted) -> None:
    found = machine.files.chosen(machine.settings, ["restic"], machine.common.moment(at) if at else None)
    assert found["id"] == wanted * 32


def test_a_time_before_all_snapshots_and_none_at_all_are_sentences(machine) -> None:
    with pytest.raises(machine.refused, match="The oldest backup of files is of 2026-11-20T02:15:00, after 2026-11-20 00:00:00.*: choose a later time."):
        machine.restore("media", at="2026-11-20 00:00")
    machine.before()
    machine.snapshots()
    with pytest.raises(machine.refused, match="^store1 has no backup of the files of app1.$"):
        machine.restore("media")
    machine.before()


# --- The database in its place ---------------------------------------------------------------------------------------


def test_a_restore_replaces_the_cluster_and_brings_what_was_not_archived(machine) -> None:
    done = machine.restore("database")
    assert done == {"database": {"canary": "2026-11-25 02:15:00+00", "size": 1024, "aside": str(machine.cluster.with_name("main.before-restore"))}}
    machine.after("database")
    # The segment that the archive had stays the archive's; the other one is brought; nothing else is.
    assert {path.name: path.read_text().strip() for path in (machine.cluster / "pg_wal").iterdir()} == {SEGMENTS[0]: "archived", SEGMENTS[1]: "old"}
    assert json.loads((machine.state / "restore.json").read_text())["phase"] == "restored"
    # What the recovery was told is told to none after it.
    assert (machine.cluster / "postgresql.auto.conf").read_text() == "work_mem = '8MB'\n"
    order = [line.split()[1] for line in machine.fakes.calls("systemctl") if UNIT in line and "is-active" not in line]
    assert order == ["stop", "reset-failed", "start"]
    # The application stands still all the while, sockets stopped before services and started before them.
    moves = [line.removeprefix("systemctl ") for line in machine.fakes.calls("systemctl") if "notes" in line and "list-units" not in line]
    assert moves == ["stop notes-prune.timer", "stop notes@blue.socket", "stop notes-worker.service notes@blue.service",
                     "start notes@blue.socket", "start notes-worker.service notes@blue.service", "start notes-prune.timer"]


def test_what_takes_long_is_done_while_the_application_serves_and_only_what_writes_while_it_stands(machine) -> None:
    running = " && ".join(f"test -e {machine.base}/units/{unit}" for unit in (UNIT, *APP))
    machine.fakes.rule(" restore --pg1-path", sh=f"{{ {running}; }} || {{ echo 'ERROR: it stands still' >&2; exit 1; }}\n{RESTORE}")
    # And the restored one starts when nothing writes any more.
    still = "; ".join(f"test ! -e {machine.base}/units/{unit}" for unit in (UNIT, *APP))
    machine.fakes.rule("systemd-run", sh=f"{still}\n{START.replace('BASE', str(machine.base))}")
    machine.restore("database")
    machine.after("database")
    (started,) = machine.fakes.calls("systemd-run")
    assert all(word in started for word in ("listen_addresses= ", "archive_mode=on", "unix_socket_directories=/run/redoubt-restored-next "))
    # It is asked, and stopped before its folder takes the place of the service's.
    order = machine.fakes.calls()
    assert (order.index(f"systemctl stop {UNIT}") < order.index(started) < order.index(*machine.fakes.calls("-h /run/redoubt-restored-next ", "size"))
            < order.index(f"systemctl stop {NEXT}", order.index(started)) < order.index(f"systemctl start {UNIT}"))


def test_segments_on_their_way_are_brought_before_those_of_the_server(machine) -> None:
    spool, last = machine.settings.spool, "000000010000000000000005"
    spool.mkdir()
    for name, text in ((SEGMENTS[0], "spooled"), (SEGMENTS[1], "spooled"), (last, "spooled"), (f".{last}", "half"), ("00000002.history", "spooled")):
        (spool / name).write_text(text)
    machine.restore("database")
    assert {path.name: path.read_text().strip() for path in (machine.cluster / "pg_wal").iterdir()} == {
        SEGMENTS[0]: "archived", SEGMENTS[1]: "spooled", last: "spooled"}
    assert (machine.cluster / "pg_wal" / last).stat().st_mode & 0o777 == 0o600
    # Who sends them goes on.
    assert len(list(spool.iterdir())) == 5


@pytest.mark.parametrize("newest", [True, False])
def test_a_disk_without_room_for_a_second_cluster_is_said_before_anything_is_fetched(machine, monkeypatch, newest) -> None:
    real = shutil.disk_usage
    # A thousand bytes of the cluster, and where the newest is wanted the two segments that are brought; a tenth of both.
    monkeypatch.setattr(machine.database.shutil, "disk_usage", lambda path: real(path)._replace(free=1105))
    with pytest.raises(machine.refused, match=r"^Room for 0\.0 GB of the database is needed, beside what is there, and .* has 0\.0 GB free: make room first\.$"):
        machine.restore("database")
    machine.before()
    assert not machine.fakes.calls(" restore --pg1-path")
    monkeypatch.setattr(machine.database.shutil, "disk_usage", lambda path: real(path)._replace(free=1107 if newest else 1101))
    machine.restore("database", at="" if newest else "2026-11-25 03:00:00")
    machine.after("database")


def test_segments_of_another_cluster_are_neither_brought_nor_left(machine) -> None:
    """A new host's own cluster has laid some down before the old one is restored over it: the repository would refuse them for ever."""
    spool, names = machine.settings.spool, ["000000010000000000000006", "000000010000000000000007", "000000010000000000000008"]
    spool.mkdir()
    for name, text in zip(names, (b"x" * 24 + b"OWN-CLUS", b"x" * 24 + b"ANOTHER!", b"too short to say"), strict=True):
        (spool / name).write_bytes(text)
    machine.fakes.rule(" restore --pg1-path", sh=f"{RESTORE}mkdir $folder/global && printf OWN-CLUSTER >$folder/global/pg_control")
    machine.restore("database")
    found = {path.name for path in (machine.cluster / "pg_wal").iterdir()}
    assert names[0] in found and names[2] in found and names[1] not in found
    assert {path.name for path in spool.iterdir()} == {names[0], names[2]}


def test_at_a_time_no_segment_is_brought(machine) -> None:
    machine.restore("database", at="2026-11-25 03:00:00")
    machine.after("database")
    assert [path.name for path in (machine.cluster / "pg_wal").iterdir()] == [SEGMENTS[0]]
    (call,) = machine.fakes.calls(" restore --pg1-path")
    assert "--target=2026-11-25 03:00:00.000000+00 --target-timeline=current --target-action=promote" in call


FETCHING = {
    "no such time": ({"code": 38, "err": "P00  ERROR: [075]: unable to find backup set"}, "The database was not restored: [075]: unable to find backup set."),
    "a restore that breaks off": ({"sh": RESTORE + "echo 'ERROR: [041]: No space left on device'; exit 41"},
                                  "The database was not restored: [041]: No space left on device."),
}


@pytest.mark.parametrize("step", FETCHING)
def test_what_fails_while_it_is_fetched_is_said_and_nothing_stands_still(machine, step) -> None:
    what, sentence = FETCHING[step]
    machine.fakes.rule(" restore --pg1-path", **what)
    with pytest.raises(machine.refused) as refused:
        machine.restore()
    assert str(refused.value) == sentence
    machine.before()
    assert not [line for line in machine.fakes.calls("systemctl stop") if NEXT not in line]


STEPS = {
    "a restored database that cannot be started": ("systemd-run", {"code": 1, "err": "Unit already exists."},
                                                   "The restored database could not be started: Unit already exists."),
    "a restored database that ends": ("systemd-run", {"code": 0}, "The restored database does not start: could not locate required checkpoint record."),
    "a database that is another's": ("FROM pg_database WHERE datname", {"out": "0"},
                                     "The restored cluster has no database notes: the backup is of another application."),
    "a database that does not answer": ("pg_database_size", {"code": 1, "err": "psql: error: FATAL:  terminating connection"},
                                        "PostgreSQL does not answer: terminating connection."),
    "PostgreSQL that does not stop": (f"stop {UNIT}", {"code": 1, "err": "Job canceled."}, "PostgreSQL could not be stopped: Job canceled."),
    "no recovery's settings": (" restore --pg1-path", {"sh": RESTORE + "rm $folder/postgresql.auto.conf"}, "postgresql.auto.conf'."),
    # From here on the restored one is in the place of the service's.
    "PostgreSQL that does not start with it": (f"start {UNIT}", {"sh": "grep -q old BASE/root/var/lib/postgresql/17/main/who || exit 1"},
                                               "PostgreSQL does not start with the restored data: it said nothing."),
    "a service that does not answer": (SWAPPED, {"code": 2, "err": "psql: error: FATAL:  the database system is shutting down"},
                                       "PostgreSQL does not answer: the database system is shutting down."),
}


@pytest.mark.parametrize("step", STEPS)
def test_what_fails_brings_the_old_cluster_back_and_says_so(machine, step) -> None:
    inside, what, sentence = STEPS[step]
    if "sh" in what:
        what = {"sh": what["sh"].replace("BASE", str(machine.base))}
    machine.fakes.rule("journalctl", out="LOG:  x\nFATAL:  could not locate required checkpoint record\nFATAL:  the database system is starting up")
    machine.fakes.rule(inside, **what)
    with pytest.raises(machine.refused) as refused:
        machine.restore("database")
    assert str(refused.value).endswith(f"{sentence} The database from before is in its place.")
    machine.before()
    found = json.loads((machine.state / "restore.json").read_text())
    assert found["phase"] == "put back" and found["reason"].endswith(sentence)


def test_a_scratch_server_that_does_not_stop_keeps_the_service_as_it_is(machine) -> None:
    """Two servers on one folder would be the end of it."""
    machine.fakes.rule(f"systemctl stop {NEXT}", sh=f"test ! -e {machine.base}/units/{NEXT} || exit 1")
    with pytest.raises(machine.refused, match=r"^The restored database could not be stopped: it said nothing\. The database from before is in its place\.$"):
        machine.restore("database")
    machine.before(NEXT)


@pytest.mark.parametrize("where", ["the first folder", "segments", "the service's folder", "the restored folder", "the last note"])
def test_a_disk_that_is_full_brings_the_old_cluster_back_too(machine, monkeypatch, where) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    real, write = Path.rename, machine.database.write
    if where == "the first folder":
        monkeypatch.setattr(machine.database.os, "chown", full)
    elif where == "segments":
        monkeypatch.setattr(machine.database.shutil, "copyfile", full)
    elif where == "the service's folder":
        monkeypatch.setattr(Path, "rename", lambda path, target: full() if path == machine.cluster else real(path, target))
    elif where == "the restored folder":
        monkeypatch.setattr(Path, "rename", lambda path, target: full() if path.name == "data" and target == machine.cluster else real(path, target))
    else:
        monkeypatch.setattr(machine.database, "write", lambda path, value: full() if value["phase"] == "restored" else write(path, value))
    with pytest.raises(machine.refused, match="No space left on device. The (database|one) from before is in its place.$"):
        machine.restore("database")
    machine.before()


def test_what_was_restored_makes_room_before_the_old_cluster_starts(machine) -> None:
    """A disk that it has filled keeps PostgreSQL from starting."""
    machine.fakes.rule(f"start {UNIT}", sh=f"test ! -e {machine.settings.scratch}/next || {{ echo 'No space left on device' >&2; exit 1; }}")
    machine.fakes.rule("FROM pg_database WHERE datname", out="0")
    with pytest.raises(machine.refused, match=r"of another application\. The database from before is in its place\.$"):
        machine.restore("database")
    machine.before()


def test_what_a_restored_server_lays_down_while_it_stops_is_not_sent(machine) -> None:
    machine.settings.spool.mkdir()
    later = machine.settings.spool / "000000020000000000000005"
    machine.fakes.rule(f"stop {NEXT}", sh=f"test ! -e {machine.base}/units/{NEXT} || touch {later}")
    machine.fakes.rule(f"start {SENDER}", sh=f"test ! -e {later} || echo sent >>{machine.base}/sent")
    machine.fakes.rule("FROM pg_database WHERE datname", out="0")
    with pytest.raises(machine.refused, match="of another application"):
        machine.restore("database")
    machine.before()
    assert not later.exists() and not (machine.base / "sent").exists()


def test_an_old_cluster_that_does_not_start_again_is_said(machine) -> None:
    machine.fakes.rule(f"start {UNIT}", code=1, err="Job failed. See journalctl.")
    with pytest.raises(machine.refused, match=r"PostgreSQL does not start with the restored data: .*\. The database from before is in its place, but PostgreSQL did not "
                                              r"start again with it: Job failed\. See journalctl\.$"):
        machine.restore("database")
    assert machine.who(machine.cluster) == "old"
    # It is not forgotten, and made up for as soon as it can be.
    assert machine.database.InPlace(machine.settings).pending()
    machine.fakes.rule(f"start {UNIT}")
    assert "taken back first" in machine.database.InPlace(machine.settings).mend()
    machine.before()


@pytest.mark.parametrize(("rule", "sentence"), [
    ({"code": 99, "err": "ERROR: [049]: unable to connect to store1:8432"}, "The backups of the database on store1 cannot be read: .049.: unable to connect"),
    ({"out": '[{"backup": []}]'}, "^store1 has no backup of this database.$"),
    ({"out": "[]"}, "^store1 has no backup of this database.$"),
])
def test_what_cannot_be_reached_is_found_out_while_the_application_serves(machine, rule, sentence) -> None:
    machine.fakes.rule("info --output=json", **rule)
    with pytest.raises(machine.refused, match=sentence):
        machine.restore()
    machine.before()
    assert not [line for line in machine.fakes.calls("systemctl stop") if NEXT not in line]


def test_killed_at_any_step_the_next_run_puts_the_old_cluster_back_first(machine) -> None:
    at, reached, phases = 1, 0, set()
    while True:
        machine.begin()
        if not dies(lambda: machine.restore("database"), at, MUTATING, processes=True):
            break
        phase = machine.common.read(machine.state / "restore.json").get("phase")
        phases.add(phase)
        # Each step from when the service stops until the restored one is in its place; every fourth of those before and after.
        reached, at = at, at + (1 if phase in ("replaying", "swapping") else 4)
        # A repository that cannot be reached by now keeps nothing from being put back.
        machine.fakes.rule("info --output=json", code=99, err="ERROR: [049]: unable to connect")
        with pytest.raises(machine.refused, match="unable to connect"):
            machine.restore("database")
        # Once the restored one has answered it is done; until then nothing is.
        assert machine.who(machine.cluster) == ("new" if phase == "restored" else "old")
        assert UNIT in machine.fakes.running()
        machine.release()
        if phase == "restored":
            machine.after("database")
            continue
        machine.before()
        if reached % 9 == 0:
            machine.rules_of_a_good_restore()
            machine.restore("database")
            machine.after("database")
    assert reached > 30 and phases == {None, "replaying", "swapping", "restored"}


# What the restored cluster lays down once it has begun its timeline.
BEGINS = START + """
mkdir -p ROOT/var/lib/postgresql/pgbackrest-spool
touch ROOT/var/lib/postgresql/pgbackrest-spool/00000002.history ROOT/var/lib/postgresql/pgbackrest-spool/000000020000000000000005
test ! -e BASE/units/redoubt-backup-send.service || echo sent >>BASE/sent
"""


@pytest.mark.parametrize("good", [True, False])
def test_nothing_is_sent_before_it_is_known_which_cluster_goes_on(machine, good) -> None:
    spool = machine.settings.spool
    spool.mkdir(parents=True)
    (spool / SEGMENTS[1]).write_text("old")
    machine.fakes.rule("systemd-run", sh=BEGINS.replace("BASE", str(machine.base)).replace("ROOT", str(machine.root)))
    if good:
        machine.restore("database")
        machine.after("database")
    else:
        machine.fakes.rule("FROM pg_database WHERE datname", out="0")
        with pytest.raises(machine.refused, match="of another application"):
            machine.restore("database")
        machine.before()
    assert not (machine.base / "sent").exists(), "the sender ran while the restored cluster replayed"
    # What was waiting waits on; the new timeline is sent only where it is the service's.
    assert {path.name for path in spool.iterdir()} == {SEGMENTS[1], *(("00000002.history", "000000020000000000000005") if good else ())}


@pytest.mark.parametrize("web", [True, False])
def test_a_database_alone_makes_the_repository_of_its_files_this_hosts(machine, web) -> None:
    machine.configure(web=web)
    machine.restore("database")
    assert (machine.state / "files-claimed.json").exists() is not web


def test_a_repository_that_never_answers_is_not_waited_for(machine, monkeypatch) -> None:
    monkeypatch.setattr(machine.database, "ANSWERS_WITHIN", 1)
    machine.fakes.rule("info --output=json", sh="sleep 30")
    began = time.monotonic()
    with pytest.raises(machine.refused, match=r"^The backups of the database on store1 cannot be read: no answer within 1 s\.$"):
        machine.restore("database")
    assert time.monotonic() - began < 25, "it was waited for"
    machine.before()


def test_a_restore_of_media_mends_that_of_a_database(machine) -> None:
    machine.fakes.rule(SWAPPED, kill="before")
    killed(lambda: machine.restore("database"))
    assert machine.who(machine.cluster) == "new"
    machine.restore("media")
    assert machine.who(machine.cluster) == "old"
    machine.after("media")


def test_killed_while_it_is_mended_the_next_run_mends_it(machine) -> None:
    reached = 0
    for at in range(1, 100):
        machine.begin()
        machine.fakes.rule(SWAPPED, kill="before")
        killed(lambda: machine.restore("database"))
        assert machine.who(machine.cluster) == "new"
        if not dies(lambda: machine.database.InPlace(machine.settings).mend(), at, MUTATING, processes=True):
            break
        reached = at
        done = not machine.database.InPlace(machine.settings).pending()
        assert ("taken back first" in machine.database.InPlace(machine.settings).mend()) != done
        assert machine.who(machine.cluster) == "old" and UNIT in machine.fakes.running()
        assert machine.database.InPlace(machine.settings).mend() == ""
        machine.release()
        machine.before()
    assert reached > 10


def killed(action: Callable[[], object]) -> None:
    """In a child that a fake kills, as an administrator would."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_was_started_ends_with_who_started_it(machine, tmp_path) -> None:
    """A pgBackRest that goes on restoring would write into what was put back."""
    pid = tmp_path / "pid"
    machine.fakes.rule(" restore --pg1-path", sh=f"echo $PPID > {pid}.new; mv {pid}.new {pid}; exec sleep 600")
    child = os.fork()
    if child == 0:
        try:
            machine.restore("database")
        finally:
            os._exit(1)
    try:
        wait(pid.exists)
        theirs = int(pid.read_text())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    wait(lambda: gone(theirs))
    machine.program.restore(machine.settings, ["media"], "", "")
    assert machine.who(machine.cluster) == "old"


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.05)


def test_a_bare_host_gets_its_cluster(machine) -> None:
    shutil.rmtree(machine.cluster.parent)
    machine.cluster.parent.mkdir()
    assert machine.restore("database")["database"]["size"] == 1024
    assert machine.who(machine.cluster) == "new"
    machine.runs()


# --- The application meanwhile ---------------------------------------------------------------------------------------


def test_what_ran_runs_again_whatever_happens_between(machine) -> None:
    with pytest.raises(KeyError), machine.application.held(machine.settings):
        assert machine.fakes.running() == {UNIT, SENDER}
        assert json.loads((machine.state / "standing-still.json").read_text())["units"] == sorted(APP)
        raise KeyError
    machine.before()


def test_what_did_not_run_is_not_started(machine) -> None:
    (machine.base / "units/notes-worker.service").unlink()
    with machine.application.held(machine.settings):
        pass
    assert machine.fakes.running() == {UNIT, SENDER, *APP} - {"notes-worker.service"}


@pytest.mark.parametrize("kind", [".timer", ".socket", ".service"])
def test_an_application_that_does_not_stop_is_not_left_half_stopped(machine, kind) -> None:
    name = min(unit for unit in APP if unit.endswith(kind))
    machine.fakes.rule(f"stop {name}", code=1, err="Job timed out.")
    with pytest.raises(machine.refused, match="^The application could not be stopped: Job timed out.$"):
        machine.restore()
    machine.before()


def test_one_unit_that_does_not_start_holds_up_no_other_and_is_tried_again(machine) -> None:
    machine.fakes.rule("start notes@blue.socket", code=1, err="Job failed.")
    with pytest.raises(machine.refused, match="^The application was not started again: Job failed.$"), machine.application.held(machine.settings):
        pass
    assert machine.fakes.running() == {UNIT, SENDER, *APP} - {"notes@blue.socket"}
    machine.rules_of_a_good_restore()
    machine.fakes.rule("start notes@blue.socket")
    machine.application.release(machine.settings)
    machine.before()


def test_killed_at_any_step_between_what_ran_before_runs_again_after_the_next(machine) -> None:
    def hold_and_release() -> None:
        with machine.application.held(machine.settings):
            pass

    reached = 0
    for at in range(1, 100):
        machine.begin()
        if not dies(hold_and_release, at, MUTATING, processes=True):
            break
        reached = at
        # Somebody has started one more by hand.
        (machine.base / "units/notes@green.service").touch()
        hold_and_release()
        assert machine.fakes.running() == {UNIT, SENDER, *APP, "notes@green.service"}
        assert not (machine.state / "standing-still.json").exists()
    assert reached > 8


def test_builds_and_what_runs_once_are_not_started_again(machine) -> None:
    (machine.base / "units/notes-build-7.service").touch()
    (machine.base / "units/notes-run.scope").touch()
    with machine.application.held(machine.settings):
        assert "notes-build-7.service" not in machine.fakes.running()
    assert machine.fakes.running() == {UNIT, SENDER, *APP, "notes-run.scope"}


# --- The files in their place ----------------------------------------------------------------------------------------


def test_files_are_put_in_place_and_those_from_before_aside(machine) -> None:
    done = machine.restore("media")
    aside = [str(next(path.parent.glob(f"{path.name}.before-restore-2*"))) for path in (machine.media, machine.data)]
    assert done == {"media": {"snapshot": "bbbbbbbb", "of": "2026-11-25T02:15:00", "aside": aside}}
    machine.after("media")
    assert f"--include={machine.media} --include={machine.data}" in machine.fakes.calls("--target=/")[0]


def stopped_clock(machine: Machine, monkeypatch: pytest.MonkeyPatch, at: datetime.datetime) -> None:
    stopped = type("Stopped", (datetime.datetime,), {"now": classmethod(lambda _, zone: at)})
    monkeypatch.setattr(machine.files, "datetime", types.SimpleNamespace(**{**vars(datetime), "datetime": stopped}))


def test_what_an_earlier_restore_has_put_aside_stays(machine, monkeypatch) -> None:
    """It is the only copy of what came since the last backup."""
    at = datetime.datetime(2026, 11, 26, 9, tzinfo=datetime.UTC)
    stopped_clock(machine, monkeypatch, at)
    machine.restore("media")
    (machine.media / "who").write_text("restored\n")
    # Of the same second: nothing is taken for what it is not.
    with pytest.raises(machine.refused, match=r"those from before are back: .*media\.before-restore-20261126T090000Z is there already\.$"):
        machine.restore("media")
    assert machine.who(machine.media) == "restored"
    stopped_clock(machine, monkeypatch, at + datetime.timedelta(hours=1))
    machine.restore("media")
    assert {path.name: machine.who(path) for path in machine.media.parent.glob("media*")} == {
        "media": "new", "media.before-restore-20261126T100000Z": "restored", "media.before-restore-20261126T090000Z": "old",
        "media.before-restore-19990101T000000Z": "older"}
    machine.runs()


def test_folders_are_put_in_place_all_or_none(machine, monkeypatch) -> None:
    real = Path.rename
    for at in range(1, 20):
        machine.begin()
        count = 0

        def fail(path: Path, target: Path, at: int = at) -> Path:
            nonlocal count
            if str(path).startswith(str(machine.base / "srv")) and path.name != ".placing.json.new" and target.name != "media.old":
                count += 1
                if count == at:
                    raise OSError(18, "Invalid cross-device link")
            return real(path, target)

        monkeypatch.setattr(Path, "rename", fail)
        if at == 5:
            machine.restore("media")
            machine.after("media")
            return
        with pytest.raises(machine.refused, match="^The files were not put in place, and those from before are back: .*Invalid cross-device link"):
            machine.restore("media")
        machine.before()
    raise AssertionError("never ended")


def test_a_folder_that_was_not_there_is_not_there_where_another_fails(machine, monkeypatch) -> None:
    shutil.rmtree(machine.media)
    real = Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == machine.data:
            raise OSError(16, "Device or resource busy")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(machine.refused, match="those from before are back"):
        machine.restore("media")
    assert not machine.media.exists() and machine.who(machine.data) == "old"
    machine.runs()


def test_a_snapshot_without_uploads_is_none_to_restore_them_from(machine) -> None:
    shutil.rmtree(machine.base / "snapshot" / str(machine.media).lstrip("/"))
    with pytest.raises(machine.refused, match=rf"^Snapshot bbbbbbbb of 2026-11-25T02:15:00 has no {machine.media}: choose another time"):
        machine.restore("media")
    machine.before()
    assert not machine.fakes.calls("systemctl stop notes")
    assert not (machine.state / "files-claimed.json").exists()


def test_a_snapshot_of_somebody_elses_making_is_refused(machine) -> None:
    machine.fakes.rule(" dump ", code=1, err="Fatal: cannot dump file")
    with pytest.raises(machine.refused, match="^Snapshot bbbbbbbb of 2026-11-25T02:15:00 has no list of its files, so it is none of redoubt-backup's"):
        machine.restore("media")
    machine.before()


@pytest.mark.parametrize("where", ["uploads", "elsewhere", "dump"])
def test_files_without_room_are_not_fetched(machine, where) -> None:
    """In place, what is large elsewhere does not count; beside, all of it does."""
    large = {"size": 10**18}
    files = {str(machine.media / "film"): large} if where == "uploads" else {"/etc/large": large} if where == "elsewhere" else {}
    machine.fakes.rule(" dump ", out=json.dumps({"files": files, "database": {"bytes": 10**18} if where == "dump" else None}))
    if where == "uploads":
        with pytest.raises(machine.refused, match=r"^Room for 1000000000\.0 GB of the files is needed"):
            machine.restore("media")
        machine.before()
    else:
        machine.restore("media")
        machine.after("media")
    with pytest.raises(machine.refused, match="of the files is needed"):
        machine.files.fetch(machine.settings, None, machine.base / "target")


def test_a_folder_that_the_snapshot_has_not_stays(machine) -> None:
    shutil.rmtree(machine.base / "snapshot" / str(machine.data).lstrip("/"))
    machine.restore("media")
    assert (machine.who(machine.media), machine.who(machine.data)) == ("new", "old")


@pytest.mark.parametrize("where", ["", "videos", "more/old films"])
def test_what_is_mounted_at_or_below_a_folder_is_refused(machine, where) -> None:
    """Put aside it would go along, and with what is aside it would be emptied."""
    machine.mounted("/", machine.media.with_name("media2"), machine.data / where)
    with pytest.raises(machine.refused) as refused:
        machine.restore("media")
    assert str(refused.value) == f"{machine.data / where} is a mounted file system, which cannot be put aside: restore beside it (`-e into=restored`) and copy."
    machine.before()
    assert not machine.fakes.calls("--target=/")
    machine.mounted("/", machine.media.with_name("media2"))
    machine.restore("media")
    machine.after("media")


def test_files_that_do_not_come_leave_what_is_there(machine) -> None:
    machine.fakes.rule("--target=/", sh=BRING.replace("BASE", str(machine.base)) + "echo 'Fatal: pack 12 is damaged' >&2; exit 1")
    with pytest.raises(machine.refused, match="^The files were not restored: pack 12 is damaged.$"):
        machine.restore("media")
    machine.before()


@pytest.mark.parametrize("bare", [False, True])
def test_killed_at_any_step_the_folders_from_before_are_back_first(machine, bare) -> None:
    reached = 0
    for at in range(1, 300, 5 if bare else 2):
        machine.begin()
        if bare:
            shutil.rmtree(machine.media)
        if not dies(lambda: machine.restore("media"), at, MUTATING, processes=True):
            break
        reached = at
        record = next(machine.media.parent.glob(".restoring-*/placing.json"), None)
        done = not record and machine.who(machine.data) == "new"
        machine.fakes.rule("--target=/", code=1, err="Fatal: connection refused")
        with pytest.raises(machine.refused, match="connection refused"):
            machine.restore("media")
        machine.release()
        # Once all are in place it is done; until then nothing is.
        if done:
            assert (machine.who(machine.media), machine.who(machine.data)) == ("new", "new")
            machine.runs()
        elif bare:
            assert not machine.media.exists() and machine.who(machine.data) == "old"
            machine.runs()
        else:
            machine.before()
    assert reached > 30


def test_restored_files_belong_to_the_accounts_of_this_host(machine, tmp_path) -> None:
    if os.geteuid():
        pytest.skip("files change their owner, which only root may do")
    found, root, outside = tmp_path / "found", tmp_path / "live", tmp_path / "outside"
    for folder in (found / "sub", root, outside):
        folder.mkdir(parents=True)
    (found / "sub/file").write_text("x")
    (found / "other").write_text("x")
    (found / "link").symlink_to(outside)
    for path in (found, found / "sub", found / "sub/file", found / "link"):
        os.lchown(path, 1001, 1002)
    # Of another account, which is not the application's.
    os.chown(found / "other", 7, 1002)
    (found / "sub/file").chmod(0o2751)
    os.chown(root, 2001, 2002)
    machine.files.adopt(found, root)
    assert {path.name: (path.lstat().st_uid, path.lstat().st_gid) for path in (found, *found.rglob("*"))} == {
        "found": (2001, 2002), "sub": (2001, 2002), "file": (2001, 2002), "link": (2001, 2002), "other": (7, 2002)}
    # Which a change of the owner would have taken away.
    assert (found / "sub/file").stat().st_mode & 0o7777 == 0o2751
    assert (outside.stat().st_uid, outside.stat().st_gid) == (0, 0)


def test_where_nothing_is_there_yet_restored_files_keep_their_owners(machine, tmp_path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    (found / "file").touch()
    before = [(path.stat().st_uid, path.stat().st_ctime_ns) for path in (found, found / "file")]
    machine.files.adopt(found, tmp_path / "none")
    assert [(path.stat().st_uid, path.stat().st_ctime_ns) for path in (found, found / "file")] == before


# --- The files' repository -------------------------------------------------------------------------------------------


def test_a_snapshot_that_is_yet_to_come_is_not_the_newest(machine) -> None:
    machine.snapshots(("aa" * 32, "2026-11-20T02:15:00Z"), ("cc" * 32, "2999-01-01T00:00:00Z"))
    assert machine.restore("media")["media"]["snapshot"] == "aaaaaaaa"
    # Clocks that differ a little are no lie.
    soon = f"{datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=30):%Y-%m-%dT%H:%M:%SZ}"
    machine.snapshots(("aa" * 32, "2026-11-20T02:15:00Z"), ("dd" * 32, soon), ("cc" * 32, "2999-01-01T00:00:00Z"))
    assert machine.files.chosen(machine.settings, ["restic"], None)["id"] == "dd" * 32
    machine.snapshots(("cc" * 32, "2999-01-01T00:00:00Z"))
    with pytest.raises(machine.refused, match="choose a later time"):
        machine.restore("media")


@pytest.mark.parametrize(("whose", "sentence"), [
    ("app2", r"^store1 does not let app1 to its files: it answers 403, and its log \(redoubt_backup_door\) says more\.$"),
    ("closed", r"^store1 cannot be reached for the files \(127\.0\.0\.1 port 1\): .*refused"),
    ("stranger", r"^store1 cannot be reached for the files .*certificate"),
])
def test_a_door_that_does_not_open_is_said_before_restic_is_asked(machine, tmp_path, whose, sentence) -> None:
    machine.configure(repository="rest:https://127.0.0.1:1/app1/" if whose == "closed" else machine.door.repository(whose.replace("stranger", "app1")))
    if whose == "stranger":
        # Whose authority is not ours.
        (tmp_path / "other").mkdir()
        backup_host.make_pki(tmp_path / "other")
        shutil.copy(tmp_path / "other/ca.pem", tmp_path / "pki/ca.pem")
    with pytest.raises(machine.refused, match=sentence):
        machine.restore("media")
    machine.before()
    assert not machine.fakes.calls("restic")
    assert not list((machine.base / "run").iterdir()), "the host's key has been left"


@pytest.fixture
def sending(machine) -> Machine:
    """A host of files alone, whose repository takes what it sends."""
    machine.configure(database=False)
    machine.fakes.rule(" backup --json", out=json.dumps({"message_type": "summary", "snapshot_id": "dd" * 32, "total_files_processed": 4, "data_added": 5}))
    return machine


def test_what_was_sent_is_written_down(sending) -> None:
    sending.snapshots()
    assert sending.files.back_up(sending.settings) == "sent dddddddd: 4 files, 5 new bytes"
    assert sending.common.read(sending.settings.work / "files.json")["snapshot"] == "dddddddd"
    # A repository that nobody has begun is begun.
    assert not sending.fakes.calls(" init")
    sending.configure(database=False, repository=sending.door.repository("new"))
    sending.fakes.rule("cat config", code=10)
    sending.files.back_up(sending.settings)
    assert sending.fakes.calls(" init")


def test_no_file_that_is_uploaded_keeps_others_out_of_the_backup(sending) -> None:
    """restic leaves out a folder with a CACHEDIR.TAG where it is told to."""
    sending.snapshots()
    sending.files.back_up(sending.settings)
    (call,) = sending.fakes.calls(" backup --json")
    assert "--exclude-caches" not in call and "--exclude-if-present" not in call


def test_a_dump_that_fails_leaves_the_room_it_took(machine, monkeypatch) -> None:
    class View:
        name = "1"

        def __init__(self, settings: object) -> None:
            pass

        def __enter__(self) -> object:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(machine.files, "Snapshot", View)
    machine.settings.work.mkdir(parents=True)
    machine.settings.dump.write_text("of the night before")
    machine.fakes.rule("pg_dump ", sh="for word; do case $word in --file=*) echo half >${word#--file=};; esac; done; exit 1")
    with pytest.raises(machine.refused, match="^The database could not be dumped"):
        machine.files.dump(machine.settings)
    assert [path.name for path in machine.settings.work.iterdir()] == ["notes.dump"]
    assert machine.settings.dump.read_text() == "of the night before"


def test_a_host_made_new_does_not_send_after_an_earlier_one(sending) -> None:
    with pytest.raises(sending.refused) as refused:
        sending.files.back_up(sending.settings)
    assert str(refused.value) == (
        "store1 has files that an earlier app1 sent, until 2026-11-25T02:15:00: bring them back with restore.yml, or begin anew with "
        "`backup.yml -e begin_anew=true`. Until then no files of this host are backed up.")
    assert not sending.fakes.calls(" backup --json") and not sending.fakes.calls(" unlock")
    assert not (sending.settings.work / "files.json").exists()
    # Restored beside is not restored.
    sending.program.restore(sending.settings, ["media"], "", "look")
    with pytest.raises(sending.refused, match="an earlier app1 sent"):
        sending.files.back_up(sending.settings)


@pytest.mark.parametrize("how", ["restored", "claimed", "has sent before"])
def test_it_sends_once_the_repository_is_its_own(sending, how) -> None:
    if how == "restored":
        sending.restore("media")
    elif how == "claimed":
        subprocess.run([sys.executable, "-B", str(FILES / "backup"), "claim"], check=True)
    else:
        sending.common.write(sending.settings.work / "files.json", {"snapshot": "bbbbbbbb"})
    sending.files.back_up(sending.settings)
    assert sending.fakes.calls(" backup --json")


# --- The log on its way ----------------------------------------------------------------------------------------------


@pytest.fixture
def spool(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setenv("PGBACKREST_SPOOL", str(folder))
    return folder


@pytest.fixture
def laid(tmp_path, spool, monkeypatch) -> types.ModuleType:
    """The archive_command, and a segment that it is given."""
    (tmp_path / "pg_wal").mkdir()
    (tmp_path / "pg_wal" / SEGMENTS[0]).write_bytes(os.urandom(3 << 20))
    program = backup_host.load("redoubt_pgbackrest_spool", FILES / "pgbackrest-spool")
    monkeypatch.setattr(sys, "argv", ["pgbackrest-spool", str(tmp_path / "pg_wal" / SEGMENTS[0]), SEGMENTS[0]])
    return program


def test_a_segment_is_on_the_disk_whole_before_it_has_its_name(laid, tmp_path, spool, monkeypatch) -> None:
    wanted, done = (tmp_path / "pg_wal" / SEGMENTS[0]).read_bytes(), []
    real = {"fsync": os.fsync, "rename": os.rename}

    def fsync(handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        done.append(("fsync", path.name, path.is_dir() or path.read_bytes() == wanted))
        real["fsync"](handle)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", lambda source, target: (done.append(("rename", Path(target).name, not Path(target).exists())), real["rename"](source, target)))
    assert laid.main() == 0
    assert done == [("fsync", f".{SEGMENTS[0]}", True), ("rename", SEGMENTS[0], True), ("fsync", "spool", True)]
    assert [path.name for path in spool.iterdir()] == [SEGMENTS[0]] and (spool / SEGMENTS[0]).read_bytes() == wanted


def test_the_same_segment_again_is_done_and_another_of_its_name_is_refused(laid, tmp_path, spool, capsys) -> None:
    assert laid.main() == 0
    was = (spool / SEGMENTS[0]).stat()
    assert laid.main() == 0
    assert ((spool / SEGMENTS[0]).stat().st_ino, (spool / SEGMENTS[0]).stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
    # Of the same length, and of the same time.
    before = (spool / SEGMENTS[0]).read_bytes()
    (tmp_path / "pg_wal" / SEGMENTS[0]).write_bytes(os.urandom(3 << 20))
    os.utime(tmp_path / "pg_wal" / SEGMENTS[0], ns=(was.st_mtime_ns, was.st_mtime_ns))
    assert laid.main() == 1
    assert "is there with other content" in capsys.readouterr().err
    assert (spool / SEGMENTS[0]).read_bytes() == before


def test_killed_half_way_no_half_segment_has_its_name_and_the_next_call_lays_it_down(laid, tmp_path, spool, monkeypatch) -> None:
    wanted, reached = (tmp_path / "pg_wal" / SEGMENTS[0]).read_bytes(), 0
    real = shutil.copyfileobj

    def slowly(source: object, sink: object, length: int) -> None:
        # Each piece is written on its own, so that death comes between them too.
        for piece in iter(lambda: source.read(length), b""):
            os.fsync(sink.fileno())
            sink.write(piece)
            sink.flush()

    for at in range(1, 30):
        for path in spool.iterdir():
            path.unlink()
        monkeypatch.setattr(laid.shutil, "copyfileobj", slowly)
        if not dies(laid.main, at, ("fsync", "rename", "close")):
            break
        reached = at
        for path in spool.iterdir():
            assert path.name == f".{SEGMENTS[0]}" or path.read_bytes() == wanted
        monkeypatch.setattr(laid.shutil, "copyfileobj", real)
        assert laid.main() == 0
        assert {path.name: path.read_bytes() for path in spool.iterdir()} == {SEGMENTS[0]: wanted}
    assert reached >= 6


class Enough(Exception):
    """Of an endless loop."""


@pytest.fixture
def send(machine, spool, monkeypatch) -> Callable[..., list[float]]:
    """Let it look as often as there are actions, each of which is done while it waits for its next look; how long it would have waited."""
    program = backup_host.load("redoubt_pgbackrest_send", FILES / "pgbackrest-send")
    monkeypatch.setattr(sys, "argv", ["pgbackrest-send", "notes"])
    # What it is to send is there when it is sent.
    machine.fakes.rule("archive-push", sh='for path; do :; done; test -s "$path"')

    def run(*meanwhile: Callable[[], object]) -> list[float]:
        waited, left = [], list(meanwhile)

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if not left:
                raise Enough
            left.pop(0)()

        monkeypatch.setattr(program.time, "sleep", sleep)
        with pytest.raises(Enough):
            program.main()
        return waited

    return run


def pushed(machine: Machine) -> list[str]:
    return [line.rsplit("/", 1)[1] for line in machine.fakes.calls("--stanza=notes --no-archive-async archive-push")]


def lay(spool: Path, *names: str) -> None:
    for name in names:
        (spool / name).write_text("x")


def test_what_was_laid_down_is_sent_in_order_a_history_first_and_goes_when_it_is_there(machine, spool, send) -> None:
    later, tail = "000000020000000000000004", "000000010000000000000003.00000028.backup"
    lay(spool, later, SEGMENTS[1], tail, "00000002.history", SEGMENTS[0], f".{SEGMENTS[0]}")
    (spool / "folder").mkdir()
    assert send() == [0.5]
    assert pushed(machine) == ["00000002.history", SEGMENTS[0], tail, SEGMENTS[1], later]
    # One that is being laid down is not touched.
    assert sorted(path.name for path in spool.iterdir()) == [f".{SEGMENTS[0]}", "folder"]


def test_what_is_refused_stays_nothing_overtakes_it_and_it_is_tried_again(machine, spool, send) -> None:
    lay(spool, *SEGMENTS)
    machine.fakes.rule(SEGMENTS[0], code=82)

    def still() -> None:
        assert sorted(path.name for path in spool.iterdir()) == SEGMENTS
        assert set(pushed(machine)) == {SEGMENTS[0]}

    def better() -> None:
        still()
        machine.fakes.rule(SEGMENTS[0], code=0)

    assert send(*[still] * 5, better) == [1, 2, 4, 8, 15, 15, 0.5]
    assert pushed(machine) == [SEGMENTS[0]] * 7 + [SEGMENTS[1]]
    assert not list(spool.iterdir())


def test_one_in_the_middle_that_is_refused_keeps_what_follows(machine, spool, send) -> None:
    lay(spool, *SEGMENTS, "000000010000000000000005")
    machine.fakes.rule(SEGMENTS[1], code=82)
    send()
    assert sorted(path.name for path in spool.iterdir()) == [SEGMENTS[1], "000000010000000000000005"]
    assert pushed(machine) == SEGMENTS


# --- Beside the service ----------------------------------------------------------------------------------------------


def test_beside_nothing_of_the_service_is_touched(machine) -> None:
    done = machine.program.restore(machine.settings, ["database", "media"], "", "look")
    folder = machine.root / "var/lib/redoubt-restored/look"
    assert done["media"]["folder"] == str(folder) and machine.who(folder / str(machine.media).lstrip("/")) == "new"
    assert machine.who(machine.root / "var/lib/postgresql/redoubt-restored/look/data") == "new"
    machine.before("redoubt-restored-look.service")
    assert not [line for line in machine.fakes.calls("systemctl stop") if NEXT not in line]
    (started,) = machine.fakes.calls("systemd-run")
    assert all(word in started for word in ("--property=User=postgres", "listen_addresses= ", "archive_mode=off", "--property=ProtectSystem=strict"))
    for part in ("database", "media"):
        with pytest.raises(machine.refused, match="^There is a restore called look already"):
            machine.program.restore(machine.settings, [part], "", "look")
    machine.database.remove_scratch(machine.settings, "look")
    assert not folder.exists()


def test_a_restore_beside_that_fails_leaves_nothing(machine) -> None:
    machine.fakes.rule("FROM pg_database WHERE datname", out="0")
    with pytest.raises(machine.refused, match="has no database notes"):
        machine.program.restore(machine.settings, ["database"], "", "look")
    assert not list((machine.root / "var/lib/postgresql/redoubt-restored").iterdir())
    assert machine.fakes.calls("systemctl stop redoubt-restored-look.service")
    machine.before()


# --- The drill -------------------------------------------------------------------------------------------------------

GOOD = ["log archived", "files restored", "files as listed", "dump restored", "rows as counted", "canary", "every page read", "migrations",
        "database's repository", "files' repository"]


@pytest.fixture
def drilled(machine) -> Machine:
    """A machine whose backups are good."""
    rule, snapshot = machine.fakes.rule, machine.base / "snapshot"
    newest = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S.000000}"
    manifest = {"files": machine.files.listed([machine.media], {}),
                "database": {"rows": {"public.note": 3}, "canary": f"{newest} word", "migrations": ["notes.0001"]}}
    shutil.copytree(machine.media, snapshot / str(machine.media).lstrip("/"), dirs_exist_ok=True)
    work = snapshot / str(machine.settings.work).lstrip("/")
    work.mkdir(parents=True)
    (work / "manifest.json").write_text(json.dumps(manifest))
    (work / "notes.dump").write_text("dump")
    rule("pg_switch_wal", out="000000010000000000000007")
    rule("last_archived_wal", out="t")
    rule("query_to_xml", out='{"public.note": 3, "public.empty": 0}')
    rule("redoubt.canary WHERE word = 'word'", out="1")
    rule("to_char(at AT TIME ZONE", out=f"{newest} word")
    rule("FROM django_migrations", out='["notes.0001"]')
    rule(" verify ", out="")
    machine.newest = newest
    return machine


def clean(machine: Machine) -> None:
    for folder in ("var/lib/redoubt-restored/drill", "var/lib/postgresql/redoubt-restored/drill"):
        assert not (machine.root / folder).exists(), folder
    assert "redoubt-restored-drill.service" not in machine.fakes.running()


def test_a_good_drill_is_written_down_and_leaves_nothing(drilled) -> None:
    result = drilled.drill.Drill(drilled.settings).run()
    assert json.loads((drilled.state / "drill.json").read_text()) == result
    assert [step["step"] for step in result["steps"]] == GOOD
    assert result["ok"] and all(step["ok"] for step in result["steps"]), result
    assert (result["snapshot"], result["backup"]) == ("bbbbbbbb", "label0")
    clean(drilled)
    drilled.before()


BROKEN = {
    "log archived": ("pg_switch_wal", {"code": 1, "err": "psql: error: FATAL:  no"}, "PostgreSQL does not answer: no."),
    "files restored": ("--target=/", {"code": 1, "err": "Fatal: ciphertext verification failed"}, "The files were not restored: ciphertext verification failed."),
    "dump restored": ("pg_restore", {"code": 1, "err": "pg_restore: error: no"}, "The dump does not go in: pg_restore: error: no"),
    "rows as counted": ("query_to_xml", {"out": '{"public.note": 2}'}, "1 tables differ: public.note has 2 rows instead of 3"),
    "canary": ("redoubt.canary WHERE word = 'word'", {"out": "0"}, "which the backup of the files has, is not in the restored database"),
    "every page read": ("pg_dump", {"code": 1, "err": "pg_dump: error: invalid page in block 7"}, "The restored database cannot be read whole: "),
    "migrations": ("FROM django_migrations", {"out": "[]"}, "1 migrations are not in the restored database: notes.0001"),
    "database's repository": (" verify ", {"out": "stanza: notes\nstatus: error\n  archiveId: 17-1, total WAL checked: 3\n    checksum invalid: 3, size invalid: 0"},
                              "The database's repository is damaged: archiveId: 17-1, total WAL checked: 3; checksum invalid: 3, size invalid: 0"),
    "files' repository": (" check --read-data-subset", {"code": 1, "err": "Fatal: repository contains errors"}, "The files' repository is damaged: "),
}


@pytest.mark.parametrize("step", BROKEN)
def test_one_step_that_fails_does_not_keep_the_others_from_being_looked_at(drilled, step) -> None:
    inside, what, sentence = BROKEN[step]
    drilled.fakes.rule(inside, **what)
    result = drilled.drill.Drill(drilled.settings).run()
    failed = [found for found in result["steps"] if not found["ok"]]
    assert [found["step"] for found in failed] == [step]
    assert sentence in failed[0]["told"]
    assert not result["ok"]
    needed = {"files restored": {"files as listed", "dump restored", "rows as counted", "canary", "every page read", "migrations"},
              "dump restored": {"rows as counted"}}.get(step, set())
    assert [found["step"] for found in result["steps"]] == [name for name in GOOD if name not in needed]
    assert json.loads((drilled.state / "drill.json").read_text()) == result
    clean(drilled)


def test_a_file_that_came_back_otherwise_is_found_unless_it_was_moving(drilled) -> None:
    (drilled.base / "snapshot" / str(drilled.media).lstrip("/") / "who").write_text("OLD\n")
    result = drilled.drill.Drill(drilled.settings).run()
    assert next(step for step in result["steps"] if not step["ok"])["told"] == f"1 of 2 files differ from the manifest: {drilled.media}/who has other content"
    drilled.common.write(drilled.settings.work / "files.json", {"snapshot": "bbbbbbbb", "moved": [str(drilled.media / "who")]})
    assert drilled.drill.Drill(drilled.settings).run()["ok"]
    # Of another snapshot's moving files nothing is known.
    drilled.common.write(drilled.settings.work / "files.json", {"snapshot": "aaaaaaaa", "moved": [str(drilled.media / "who")]})
    assert not drilled.drill.Drill(drilled.settings).run()["ok"]


def test_a_canary_without_a_row_is_said(machine) -> None:
    answers = {"query_to_xml": "{}", "redoubt.canary": "", "to_regclass": "f"}
    view = types.SimpleNamespace(ask=lambda statement: next(answer for words, answer in answers.items() if words in statement))
    with pytest.raises(machine.common.Refused, match=r"^redoubt\.canary has no row"):
        machine.files.counted(view)


def test_a_canary_that_is_old_is_found(drilled) -> None:
    drilled.fakes.rule("to_char(at AT TIME ZONE", out="2020-01-01T00:00:00.000000 word")
    result = drilled.drill.Drill(drilled.settings).run()
    assert [step["step"] for step in result["steps"] if not step["ok"]] == ["canary"]


def test_what_nobody_has_thought_of_is_a_failed_drill_that_is_written_down(drilled) -> None:
    (drilled.base / "snapshot" / str(drilled.settings.manifest).lstrip("/")).write_text("{")
    result = drilled.drill.Drill(drilled.settings).run()
    assert json.loads((drilled.state / "drill.json").read_text()) == result and not result["ok"]
    assert result["steps"][-1]["step"] == "files' repository" and result["steps"][-1]["ok"]
    assert "JSONDecodeError" in next(step for step in result["steps"] if step["step"] == "files as listed")["told"]
    clean(drilled)


@pytest.mark.parametrize("what", [KeyboardInterrupt, SystemExit])
def test_what_was_restored_goes_also_when_the_drill_is_stopped(drilled, monkeypatch, what) -> None:
    def stop(self: object) -> str:
        assert (drilled.root / "var/lib/redoubt-restored/drill").exists()
        raise what

    monkeypatch.setattr(drilled.drill.Drill, "compare_rows", stop)
    with pytest.raises(what):
        drilled.drill.Drill(drilled.settings).run()
    clean(drilled)
    unfinished(drilled)


def unfinished(machine: Machine) -> None:
    """A drill that was not heard of again has failed."""
    found = json.loads((machine.state / "drill.json").read_text())
    assert not found["ok"] and [step["told"] for step in found["steps"]] == ["It has not come to its end"]
    (said,) = [line for line in machine.program.problems(machine.settings) if "drill" in line]
    assert "failed (end): It has not come to its end." in said


def test_a_log_in_which_nothing_was_written_is_archived(drilled, monkeypatch) -> None:
    """PostgreSQL 17 names, of one that it has nothing to end of, the segment that it has not begun."""
    monkeypatch.setattr(drilled.drill, "ARCHIVED_WITHIN", 0)
    drilled.fakes.rule("pg_switch_wal", out="000000010000000000000008")
    drilled.fakes.rule("pg_logical_emit_message", out="000000010000000000000007")
    drilled.fakes.rule("last_archived_wal", out="f")
    drilled.fakes.rule(">= '000000010000000000000007' FROM pg_stat_archiver", out="t")
    (first, *_) = drilled.drill.Drill(drilled.settings).run()["steps"]
    assert (first["ok"], first["told"]) == (True, "000000010000000000000007")


def test_a_drill_that_runs_has_not_failed(drilled, monkeypatch) -> None:
    """It may take hours, in which nobody is to be woken, nor a deploy refused."""
    said = []
    monkeypatch.setattr(drilled.drill.Drill, "check_repository", lambda self: f"{said.extend(drilled.program.problems(drilled.settings))}")
    drilled.fakes.rule("systemctl is-active redoubt-drill.service", out="activating", code=3)
    assert drilled.drill.Drill(drilled.settings).run()["ok"]
    assert not [line for line in said if "drill" in line]
    # The same, without one that runs.
    drilled.fakes.rule("systemctl is-active redoubt-drill.service", out="failed", code=3)
    drilled.drill.Drill(drilled.settings).run()
    assert [line for line in said if "drill" in line]


def test_a_segment_that_waits_has_not_left_the_host(drilled, monkeypatch) -> None:
    monkeypatch.setattr(drilled.drill, "ARCHIVED_WITHIN", 0)
    drilled.settings.spool.mkdir()
    (drilled.settings.spool / "000000010000000000000007").touch()
    (first, *_) = drilled.drill.Drill(drilled.settings).run()["steps"]
    assert (first["ok"], first["told"]) == (False, "Segment 000000010000000000000007 has not been archived within 0 s")
    (drilled.settings.spool / "000000010000000000000007").unlink()
    assert drilled.drill.Drill(drilled.settings).run()["ok"]


def test_what_a_killed_drill_has_left_goes_by_clean_and_at_the_next(drilled) -> None:
    drilled.fakes.rule("query_to_xml", kill="before")
    killed(lambda: drilled.drill.Drill(drilled.settings).run())
    assert (drilled.root / "var/lib/redoubt-restored/drill").exists() and "redoubt-restored-drill.service" in drilled.fakes.running()
    unfinished(drilled)
    subprocess.run([sys.executable, "-B", str(FILES / "backup"), "clean"], check=True)
    clean(drilled)
    killed(lambda: drilled.drill.Drill(drilled.settings).run())
    drilled.fakes.rule("query_to_xml", out='{"public.note": 3}')
    assert drilled.drill.Drill(drilled.settings).run()["ok"]


# --- How it stands ---------------------------------------------------------------------------------------------------


def ago(hours: float) -> str:
    return f"{datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def standing(machine) -> Machine:
    """A host against which nothing is known."""
    machine.common.write(machine.settings.work / "files.json", {"ended": ago(1)})
    machine.common.write(machine.state / "drill.json", {"ended": ago(48), "ok": True, "steps": []})
    machine.fakes.rule("pg_ls_archive_statusdir", out="0")
    machine.fakes.rule("pg_stat_archiver", out="")
    machine.fakes.rule("pg_control_system", out="7")
    return machine


def test_where_all_is_well_nothing_is_said(standing) -> None:
    assert standing.program.problems(standing.settings) == []
    done = subprocess.run([sys.executable, "-B", str(FILES / "backup"), "watch"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def spooled(machine: Machine, age: float) -> None:
    """One segment waits, and one is being laid down."""
    machine.settings.spool.mkdir()
    for name, old in (("000000010000000000000007", age), (".000000010000000000000001", 9999)):
        (machine.settings.spool / name).touch()
        os.utime(machine.settings.spool / name, (time.time() - old,) * 2)


PROBLEMS = {
    "no files": (lambda m: (m.settings.work / "files.json").unlink(), "No backup of the files has been made yet."),
    "old files": (lambda m: m.common.write(m.settings.work / "files.json", {"ended": ago(27)}), "The last backup of the files is of 20"),
    "log": (lambda m: m.fakes.rule("pg_ls_archive_statusdir", out="420"), "The write-ahead log has not reached store1 for 7 minutes (0 segments wait; "),
    "log that waits": (lambda m: spooled(m, 480), "The write-ahead log has not reached store1 for 8 minutes (1 segments wait; "),
    "no database": (lambda m: m.backups(), "No backup of the database has been made yet."),
    "old database": (lambda m: m.backups(("full", 27 * 3600 + 60)), "The last backup of the database is 27 hours old."),
    "another cluster": (lambda m: m.backups(("full", 60), system=8), "The backups on store1 are of another cluster than the one that runs here"),
    "unreachable": (lambda m: m.fakes.rule("info --output=json", code=99, err="ERROR: [049]: unable to connect"),
                    "The backups of the database on store1 cannot be read: [049]: unable to connect."),
    "no PostgreSQL": (lambda m: m.fakes.rule("pg_ls_archive_statusdir", code=2, err="psql: error: FATAL:  the database system is shutting down"),
                      "PostgreSQL does not answer: the database system is shutting down."),
    "cut off": (lambda m: m.common.write(m.state / "restore.json", {"phase": "replaying"}), "A restore was cut off: run restore.yml again"),
    "cut off while it was swapped": (lambda m: m.common.write(m.state / "restore.json", {"phase": "swapping"}), "A restore was cut off: run restore.yml"),
    "held": (lambda m: m.common.write(m.state / "standing-still.json", {"units": [], "at": ago(1)}), "The application stands still since 20"),
    "failed drill": (lambda m: m.common.write(m.state / "drill.json", {"ended": ago(1), "ok": False, "steps": [
        {"step": "a", "ok": True, "told": ""}, {"step": "canary", "ok": False, "told": "It is gone."}]}), "failed (canary): It is gone."),
    "old drill": (lambda m: m.common.write(m.state / "drill.json", {"ended": ago(16 * 24), "ok": True, "steps": []}),
                  "No backup has been restored in a drill since 20"),
    "never a drill": (lambda m: ((m.state / "drill.json").unlink(), m.common.write(m.state / "backup-since.json", {"at": ago(16 * 24)})),
                      "No backup has been restored in a drill since 20"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_each_thing_that_is_wrong_is_one_sentence(standing, case) -> None:
    break_it, sentence = PROBLEMS[case]
    break_it(standing)
    (found,) = standing.program.problems(standing.settings)
    assert sentence in found and found.endswith(".")
    done = subprocess.run([sys.executable, "-B", str(FILES / "backup"), "watch"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and sentence in done.stderr
    status = subprocess.run([sys.executable, "-B", str(FILES / "backup"), "status"], capture_output=True, text=True, check=False)
    assert status.returncode == 0 and sentence in json.loads(status.stdout)["problems"][0]


def test_what_a_rollback_holds_back_is_no_problem_and_stays_through_a_restore(machine, standing) -> None:
    """The releases are another program's, in the same folder (roles/app)."""
    rolled_back = {"releases": ["bad"], "since": "2030-05-17T10:00:00Z", "who": "ada@desk"}
    (standing.state / "held.json").write_text(json.dumps(rolled_back))
    assert standing.program.problems(standing.settings) == []
    with standing.application.held(standing.settings):
        assert json.loads((standing.state / "held.json").read_text()) == rolled_back
    assert json.loads((standing.state / "held.json").read_text()) == rolled_back


def test_what_waits_or_stands_still_for_a_moment_is_no_problem(standing) -> None:
    spooled(standing, 60)
    standing.common.write(standing.state / "standing-still.json", {"units": [], "at": ago(0)})
    for phase in ("restored", "put back"):
        standing.common.write(standing.state / "restore.json", {"phase": phase})
        assert standing.program.problems(standing.settings) == []


@pytest.mark.parametrize("what", [{"at": ago(24)}, {}])
def test_a_new_host_has_until_its_first_drill_is_due(standing, what) -> None:
    (standing.state / "drill.json").unlink()
    if what:
        standing.common.write(standing.state / "backup-since.json", what)
    assert standing.program.problems(standing.settings) == []


def test_a_web_host_is_not_asked_about_a_database(standing) -> None:
    standing.configure(database=False)
    standing.fakes.rule("psql", code=2)
    assert standing.program.problems(standing.settings) == []


def test_a_result_is_whole_or_not_there(machine, tmp_path) -> None:
    path = tmp_path / "a/result.json"
    machine.common.write(path, {"one": 1})
    with pytest.raises(TypeError):
        machine.common.write(path, {"two": object()})
    assert machine.common.read(path) == {"one": 1}
    machine.common.write(path, {"three": 3}, 0o600)
    assert machine.common.read(path) == {"three": 3} and path.stat().st_mode & 0o777 == 0o600
    path.write_text("{")
    assert machine.common.read(path) == {} == machine.common.read(tmp_path / "none")


# --- It shouts -------------------------------------------------------------------------------------------------------


class Hook:
    """Somebody's webhook."""

    def __init__(self) -> None:
        hook = self
        self.status, self.bodies, self.raw = 200, [], b""

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.bodies.append((self.path, self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
                if hook.raw:
                    self.wfile.write(hook.raw)
                    return
                self.send_response(hook.status)
                self.end_headers()

            def do_GET(self) -> None:
                hook.bodies.append((self.path, "", b""))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hooks/s3cret-part"


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def alert(machine, tmp_path, monkeypatch, capfd) -> Callable[..., types.SimpleNamespace]:
    program = backup_host.load("redoubt_alert", ALERT)
    address = tmp_path / "alert.url"
    monkeypatch.setattr(program, "ADDRESS", address)
    machine.fakes.rule("systemd-cat", sh=f"cat >> {tmp_path}/log")
    machine.fakes.rule("journalctl", out="The database of db1 was not backed up.")

    def run(*words: str, to: str = "") -> types.SimpleNamespace:
        if to:
            address.write_text(f"{to}\n")
        monkeypatch.setattr(sys, "argv", ["alert", *words])
        code = program.main()
        said = capfd.readouterr()
        log = (tmp_path / "log").read_text()
        for text in (log, said.out, said.err, *machine.fakes.calls()):
            assert "s3cret" not in text, "the address is shown"
        return types.SimpleNamespace(code=code, log=log, err=said.err)

    return run


def test_an_alert_is_in_the_log_and_at_the_webhook(machine, alert, hook) -> None:
    done = alert("the disk", "is full", to=hook.address)
    assert (done.code, done.log, done.err) == (0, "the disk is full\n", "")
    assert machine.fakes.calls("systemd-cat") == ["systemd-cat --identifier=redoubt-alert --priority=crit"]
    ((path, kind, body),) = hook.bodies
    name = os.uname().nodename
    assert (path, kind, json.loads(body)) == ("/hooks/s3cret-part", "application/json", {"host": name, "text": f"{name}: the disk is full"})


def test_a_unit_s_alert_has_the_last_line_it_said(machine, alert) -> None:
    unit = "redoubt-backup-database@db1.service"
    done = alert("--unit", unit)
    assert (done.code, done.log) == (0, f"{unit} failed: The database of db1 was not backed up. (journalctl -u {unit})\n")
    assert machine.fakes.calls("journalctl")[0].endswith(f"_SYSTEMD_UNIT={unit}")
    machine.fakes.rule("journalctl", out="")
    assert alert("--unit", unit).log.splitlines()[-1] == f"{unit} failed. (journalctl -u {unit})"


@pytest.mark.parametrize("how", ["closed", "refuses", "garbage", "no address", "a space", "a file"])
def test_a_webhook_that_does_not_take_it_is_said_and_the_log_has_it_all_the_same(alert, hook, how) -> None:
    to = hook.address
    if how == "closed":
        to = to.replace(str(hook.server.server_port), "1")
    hook.status = 500 if how == "refuses" else 200
    hook.raw = b"s3cret garbage\r\n\r\n" if how == "garbage" else b""
    to = {"no address": "s3cret", "a space": to.replace("/hooks", "/hoo ks"), "a file": "nothing:/s3cret"}.get(how, to)
    done = alert("the disk is full", to=to)
    assert done.code == 1 and done.log == "the disk is full\n"
    assert done.err.startswith("The alert was not taken at base_alert_url (") and done.err.count("\n") == 1


def test_who_waits_for_backups_hears_of_each_and_what_does_not_answer_is_no_failure(machine, hook, capfd) -> None:
    machine.program.ping()
    assert not hook.bodies
    (machine.config / "ping.url").write_text(hook.address + "\n")
    machine.program.ping()
    assert [path for path, _, _ in hook.bodies] == ["/hooks/s3cret-part"]
    for address in ("http://127.0.0.1:1/s3cret", "http://127.0.0.1/s3 cret", "s3cret"):
        (machine.config / "ping.url").write_text(address)
        machine.program.ping()
        said = capfd.readouterr().err
        assert said.startswith("backup_ping_url did not answer (") and "cret" not in said
