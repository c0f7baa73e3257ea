"""The program on the host that keeps the backups: what it keeps is out of reach of whoever owns a backed up host, and comes back whole.

The attacker of these tests is the user of a repository, which is more than a host's owner is: that one has only the protocol.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
backup_host = importlib.import_module("backup_host")
dies = backup_host.dies

PROGRAM = backup_host.ROLES / "backup_server/files/usr/local/lib/redoubt/backup-server"
module = backup_host.load("redoubt_backup_server", PROGRAM)

DAY, HOUR = 86400, 3600
# A repository's user, who owns nothing else.
THEM = 64321
SNAPSHOT = "ab" * 32

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files change their owner, which only root may do")


class Store:
    """A host with the repositories of a database's host and of a web host."""

    def __init__(self, base: Path) -> None:
        self.base, self.root, self.config = base, base / "store", base / "config"
        self.fakes = backup_host.Fakes(base)
        self.fakes.add("pgbackrest", "restic", "systemctl", "setpriv")
        self.config.mkdir()
        self.configure()
        for path in (self.root / "kept", self.root / "database/db1", self.root / "files"):
            path.mkdir(parents=True)
        (self.root / "kept").chmod(0o700)
        self.seen(30)

    def configure(self, **changes: object) -> None:
        wanted = {"root": str(self.root), "full_days": 7, "days": 30, "kept_days": 14, "max_age_hours": 26, "full_percent": 101,
                  "databases": {"db1": "notes"}, "files": ["db1", "web1"], **changes}
        (self.config / "config.json").write_text(json.dumps(wanted))

    @property
    def settings(self) -> object:
        return module.Settings()

    @property
    def database(self) -> Path:
        return self.root / "database/db1"

    @property
    def files(self) -> Path:
        return self.root / "files/web1"

    def put(self, name: str, text: str = "x") -> Path:
        """A file in a repository, as its server would have written it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o640)
        if os.geteuid() == 0:
            for each in (path, *path.parents):
                if each in (self.root / "database", self.root):
                    break
                os.chown(each, THEM, THEM)
        return path

    def kept(self) -> list[Path]:
        return [path for _, path in module.kept(self.root)]

    def snapshot(self, host: str, name: str, days: float) -> None:
        """One that came so many days ago."""
        path = self.put(f"files/{host}/snapshots/{name}", name)
        os.utime(path, (time.time() - days * DAY,) * 2)

    def seen(self, hours: float, kept: float = 0) -> None:
        """As if all had been looked for that long."""
        since = {**dict.fromkeys(("database of db1", "files of db1", "files of web1"), hours), "kept": kept}
        (self.base / "seen.json").write_text(json.dumps({name: time.time() - hours * HOUR for name, hours in since.items()}))

    def info(self, *backups: tuple[str, float], **more: object) -> None:
        """What pgBackRest says there is: kind and age in seconds."""
        found = [{"type": kind, "label": f"label{number}", "timestamp": {"stop": int(time.time() - age)},
                  "info": {"size": 100, "repository": {"delta": 10}}} for number, (kind, age) in enumerate(backups)]
        self.fakes.rule("info --output=json", out=json.dumps([{"name": "notes", "backup": found}]), **more)

    def run(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-B", str(PROGRAM), *words], capture_output=True, text=True, check=False,
                              env={**os.environ, "BACKUP_SERVER_CONFIG": str(self.config), "STATE_DIRECTORY": str(self.base)})


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that other users can reach, which pytest's own is not."""
    path = Path(tempfile.mkdtemp(prefix="redoubt-unit-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store(base: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(base)
    made.fakes.on_path(monkeypatch)
    monkeypatch.setattr(module, "CONFIG", made.config)
    monkeypatch.setenv("STATE_DIRECTORY", str(base))
    owner = pwd.struct_passwd(("them", "x", THEM, THEM, "", "/", "/bin/false"))
    monkeypatch.setattr(module.pwd, "getpwnam", lambda name: owner)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets the program's time pass."""
    ahead = 0.0
    real = time.time

    def sleep(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    monkeypatch.setattr(module, "time", types.SimpleNamespace(time=lambda: real() + ahead))
    return sleep


def attack(folder: Path, commands: str) -> None:
    """As the repository's user."""
    subprocess.run(["/usr/bin/setpriv", f"--reuid={THEM}", f"--regid={THEM}", "--clear-groups", "--", "sh", "-euc", commands], cwd=folder, check=True)


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- What is kept ----------------------------------------------------------------------------------------------------


@needs_root
def test_what_is_kept_is_the_same_file_and_root_s(store) -> None:
    one, two = store.put("database/db1/archive/notes/17-1/0001/seg.zst", "wal"), store.put("files/web1/data/ab/abcd", "pack")
    assert module.keep(store.settings) == "kept 2 files, forgot 0"
    (point,) = store.kept()
    assert tree(point) == {"database/db1/archive/notes/17-1/0001/seg.zst": "wal", "files/web1/data/ab/abcd": "pack"}
    for path in (one, two):
        assert os.path.samefile(path, point / path.relative_to(store.root))
        status = path.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, THEM, 0o440)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (point / "database/db1", point / "files/web1/data")} == {0o700}
    # The folders stay theirs: they add to them, and remove from them.
    assert (store.database / "archive").stat().st_uid == THEM


@needs_root
def test_only_plain_files_are_kept_and_nothing_else_changes(store) -> None:
    secret = store.base / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    folder = store.base / "elsewhere"
    folder.mkdir()
    (folder / "inside").write_text("root's")
    store.put("database/db1/good", "good")
    theirs = store.base / "theirs"
    theirs.write_text("of another")
    os.chown(theirs, THEM + 1, THEM + 1)
    theirs.chmod(0o600)
    os.link(theirs, store.database / "alien")
    os.link(secret, store.database / "roots")
    attack(store.database, f"ln -s {secret} link; ln -s {folder} folder; mkfifo fifo; ln -s good self; echo x > twice; ln twice again")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(store.database / "socket"))
    os.mknod(store.database / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    before = {path: path.lstat() for path in (secret, folder, folder / "inside", theirs, *store.database.iterdir()) if path.name != "good"}
    assert module.keep(store.settings) == "kept 1 files, forgot 0"
    (point,) = store.kept()
    assert [path.name for path in (point / "database/db1").iterdir()] == ["good"]
    for path, was in before.items():
        status = path.lstat()
        assert (status.st_uid, status.st_gid, status.st_mode, status.st_nlink) == (was.st_uid, was.st_gid, was.st_mode, was.st_nlink), path


@needs_root
def test_what_takes_a_files_place_while_it_is_kept_is_not_linked(store, monkeypatch) -> None:
    store.put("database/db1/good", "good")
    secret = store.base / "secret"
    secret.write_text("root's")
    real = os.fchmod

    def swap(*words: object) -> None:
        real(*words)
        attack(store.database, f"rm -f good; ln -s {secret} good")

    monkeypatch.setattr(os, "fchmod", swap)
    module.keep(store.settings)
    assert not store.kept(), "the file was removed before it was linked"
    assert secret.stat().st_nlink == 1


@needs_root
def test_a_folder_that_is_a_link_by_now_leads_nowhere(store, monkeypatch) -> None:
    folder = store.base / "elsewhere"
    folder.mkdir()
    (folder / "inside").write_text("root's")
    store.put("database/db1/folder/good", "good")
    store.put("database/db1/other", "other")
    real = os.open

    def swap(path: object, flags: int, *words: object, **more: object) -> int:
        if path == "folder" and "dir_fd" in more and not (store.database / "folder").is_symlink():
            attack(store.database, f"rm -r folder; ln -s {folder} folder")
        return real(path, flags, *words, **more)

    monkeypatch.setattr(os, "open", swap)
    assert module.keep(store.settings) == "kept 1 files, forgot 0"
    monkeypatch.undo()
    assert (folder / "inside").stat().st_nlink == 1
    assert not (store.kept()[0] / "database/db1/folder").exists()


@needs_root
@pytest.mark.parametrize("gone", ["file", "folder"])
def test_upkeep_meanwhile_is_no_error(store, monkeypatch, gone) -> None:
    store.put("database/db1/folder/file")
    store.put("database/db1/other")
    real = os.open

    def remove(path: object, flags: int, *words: object, **more: object) -> int:
        if path == gone and "dir_fd" in more:
            shutil.rmtree(store.database / "folder", ignore_errors=True)
        return real(path, flags, *words, **more)

    monkeypatch.setattr(os, "open", remove)
    assert module.keep(store.settings) == "kept 1 files, forgot 0"


@needs_root
def test_a_repository_that_is_a_link_is_said_and_the_others_are_kept(store) -> None:
    elsewhere = store.base / "elsewhere"
    elsewhere.mkdir()
    store.put("files/web1/config").write_text("x")
    (store.root / "files/db1").symlink_to(elsewhere)
    with pytest.raises(module.Refused, match=r"^Not everything was kept of files/db1 \(Not a directory\)\. Until it is, nothing that was kept before is forgotten\.$"):
        module.keep(store.settings)
    assert tree(store.kept()[0]) == {"files/web1/config": "x"}


@needs_root
def test_a_disk_that_cannot_be_read_is_said_and_forgets_nothing(store, clock, monkeypatch) -> None:
    store.configure(kept_days=1)
    store.put("files/web1/config")
    store.put("database/db1/file")
    for _ in range(2):
        module.keep(store.settings)
        clock(4 * DAY)
    before, bad = store.kept(), True
    real = os.open

    def broken(path: object, flags: int, *words: object, **more: object) -> int:
        if path == "file" and bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, flags, *words, **more)

    monkeypatch.setattr(os, "open", broken)
    for _ in range(3):
        with pytest.raises(module.Refused, match=r"^Not everything was kept of database/db1 \(Input/output error\)\."):
            module.keep(store.settings)
        clock(4 * DAY)
    assert store.kept()[:2] == before and len(store.kept()) == 5
    bad = False
    module.keep(store.settings)
    assert not before[0].exists()


@needs_root
def test_folders_without_end_neither_stop_the_others_nor_use_up_what_can_be_open(store) -> None:
    store.put("files/web1/config")
    store.put("database/db1/file")
    attack(store.database, "umask 022; for n in $(seq 400); do mkdir a; echo x > a/file; cd a; done")
    done = store.run("keep")
    assert done.returncode == 0, done.stderr
    point = store.kept()[0]
    assert (point / "files/web1/config").exists()
    assert len(list((point / "database/db1").rglob("file"))) == module.DEEPEST + 1
    # Deeper than what removes it reads.
    subprocess.run(["rm", "-rf", str(store.database)], check=True)


@needs_root
def test_unfinished_and_passing_things_are_left_out(store) -> None:
    for name in ("database/db1/backup/notes/a.pgbackrest.tmp", "files/web1/locks/abc", "files/web1/tmp/x", "files/web1/data/pack"):
        store.put(name)
    module.keep(store.settings)
    assert list(tree(store.kept()[0])) == ["files/web1/data/pack"]


@needs_root
def test_nothing_to_keep_makes_no_point(store) -> None:
    assert module.keep(store.settings) == "kept 0 files, forgot 0"
    assert not list((store.root / "kept").iterdir())


@needs_root
def test_a_keep_that_is_killed_is_made_up_for_by_the_next(store) -> None:
    calls, reached = ("mkdir", "link", "fchown", "fchmod", "rename"), 0
    for at in range(1, 100):
        shutil.rmtree(store.root)
        (store.root / "kept").mkdir(parents=True)
        for number in range(3):
            store.put(f"database/db1/backup/{number}", "x")
        killed = dies(lambda: module.keep(store.settings), at, calls)
        if not killed:
            break
        reached = at
        # What its server reads it can read at every moment.
        attack(store.database, "cat backup/*")
        assert not store.kept(), f"a point that is not whole, after a death at step {at}"
        module.keep(store.settings)
        assert len(tree(store.kept()[0])) == 3
        assert {path.stat().st_mode & 0o777 for path in (store.database / "backup").iterdir()} == {0o440}
        assert not [path for path in (store.root / "kept").iterdir() if path.name.startswith(".")]
    assert reached > 10


@needs_root
@pytest.mark.parametrize("commands", [
    "rm -rf backup", "echo evil > new; mv -f new backup/file", "rm -f backup/file; echo evil > backup/file", "mv backup elsewhere",
    "(: > backup/file) || true; (echo evil >> backup/file) || true; (chmod 600 backup/file && echo evil > backup/file) || true; truncate -s 0 backup/file || true",
])
def test_what_its_owner_does_to_a_repository_does_nothing_to_what_is_kept(store, clock, commands) -> None:
    store.put("database/db1/backup/file", "good")
    module.keep(store.settings)
    attack(store.database, commands)
    (point,) = store.kept()
    assert (point / "database/db1/backup/file").read_text() == "good"
    # Nor does the next one, which keeps what was made of it, beside it.
    clock(HOUR)
    module.keep(store.settings)
    assert (point / "database/db1/backup/file").read_text() == "good"


@needs_root
def test_its_owner_gets_at_nothing_that_is_kept(store) -> None:
    store.put("database/db1/backup/file", "good")
    module.keep(store.settings)
    (point,) = store.kept()
    for command in ("ls", "cat", "rm -rf"):
        with pytest.raises(subprocess.CalledProcessError):
            attack(store.database, f"{command} {point}/database/db1/backup/file 2>/dev/null; {command} {point} 2>/dev/null")
    assert (point / "database/db1/backup/file").read_text() == "good"


@needs_root
def test_one_that_waits_finds_what_the_other_has_finished(store) -> None:
    store.put("database/db1/file")
    with module.alone(store.settings):
        half = store.root / "kept/.half"
        half.mkdir()
        second = subprocess.Popen([sys.executable, "-B", str(PROGRAM), "keep"], env={**os.environ, "BACKUP_SERVER_CONFIG": str(store.config)},
                                  stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1)
        assert half.exists()
    assert second.wait(30) == 0
    assert not half.exists()


# --- How long it is kept ---------------------------------------------------------------------------------------------


def test_all_of_the_last_day_and_the_last_of_each_day_before() -> None:
    now = 100 * DAY + 12 * HOUR
    times = [now - hours * HOUR for hours in range(20 * 24)]
    gone = set(module.outdated(times, now, 14))
    stay = sorted(when for when in times if when not in gone)
    recent = [when for when in times if now - when <= DAY]
    lasts = [day * DAY + 23 * HOUR for day in range(86, 99)]
    assert stay == sorted({*recent, *lasts, 99 * DAY + 23 * HOUR})
    # Nothing is older than that.
    assert min(stay) // DAY == 100 - 14


@pytest.mark.parametrize("jump", [-400 * DAY, -DAY, DAY, 31 * DAY, 400 * DAY])
def test_a_clock_that_is_wrong_for_a_while_costs_a_day(jump) -> None:
    """And when it is right again, what follows is kept as before."""
    times = [(100 + day) * DAY + 12 * HOUR for day in range(15)]
    wrong = times[-1] + HOUR + jump
    stay = sorted(set(times) | {wrong})
    lost = module.outdated(stay, wrong, 14)
    assert len(set(lost) & set(times)) <= 1
    assert not module.too_old({str(when): when for when in stay}, 30)
    assert len(module.too_old({str(when): when for when in stay}, 14)) <= 1
    stay = sorted({*stay, times[-1] + 2 * HOUR} - set(lost))
    lost = module.outdated(stay, times[-1] + 2 * HOUR, 14)
    assert len(set(lost) & set(times)) <= 1
    assert times[-1] + 2 * HOUR not in lost


@given(st.lists(st.floats(0, 3 * DAY), min_size=1, max_size=60), st.integers(2, 20))
def test_the_last_of_a_day_is_never_forgotten_within_its_days(gaps, days) -> None:
    """Over any series of keeps, each of which forgets."""
    now, stay, every = 1000 * DAY, [], []
    for gap in gaps:
        now += gap + 1
        stay.append(now)
        every.append(now)
        stay = sorted(set(stay) - set(module.outdated(stay, now, days)))
        lasts = {int(when // DAY): when for when in sorted(every)}
        counted = sorted(lasts)[-days - 1:]
        for when in every:
            wanted = int(when // DAY) in counted and (now - when <= DAY or lasts[int(when // DAY)] == when)
            assert (when in stay) == wanted


@needs_root
def test_what_is_outdated_goes_when_something_is_kept(store, clock) -> None:
    store.configure(kept_days=3)
    store.put("files/web1/config")
    module.keep(store.settings)
    old = store.root / f"kept/replaced-files-web1-{store.kept()[-1].name}"
    old.mkdir()
    (store.root / "kept/replaced-files-web1").mkdir()
    for _ in range(3):
        clock(4 * DAY)
        module.keep(store.settings)
    assert len(store.kept()) == 4 and old.exists()
    recent = store.root / f"kept/replaced-files-web1-{store.kept()[-1].name}"
    recent.symlink_to("/")
    for _ in range(2):
        clock(DAY)
        module.keep(store.settings)
        assert len(store.kept()) == 4
    assert not old.exists() and recent.is_symlink()
    for _ in range(2):
        clock(DAY)
        module.keep(store.settings)
    assert not recent.is_symlink() and Path("/etc").exists()
    assert (store.root / "kept/replaced-files-web1").exists(), "put aside by hand, without a time: nobody but who did it knows when it may go"


@given(st.dictionaries(st.text("0123456789abcdef", min_size=4, max_size=4), st.floats(0, 400 * DAY), max_size=30), st.integers(1, 60), st.integers(0, 500))
def test_only_age_removes_a_snapshot(came, days, flood) -> None:
    gone = set(module.too_old(came, days))
    counted = sorted({when // DAY for when in came.values()})[-days - 1:]
    assert gone == {name for name, when in came.items() if when // DAY not in counted}
    # However many come, and from whom: none goes that would not have gone at this hour.
    newest = max(came.values(), default=0)
    many = {f"flood{number}": newest for number in range(flood)}
    assert set(module.too_old({**came, **many}, days)) == gone


def test_where_nothing_comes_nothing_goes() -> None:
    assert module.too_old({"a": 0, "b": DAY}, 30) == []
    assert module.too_old({}, 30) == []


def test_pruning_goes_by_the_day_on_which_a_snapshot_came(store) -> None:
    """What a snapshot says of its date is inside it, encrypted; the program never asks."""
    store.configure(days=1)
    store.put("files/web1/config")
    old, new, unfinished = "aa" * 32, "bb" * 32, "cc" * 32 + ".rest-server-temp123"
    for name, days in ((old, 31), ("dd" * 32, 2), (new, 0), (unfinished, 40)):
        store.snapshot("web1", name, days)
    done = store.run("prune")
    assert (done.returncode, done.stdout) == (0, "web1: 1 removed\n"), done.stderr
    assert not store.fakes.calls("snapshots")
    restic = f"restic --repo={store.root}/files/web1 --password-file={store.config}/files.pass"
    assert store.fakes.calls() == [f"{restic} unlock", f"{restic} list blobs --no-lock", f"{restic} forget {old}", f"{restic} prune --verbose"]


def aged(store: Store, *hosts: str) -> None:
    """Repositories with something to remove."""
    store.configure(days=1)
    for host in hosts:
        store.put(f"files/{host}/config")
        for name, days in (("aa", 40), ("bb", 2), ("cc", 0)):
            store.snapshot(host, name * 32, days)


TWICE = "data 01\ntree 02\ndata 01"


def test_what_is_claimed_twice_is_read_before_one_of_the_two_goes(store) -> None:
    aged(store, "web1")
    store.fakes.rule("list blobs", out=TWICE)
    done = store.run("prune")
    assert (done.returncode, done.stdout) == (0, "web1: 1 removed\n"), done.stderr
    assert [line.split("files.pass ")[1] for line in store.fakes.calls("restic")] == [
        "unlock", "list blobs --no-lock", "check --read-data --no-lock", f"forget {'aa' * 32}", "prune --verbose --max-unused=0"]


def test_rubbish_that_is_claimed_to_be_what_is_there_keeps_all_that_is_there(store) -> None:
    aged(store, "db1", "web1")
    store.fakes.rule(f"{store.root}/files/db1 --password-file={store.config}/files.pass list blobs", out=TWICE)
    # As restic 0.18 says it: of each pack, all that is wrong, in one line.
    store.fakes.rule("check --read-data", code=1, err=f"pack {SNAPSHOT} contains 1001 errors: [{'blob ' * 1000}]\nFatal: repository contains errors")
    done = store.run("prune")
    assert done.returncode == 1 and done.stderr.startswith(
        "Nothing was removed of db1's files, where something is there twice and does not read as what it is said to be: rubbish that somebody added to have "
        f"the good copy removed, or a bad disk. docs/after-a-break-in.md says how they come back: pack {SNAPSHOT} contains 1001 errors: [blob "), done.stderr
    assert len(done.stderr) < 600, "an alert is a sentence"
    assert [line.split()[1] for line in (*store.fakes.calls(" forget "), *store.fakes.calls(" prune"))] == [f"--repo={store.root}/files/web1"] * 2


# What restic 0.14 and 0.18 print where something is there twice.
PRUNED = "used:                 13 blobs / 9.002 MiB\nduplicates:            9 blobs / 9.001 MiB\nunused:                2 blobs / 614 B"


@pytest.mark.parametrize(("listed", "pruned", "bad"), [
    ("data 01", PRUNED, True),
    # That was read before.
    (TWICE, PRUNED, False),
    ("data 01", PRUNED.replace("duplicates", "total"), False),
])
def test_who_adds_it_after_we_have_looked_is_said(store, listed, pruned, bad) -> None:
    """He sees our locks come and go."""
    aged(store, "web1")
    store.fakes.rule("list blobs", out=listed)
    store.fakes.rule(" prune", out=pruned)
    done = store.run("prune")
    assert (done.returncode, done.stderr) == ((1, (
        "While old files of web1 were being removed somebody added an index of what was there already: the good copies may be gone from its repository. "
        "They are kept; docs/after-a-break-in.md says how they come back.\n")) if bad else (0, ""))


def test_an_index_that_cannot_be_read_keeps_all_that_is_there(store) -> None:
    aged(store, "web1")
    store.fakes.rule("list blobs", code=1, err="Fatal: unable to load index")
    done = store.run("prune")
    assert (done.returncode, done.stderr) == (1, "The index of web1's files cannot be read: Fatal: unable to load index.\n")
    assert not [*store.fakes.calls(" forget "), *store.fakes.calls(" prune")]


def test_what_has_nothing_to_remove_is_not_read(store) -> None:
    store.put("files/web1/config")
    store.snapshot("web1", SNAPSHOT, 400)
    assert store.run("prune").stdout == "web1: 0 removed\n"
    assert [line.split()[-1] for line in store.fakes.calls("restic")] == ["unlock"]


def test_more_snapshots_than_a_command_line_holds_are_removed(store) -> None:
    """As many as an intruder likes; 64 letters each."""
    store.configure(days=1)
    store.put("files/web1/config")
    (store.files / "snapshots").mkdir()
    long_ago = time.time() - 40 * DAY
    for number in range(40_000):
        path = store.files / f"snapshots/{number:064x}"
        path.touch()
        os.utime(path, (long_ago,) * 2)
    store.snapshot("web1", SNAPSHOT, 2)
    store.snapshot("web1", "cd" * 32, 0)
    done = store.run("prune")
    assert (done.returncode, done.stdout) == (0, "web1: 40000 removed\n"), done.stderr
    forgot = [name for line in store.fakes.calls(" forget ") for name in line.split(" forget ")[1].split()]
    assert forgot == [f"{number:064x}" for number in range(40_000)]
    assert len(store.fakes.calls(" prune")) == 1


LOCKED = "unable to create lock in backend: repository is already locked by PID 7 on web1 by root (UID 0, GID 0)\nlock was created at …\nthe `unlock` command can …"


def test_who_is_sending_is_waited_for(store, monkeypatch) -> None:
    aged(store, "web1")
    store.fakes.rule(" prune", code=11, err=LOCKED)
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            store.fakes.rule(" prune")

    monkeypatch.setattr(module.time, "sleep", sleep)
    assert module.prune(store.settings) == ["web1: 1 removed"]
    assert slept == [module.WAIT] * 3 and len(store.fakes.calls(" prune")) == 4


def test_who_never_ends_sending_is_said(store, monkeypatch) -> None:
    aged(store, "db1", "web1")
    store.fakes.rule(f"{store.root}/files/db1 --password-file={store.config}/files.pass forget", code=11, err=LOCKED)
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    with pytest.raises(module.Refused, match=r"^Old files of db1 were not removed: unable to create lock in backend: repository is already locked by PID 7 .*\.$"):
        module.prune(store.settings)
    assert len(slept) == module.WAITS
    assert len(store.fakes.calls("files/web1", " prune")) == 1


def test_what_the_system_refuses_is_one_hosts_and_a_sentence(store, monkeypatch) -> None:
    aged(store, "db1", "web1")
    real = subprocess.run

    def run(command: list[str], **more: object) -> subprocess.CompletedProcess:
        if "forget" in command and f"--repo={store.root}/files/db1" in command:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        return real(command, **more)

    monkeypatch.setattr(module.subprocess, "run", run)
    with pytest.raises(module.Refused, match=r"^Old files of db1 were not removed: Argument list too long\.$"):
        module.prune(store.settings)
    assert len(store.fakes.calls("files/web1", " prune")) == 1


@pytest.mark.parametrize("sh", [
    "printf 'ERROR: [025]: expected a section, not \\254\\377\\n' >&2; exit 25",
    "printf '[{\"repo\": [{\"status\": {\"code\": 99, \"message\": \"[025]: expected a section, not \\254\\001\"}}]}]'"])
def test_what_is_no_text_in_a_programs_words_is_said_all_the_same(store, sh) -> None:
    """A repository that is opened with another passphrase is bytes, and pgBackRest quotes them."""
    store.fakes.rule("info --output=json", sh=sh)
    done = store.run("watch")
    assert done.returncode == 1
    assert "The repository of db1 cannot be read: [025]: expected a section, not" in done.stderr, done.stderr


def test_one_repository_that_cannot_be_pruned_keeps_no_other_from_it(store) -> None:
    aged(store, "db1", "web1")
    store.fakes.rule("files/db1 --password-file=" + str(store.config / "files.pass") + " forget", code=1, err="Fatal: unable to load snapshot")
    done = store.run("prune")
    assert (done.returncode, done.stderr) == (1, "Old files of db1 were not removed: Fatal: unable to load snapshot.\n")
    assert [line.split()[1] for line in store.fakes.calls(" forget ")] == [f"--repo={store.root}/files/{host}" for host in ("db1", "web1")]


# --- The way back ----------------------------------------------------------------------------------------------------


@pytest.fixture
def destroyed(store, clock) -> str:
    """Repositories that were kept, and then destroyed by who owns the host; when that was kept."""
    for name in ("database/db1/backup/notes/backup.info", "database/db1/archive/seg", "files/db1/config", "files/db1/data/ab/pack"):
        store.put(name, f"good {name}")
    module.keep(store.settings)
    attack(store.database, "rm -rf archive; echo evil > new; mv -f new backup/notes/backup.info")
    attack(store.root / "files/db1", "rm -rf data")
    store.put("database/db1/evil", "evil")
    clock(HOUR)
    return store.kept()[0].name


GOOD = {f"{name}": f"good {name}" for name in ("database/db1/archive/seg", "database/db1/backup/notes/backup.info", "files/db1/config", "files/db1/data/ab/pack")}


def as_kept(store: Store) -> None:
    live = {name: text for name, text in tree(store.root).items() if not name.startswith("kept/")}
    assert live == GOOD
    for folder in (store.root / "database/db1", store.root / "files/db1"):
        for path in (folder, *folder.rglob("*")):
            status = path.lstat()
            assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == ((THEM, THEM, 0o750) if path.is_dir() else (0, THEM, 0o440)), path
    assert (store.root / "files/db1/locks").is_dir()
    # Its server can go on: add, replace, remove.
    attack(store.database, "echo new > backup/notes/new; mv backup/notes/new backup/notes/backup.info; rm archive/seg")


@needs_root
def test_a_repository_becomes_what_was_kept_and_what_it_was_is_put_aside(store, destroyed) -> None:
    # As where the users have other numbers than the host had that is no more.
    os.chown(store.kept()[0] / "database/db1/archive/seg", 0, THEM + 1)
    assert module.bring_back(store.settings, destroyed, "db1") == f"db1: as kept at {destroyed}"
    as_kept(store)
    aside = sorted((store.root / "kept").glob("replaced-*"))
    assert [path.name.rsplit("-", 3)[0] for path in aside] == ["replaced-database-db1", "replaced-files-db1"]
    assert tree(aside[0])["evil"] == "evil"
    # What is kept is as it was, though its links are in use again.
    assert tree(store.kept()[0]) == GOOD
    assert store.fakes.calls("systemctl") == [
        "systemctl stop redoubt-backup-repository@db1.service redoubt-backup-files.service redoubt-backup-database@db1.service redoubt-backup-prune.service",
        "systemctl start redoubt-backup-repository@db1.service redoubt-backup-files.service",
    ]


@needs_root
def test_a_repository_that_is_gone_comes_back(store, destroyed) -> None:
    shutil.rmtree(store.database)
    module.bring_back(store.settings, destroyed, "db1")
    as_kept(store)


@needs_root
def test_a_link_in_the_place_of_a_repository_leads_nowhere(store, destroyed) -> None:
    elsewhere = store.base / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(store.root / "files/db1")
    (store.root / "files/db1").symlink_to(elsewhere)
    module.bring_back(store.settings, destroyed, "db1")
    as_kept(store)
    assert elsewhere.is_dir() and not list(elsewhere.iterdir()) and elsewhere.stat().st_uid == 0


@needs_root
def test_killed_at_any_step_the_second_call_does_it_all(store, destroyed, clock) -> None:
    shutil.copytree(store.root, store.base / "before", copy_function=os.link)
    reached = 0
    for at in range(1, 200):
        subprocess.run(["rm", "-rf", str(store.root)], check=True)
        subprocess.run(["cp", "-al", str(store.base / "before"), str(store.root)], check=True)
        if not dies(lambda: module.bring_back(store.settings, destroyed, "db1"), at, ("mkdir", "link", "chown", "rename", "unlink", "rmdir")):
            break
        reached = at
        clock(60)
        module.bring_back(store.settings, destroyed, "db1")
        as_kept(store)
        evil = list((store.root / "kept").glob("replaced-*/evil"))
        assert len(evil) == 1, f"what was there is lost after a death at step {at}"
        assert not [path for path in (store.root / "kept").iterdir() if path.name.startswith(".")]
    assert reached > 15


@needs_root
def test_servers_that_do_not_stop_are_said_before_anything_is_moved(store, destroyed) -> None:
    store.fakes.rule("systemctl stop", code=1, err="Failed to stop: Access denied")
    with pytest.raises(module.Refused, match="What serves the repositories of db1 could not be stopped: Failed to stop: Access denied"):
        module.bring_back(store.settings, destroyed, "db1")
    assert (store.database / "evil").exists()


@needs_root
@pytest.mark.parametrize("words", [("2020-01-01T000000Z", "db1"), ("", "db1"), (".", "db1"), ("../kept", "db1"), (".{kept}", "db1"), ("{kept}", "web9"), ("{kept}", "")])
def test_what_was_not_kept_is_a_sentence(store, destroyed, words) -> None:
    shutil.copytree(store.kept()[0], store.kept()[0].with_name(f".{destroyed}"))
    when, host = (word.replace("{kept}", destroyed) for word in words)
    with pytest.raises(module.Refused, match="^Nothing of .*was kept at .*: backups.yml lists what there is.$"):
        module.bring_back(store.settings, when, host)
    assert (store.database / "evil").exists()


# --- What there is, and what is said about it ------------------------------------------------------------------------


@pytest.mark.parametrize(("ages", "days", "sentence"), [
    ([("full", HOUR)], {"db1": 0.1, "web1": 0.1}, None),
    ([], {"db1": 0.1, "web1": 0.1}, "db1 has no backup of its database at all."),
    ([("full", 30 * HOUR), ("incr", 27 * HOUR)], {"db1": 0.1, "web1": 0.1}, "the newest backup of the database on db1 is 27 hours old."),
    ([("full", 30 * HOUR), ("incr", HOUR)], {"db1": 0.1, "web1": 0.1}, None),
    ([("full", -5 * HOUR)], {"db1": 0.1, "web1": 0.1}, "the newest backup of the database on db1 is dated 4 hours ahead of this host's clock."),
    ([("full", HOUR)], {"db1": 0.1}, "web1 has no backup of its files at all."),
    ([("full", HOUR)], {"db1": 0.1, "web1": 2}, "the newest backup of the files on web1 is 48 hours old."),
    ([("full", HOUR)], {"db1": -1, "web1": 2},
     "the newest backup of the files on db1 is dated 23 hours ahead of this host's clock; the newest backup of the files on web1 is 48 hours old."),
])
def test_what_is_late_is_said(store, ages, days, sentence) -> None:
    store.info(*ages)
    for host, age in days.items():
        store.snapshot(host, SNAPSHOT, age)
    done = store.run("watch")
    if sentence:
        assert (done.returncode, done.stderr) == (1, sentence + "\n")
    else:
        assert done.returncode == 0 and done.stdout.startswith("all is as new as it should be, and "), done.stderr


def test_a_host_that_was_just_added_has_its_first_night_before_it(store) -> None:
    store.info()
    (store.base / "seen.json").unlink()
    (store.root / f"kept/{module.stamp(time.time())}").mkdir()
    assert store.run("watch").returncode == 0
    store.seen(25)
    assert store.run("watch").returncode == 0
    store.seen(27)
    missing = [f"{host} has no backup of its {what} at all" for what, host in (("database", "db1"), ("files", "db1"), ("files", "web1"))]
    assert store.run("watch").stderr == "; ".join(missing) + ".\n"
    # What a clock that was ahead has written counts from now on.
    store.seen(-4000, kept=-4000)
    assert store.run("watch").returncode == 0
    assert max(json.loads((store.base / "seen.json").read_text()).values()) <= time.time()
    store.seen(0)
    (store.base / "seen.json").write_text("[")
    assert store.run("watch").returncode == 0


def test_what_was_there_once_is_missed_at_once(store) -> None:
    store.seen(0)
    store.info(("full", HOUR))
    for host in ("db1", "web1"):
        store.snapshot(host, SNAPSHOT, 0)
    (store.root / f"kept/{module.stamp(time.time())}").mkdir()
    assert store.run("watch").returncode == 0
    # Nor is that forgotten where it could not be looked at for an hour.
    store.fakes.rule("info --output=json", code=99, err="ERROR: [041]: x")
    shutil.rmtree(store.files)
    assert store.run("watch").stderr == "The repository of db1 cannot be read: [041]: x; web1 has no backup of its files at all.\n"
    store.info()
    assert store.run("watch").stderr == "db1 has no backup of its database at all; web1 has no backup of its files at all.\n"


@pytest.mark.parametrize(("seen", "last", "sentence"), [
    (30, None, "nothing has been kept out of the servers' reach yet: see"),
    (1, None, None),
    (30, 1.5, None),
    (30, 3.2, "nothing has been kept out of the servers' reach for 3 hours: see"),
    (1, 3.2, "nothing has been kept out of the servers' reach for 3 hours: see"),
])
@pytest.mark.parametrize("something", [True, False])
def test_a_keeping_that_has_stopped_is_said(store, seen, last, sentence, something) -> None:
    store.configure(files=[])
    store.seen(0, kept=seen)
    store.info(("full", HOUR))
    if last:
        (store.root / f"kept/{module.stamp(time.time() - last * HOUR)}").mkdir()
    if something:
        store.put("database/db1/archive/notes/archive.info")
    done = store.run("watch")
    if sentence and something:
        assert done.returncode == 1 and done.stderr.startswith(sentence), done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_a_repository_that_never_answers_is_said_and_the_others_are_looked_at(store, monkeypatch) -> None:
    """A pipe in the place of a file, for instance."""
    store.configure(databases={"db1": "notes", "db2": "notes"}, files=[])
    store.info(("full", 30 * HOUR))
    store.fakes.rule("/db1.conf", sh="exec sleep 600")
    monkeypatch.setattr(module, "ANSWER", 2)
    with pytest.raises(module.Refused, match=r"^The repository of db1 cannot be read: there is no answer in 2 seconds; "
                                             r"the newest backup of the database on db2 is 30 hours old\.$"):
        module.watch(module.Settings())


@pytest.mark.parametrize(("code", "bad"), [(0, False), (1, False), (2, False), (6, False), (99, True)])
def test_a_repository_that_cannot_be_read_is_not_one_without_backups(store, code, bad) -> None:
    store.configure(files=[])
    store.fakes.rule("info --output=json", out=json.dumps([{"name": "notes", "backup": [], "repo": [
        {"status": {"code": code, "message": "[CryptoError] unable to load info file:\nHINT: is it?"}}]}]))
    done = store.run("watch")
    assert done.stderr == ("The repository of db1 cannot be read: [CryptoError] unable to load info file.\n" if bad
                           else "db1 has no backup of its database at all.\n")


@pytest.mark.parametrize(("room", "names", "used"), [((50, 100), (90, 100), 50), ((50, 100), (10, 100), 90), ((25, 100), (0, 0), 75)])
def test_a_disk_is_as_full_as_what_there_is_least_of(store, monkeypatch, room, names, used) -> None:
    found = types.SimpleNamespace(f_bavail=room[0], f_blocks=room[1], f_favail=names[0], f_files=names[1])
    monkeypatch.setattr(module.os, "statvfs", lambda path: found)
    assert module.percent(store.root) == used


def test_a_snapshot_on_its_way_is_none(store) -> None:
    store.info(("full", HOUR))
    store.snapshot("db1", SNAPSHOT, 0)
    store.snapshot("web1", SNAPSHOT + ".rest-server-temp1", 0)
    assert store.run("watch").stderr == "web1 has no backup of its files at all.\n"


def test_a_repository_that_cannot_be_read_and_a_full_disk_are_said_together(store) -> None:
    store.configure(full_percent=0)
    store.fakes.rule("info --output=json", code=99, err="2026-11-26 01:00:00.000 P00  ERROR: [041]: unable to open file '/x' for read: [13] Permission denied")
    store.snapshot("db1", SNAPSHOT, 0)
    store.put("files/web1/snapshots")
    done = store.run("watch")
    assert done.returncode == 1
    first, second, third = done.stderr.rstrip().split("; ")
    assert first == "The repository of db1 cannot be read: [041]: unable to open file '/x' for read: [13] Permission denied"
    assert second == f"{store.root}/files/web1 cannot be read: Not a directory"
    assert third.startswith(f"the file system of {store.root} is ") and third.endswith(
        " % full: give it more room, or lower backup_server_days or backup_server_kept_days.")


STARTED = time.time()


def label(days: float, kind: str = "F", of: float = 0) -> str:
    """How pgBackRest calls a backup that was made so many days ago."""
    own = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(STARTED - days * DAY))}{kind}"
    return own if kind == "F" else f"{label(of)}_{own}"


def backed_up(store: Store, where: str, *labels: str) -> None:
    """Finished backups, whose files are those that are elsewhere under the same name."""
    for name in labels:
        folder = store.root / where / "database/db1/backup/notes" / name
        others = list(store.root.glob(f"**/database/db1/backup/notes/{name}"))
        if others:
            shutil.copytree(others[0], folder, copy_function=os.link)
        else:
            (folder / "bundle").mkdir(parents=True)
            (folder / "bundle/1").write_text(name)
            (folder / "backup.manifest").write_text(name)


GONE = {
    "one of yesterday": ([label(3), label(1)], [label(3)], [label(1)]),
    "all of them": ([label(3), label(1)], [], [label(3), label(1)]),
    # By its own age, not by that of the one it builds on.
    "what builds on an old one": ([label(34), label(5, "I", 34)], [], [label(5, "I", 34)]),
    # Thirty days are promised, and the run that removes them has a day's leave.
    "what had its time": ([label(31), label(29.5), label(1)], [label(1)], []),
    "one just before its time": ([label(28.5), label(1)], [label(1)], [label(28.5)]),
    "nothing": ([label(1)], [label(1), label(0)], []),
    # Folders that somebody has made in a repository are no backups, and keep nothing else from being said.
    "no backup": (["20-is-no-date", "20269999-000000F", label(1)], [], [label(1)]),
}


@pytest.mark.parametrize("case", GONE)
def test_backups_that_are_gone_before_their_time_are_said_and_those_that_had_it_are_not(store, case) -> None:
    kept, live, gone = GONE[case]
    store.info(("full", HOUR))
    for host in ("db1", "web1"):
        store.snapshot(host, SNAPSHOT, 0)
    point = module.stamp(time.time() - HOUR)
    backed_up(store, f"kept/{point}", *kept)
    backed_up(store, ".", *live)
    assert module.vanished(store.settings, "db1", time.time()) == (sorted(gone), point if gone else "")
    done = store.run("watch")
    if gone:
        assert (done.returncode, done.stderr) == (1, (
            f"{len(gone)} backups of the database on db1 have gone from its repository before their time ({max(gone)}): somebody removed them. "
            f"They are kept as of {point}; docs/after-a-break-in.md says how they come back.\n"))
    else:
        assert done.returncode == 0, done.stderr


def test_what_has_gone_is_said_to_be_where_it_was_kept_last(store) -> None:
    points = [module.stamp(time.time() - hours * HOUR) for hours in (30, 20, 10)]
    for point, labels in zip(points, ([label(3)], [label(3), label(2)], [label(1)]), strict=True):
        backed_up(store, f"kept/{point}", *labels)
    backed_up(store, ".", label(1))
    assert module.vanished(store.settings, "db1", time.time()) == (sorted([label(3), label(2)]), points[1])


def test_what_was_kept_of_a_repository_that_was_put_aside_is_not_missed(store) -> None:
    """Brought back to three days ago, or begun anew with another passphrase."""
    store.info(("full", HOUR))
    for host in ("db1", "web1"):
        store.snapshot(host, SNAPSHOT, 0)
    before, after = (module.stamp(time.time() - hours * HOUR) for hours in (3, 1))
    backed_up(store, f"kept/{before}", label(4), label(2), label(1))
    # Another host's, and one without a time, say nothing of this one's.
    for name in (f"replaced-database-db1-2-{after}", f"replaced-files-db1-{after}", "replaced-database-db1"):
        (store.root / f"kept/{name}").mkdir()
    backed_up(store, f"kept/{after}", label(4))
    backed_up(store, ".", label(4))
    assert module.vanished(store.settings, "db1", time.time()) == (sorted([label(2), label(1)]), before)
    aside = store.root / f"kept/replaced-database-db1-{module.stamp(time.time() - 2 * HOUR)}"
    aside.mkdir()
    assert store.run("watch").returncode == 0
    # What is gone since then is.
    shutil.rmtree(store.database / "backup/notes" / label(4))
    assert module.vanished(store.settings, "db1", time.time()) == ([label(4)], after)


def test_a_backup_that_was_cut_off_while_it_was_kept_is_not_missed(store) -> None:
    backed_up(store, f"kept/{module.stamp(time.time() - HOUR)}", label(3), label(1))
    (store.kept()[0] / "database/db1/backup/notes" / label(1) / "backup.manifest").unlink()
    backed_up(store, ".", label(3))
    assert module.vanished(store.settings, "db1", time.time()) == ([], "")


OVERWRITTEN = {
    "written anew": (lambda path: (path.unlink(), path.write_text("evil")), True),
    "gone": (Path.unlink, True),
    "a link": (lambda path: (path.unlink(), path.symlink_to("/etc/hostname")), True),
    "moved aside and back": (lambda path: (path.rename(path.with_name("x")), path.with_name("x").rename(path)), False),
}


@pytest.mark.parametrize("case", OVERWRITTEN)
@pytest.mark.parametrize("name", ["bundle/1", "backup.manifest"])
@pytest.mark.parametrize("again", [False, True], ids=["", "and kept so"])
def test_a_finished_backup_that_is_another_is_said(store, case, name, again) -> None:
    does, said = OVERWRITTEN[case]
    store.info(("full", HOUR))
    for host in ("db1", "web1"):
        store.snapshot(host, SNAPSHOT, 0)
    times = [module.stamp(time.time() - minutes * 60) for minutes in (60, 45, 30)]
    for each in times[:2]:
        backed_up(store, f"kept/{each}", label(3), label(1))
    backed_up(store, ".", label(3), label(1))
    does(store.database / "backup/notes" / label(1) / name)
    if again:
        # The next quarter of an hour, before anybody has looked.
        shutil.copytree(store.database, store.root / f"kept/{times[2]}/database/db1", copy_function=os.link, symlinks=True)
    done = store.run("watch")
    if said:
        assert (done.returncode, done.stderr) == (1, (
            f"1 backups of the database on db1 have changed since they were kept ({label(1)}): somebody wrote over them. "
            f"They are as they were as of {times[1]}; docs/after-a-break-in.md says how they come back.\n"))
    else:
        assert done.returncode == 0, done.stderr


def piece(number: int, of: str = "a") -> str:
    return f"0000000100000000/{number:024X}-{of * 40}.lz4"


# What is done to the pieces 2 to 5 of a log, the oldest backup of which begins with the third; and what is said of which.
LOG = {
    "written anew": (lambda log: ((log / piece(4)).unlink(), (log / piece(4)).write_text("evil")), "changed", [4]),
    "written below another name": (lambda log: (log / piece(4)).rename(log / piece(4, "b")), "changed", [4]),
    "another beside it": (lambda log: (log / piece(4, "b")).write_text("evil"), "changed", [4]),
    "a link": (lambda log: ((log / piece(4)).unlink(), (log / piece(4)).symlink_to("/etc/hostname")), "changed", [4]),
    "gone": (lambda log: (log / piece(5)).unlink(), "gone", [5]),
    "all gone": (lambda log: shutil.rmtree(log / "0000000100000000"), "gone", [3, 4, 5]),
    "no folder any more": (lambda log: (shutil.rmtree(log / "0000000100000000"), (log / "0000000100000000").symlink_to("0000000100000000")), "gone", [3, 4, 5]),
    "older than what there is": (lambda log: (log / piece(2)).unlink(), "", []),
    "moved away and back": (lambda log: (log.rename(log.with_name("x")), log.with_name("x").rename(log)), "", []),
    "one more": (lambda log: (log / piece(6)).write_text("new"), "", []),
    # They are written a second time, where a timeline is chosen again.
    "what is no piece": (lambda log: ((log / "00000002.history").write_text("new"), (log / f"0000000100000000/{3:024X}.00000028.backup").write_text("new")), "", []),
}


@pytest.mark.parametrize("case", LOG)
@pytest.mark.parametrize("again", [False, True], ids=["", "and kept so"])
def test_a_piece_of_the_log_that_is_another_or_gone_is_said(store, case, again) -> None:
    does, what, numbers = LOG[case]
    backup = {"type": "full", "label": "x", "timestamp": {"stop": int(time.time())}, "database": {"id": 1}, "archive": {"start": f"{3:024X}"}}
    older = {"id": "15-0", "database": {"id": 0}}
    store.fakes.rule("info --output=json", out=json.dumps([{"archive": [older, {"id": "17-1", "database": {"id": 1}}], "backup": [backup]}]))
    for host in ("db1", "web1"):
        store.snapshot(host, SNAPSHOT, 0)
    log = store.database / "archive/notes/17-1"
    (log / "0000000100000000").mkdir(parents=True)
    times = [module.stamp(time.time() - minutes * 60) for minutes in (60, 45, 30)]
    for number in (2, 3, 4, 5):
        (log / piece(number)).write_text("good")
    for each in times[:2]:
        shutil.copytree(store.database, store.root / f"kept/{each}/database/db1", copy_function=os.link)
    does(log)
    if again:
        shutil.copytree(store.database, store.root / f"kept/{times[2]}/database/db1", copy_function=os.link, symlinks=True)
    done = store.run("watch")
    if what:
        how, did = {"changed": ("changed since they were kept", "wrote over"), "gone": ("gone from its repository before their time", "removed")}[what]
        assert (done.returncode, done.stderr) == (1, (
            f"{len(numbers)} pieces of the log of the database on db1 have {how} ({max(numbers):024X}): somebody {did} them. "
            f"They are as they were as of {times[1]}; docs/after-a-break-in.md says how they come back.\n"))
    else:
        assert done.returncode == 0, done.stderr


def test_what_comes_and_is_kept_while_the_log_is_looked_at_is_not_missed(store, monkeypatch) -> None:
    log, real = store.database / "archive/notes/17-1", module.log_in
    (log / "0000000100000000").mkdir(parents=True)
    for number in (1, 2):
        (log / piece(number)).write_text("good")
    shutil.copytree(store.database, store.root / f"kept/{module.stamp(time.time() - HOUR)}/database/db1", copy_function=os.link)

    def looked(repository: Path, stanza: str) -> dict:
        found = real(repository, stanza)
        number = len(list(log.glob("*/*"))) + 1
        (log / piece(number)).write_text("good")
        shutil.copytree(store.database, store.root / f"kept/{module.stamp(time.time() - number)}/database/db1", copy_function=os.link)
        return found

    monkeypatch.setattr(module, "log_in", looked)
    seen = module.Log(store.settings, "db1", "notes")
    backup = {"database": {"id": 1}, "archive": {"start": f"{1:024X}"}}
    assert module.log_problems("db1", seen, {"archive": [{"id": "17-1", "database": {"id": 1}}], "backup": [backup]}) == []


def test_what_is_being_removed_for_its_age_is_not_said_to_be_another(store) -> None:
    backed_up(store, f"kept/{module.stamp(time.time() - HOUR)}", label(31), label(1))
    backed_up(store, ".", label(31), label(1))
    (store.database / "backup/notes" / label(31) / "backup.manifest").unlink()
    assert module.overwritten(store.settings, "db1", time.time()) == ([], "")


@pytest.mark.parametrize(("ages", "words", "kind"), [
    ([], [], "full"),
    ([("full", DAY)], [], "incr"),
    ([("full", DAY)], ["--full"], "full"),
    ([("full", 6 * DAY), ("incr", DAY)], [], "incr"),
    # The timer's minute is not the same each week: half a day early is not a day late.
    ([("full", 7 * DAY - 6 * HOUR), ("incr", DAY)], [], "full"),
    ([("incr", HOUR)], [], "full"),
])
def test_a_whole_backup_is_made_when_one_is_due(store, ages, words, kind) -> None:
    store.info(*ages, ("incr", 0)) if ages else store.info()
    if not ages:
        # The first backup is there once it was made.
        store.fakes.rule(" backup ", sh=f"echo '[]' > {store.base}/made")
    done = store.run("database", "db1", *words)
    (made,) = store.fakes.calls(" backup ")
    assert made.split()[1:] == [f"--config={store.config}/db1.conf", f"--config-include-path={store.config}/db1.d", "--stanza=notes", "backup", f"--type={kind}"]
    if ages:
        assert (done.returncode, done.stdout) == (0, f"db1: label{len(ages)}\n"), done.stderr


def test_a_backup_that_fails_is_a_sentence(store) -> None:
    store.info(("full", DAY))
    store.fakes.rule(" backup ", code=49, err="WARN: x\n2026-11-26 01:15:03.123 P00  ERROR: [082]: WAL segment 0001 was not archived\n")
    done = store.run("database", "db1")
    assert (done.returncode, done.stdout, done.stderr) == (
        1, "", "The database of db1 was not backed up: [082]: WAL segment 0001 was not archived\n")


@pytest.mark.parametrize(("verb", "does"), [("begin", "stanza-create"), ("begin-anew", "stanza-upgrade")])
def test_a_repository_is_begun_and_its_first_backup_started(store, verb, does) -> None:
    done = store.run(verb, "db1")
    assert (done.returncode, done.stdout) == (0, "began db1\n"), done.stderr
    assert [line.split()[0] + " " + line.split()[-1] for line in store.fakes.calls()] == [f"pgbackrest {does}", "systemctl redoubt-backup-database@db1.service"]
    store.fakes.forget()
    store.fakes.rule(does, code=56, err="ERROR: [056]: unable to find primary cluster")
    done = store.run(verb, "db1")
    assert (done.returncode, done.stderr) == (1, "The repository of db1 could not be begun: [056]: unable to find primary cluster\n")
    assert not store.fakes.calls("systemctl")


@pytest.mark.parametrize("verb", ["begin", "begin-anew", "database"])
@pytest.mark.parametrize("name", ["web1", "db9", "", "../db1"])
def test_a_host_without_a_database_is_a_sentence(store, verb, name) -> None:
    done = store.run(verb, name)
    assert (done.returncode, done.stderr) == (1, f"{name} has no database that is backed up here: name one of db1.\n")
    assert not store.fakes.calls()


@pytest.mark.parametrize("words", [("begin",), ("keep", "db1"), ("bring-back", "db1"), ("users",)])
def test_other_words_are_refused(store, words) -> None:
    done = store.run(*words)
    assert done.returncode == 2 and f"{words[0]} takes other arguments" in done.stderr


def test_the_list_is_of_what_came_when(store) -> None:
    store.info(("full", 3 * HOUR), ("incr", HOUR))
    store.snapshot("web1", SNAPSHOT, 2)
    (store.root / "kept/2026-11-25T231500Z").mkdir()
    (store.root / "kept/.2026-11-26T231500Z").mkdir()
    (store.root / "kept/replaced-files-web1-2026-11-26T231500Z").mkdir()
    # Its own date is a lie.
    store.fakes.rule("snapshots --json", out=json.dumps([{"id": SNAPSHOT, "short_id": SNAPSHOT[:8], "time": "2099-01-01T00:00:00Z",
                                                          "summary": {"total_bytes_processed": 7, "data_added_packed": 3}}]))
    done = store.run("list")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["host"], row["kind"], row["name"], row["size"], row["stored"]) for row in found["backups"]] == [
        ("db1", "database, full", "label0", 100, 10), ("db1", "database, incr", "label1", 100, 10), ("web1", "files", SNAPSHOT[:8], 7, 3)]
    assert abs(found["backups"][2]["when"] - (time.time() - 2 * DAY)) < HOUR
    assert found["kept"] == ["2026-11-25T231500Z"]
    assert isinstance(found["percent"], int)


def test_what_cannot_be_read_hides_no_other(store) -> None:
    store.configure(databases={"db1": "notes", "db2": "notes"}, files=["db1", "web1"])
    store.info(("full", HOUR))
    store.fakes.rule("/db1.conf", code=99, err="ERROR: [041]: unable to open missing file")
    for host in ("db1", "web1"):
        store.snapshot(host, SNAPSHOT, 2)
    store.fakes.rule("files/web1 ", out=json.dumps([{"id": SNAPSHOT, "short_id": SNAPSHOT[:8]}]))
    store.fakes.rule("files/db1 ", code=1, err="Fatal: wrong password or no key found")
    done = store.run("list")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["host"], row["name"]) for row in found["backups"]] == [("db2", "label0"), ("web1", SNAPSHOT[:8])]
    assert found["errors"] == ["The repository of db1 cannot be read: [041]: unable to open missing file",
                               "The snapshots of db1 cannot be read: Fatal: wrong password or no key found"]


# What pgBackRest 2.45 and 2.55 print without --verbose: nothing, or what is wrong.
DAMAGED = """stanza: notes
status: error
  archiveId: 17-1, total WAL checked: 9, total valid WAL: 8
    checksum invalid: 1
  backup: 20261126-011500F, status: invalid, total files checked: 951, total valid files: 947
    checksum invalid: 3, size invalid: 1"""


@pytest.mark.parametrize(("told", "code", "sentence"), [
    ("", 0, None),
    ("WARN: file missing '17-1/0001/seg.lz4'", 0, None),
    (DAMAGED, 0, ("The repository of db1 is damaged: archiveId: 17-1, total WAL checked: 9, total valid WAL: 8; checksum invalid: 1; "
                  "backup: 20261126-011500F, status: invalid, total files checked: 951, total valid files: 947; checksum invalid: 3, size invalid: 1. "
                  "The new backup itself was made; look at the disk.")),
    ("stanza: notes\nstatus: error", 0, "The repository of db1 is damaged: pgbackrest verify says why. The new backup itself was made; look at the disk."),
    ("ERROR: [041]: x", 41, "The repository of db1 could not be verified: [041]: x"),
])
def test_a_whole_backup_is_followed_by_a_look_at_all_bytes(store, told, code, sentence) -> None:
    store.info(("full", HOUR))
    store.fakes.rule(" verify ", out=told, code=code)
    done = store.run("database", "db1", "--full")
    assert [line.split("--stanza=notes ")[1] for line in store.fakes.calls(" verify ")] == ["verify --output=text"]
    assert done.stderr == (f"{sentence}\n" if sentence else "")
    assert done.returncode == (1 if sentence else 0)


def test_each_host_has_a_user_of_its_own_at_restic_s_server(store) -> None:
    assert store.run("users", str(store.base / "htpasswd")).returncode == 0
    lines = (store.base / "htpasswd").read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == ["db1", "web1"] and len({line.split("}")[1] for line in lines}) == 2


def test_a_key_is_read_once_and_no_path_leads_to_it_then(base) -> None:
    """Its server's children do what a client says, as the same user."""
    look = "cat {}; echo; cat; test -e {} || echo gone; ls -A $TMPDIR"
    done = subprocess.run([PROGRAM.with_name("backup-key-once"), "sh", "-c", look], input=b"the key", stdout=subprocess.PIPE, check=True,
                          env={**os.environ, "TMPDIR": str(base)}, timeout=30)
    assert done.stdout.decode().splitlines() == ["the key", "gone"]


def test_repositories_are_read_as_the_users_who_own_them(store, monkeypatch) -> None:
    monkeypatch.setattr(module.os, "geteuid", lambda: 0)
    assert module.as_owner("db1", ["x"])[:4] == ["setpriv", "--reuid=backup-db1", "--regid=backup-db1", "--init-groups"]
    monkeypatch.setattr(module.os, "geteuid", lambda: 5)
    assert module.as_owner("db1", ["x"]) == ["x"]
