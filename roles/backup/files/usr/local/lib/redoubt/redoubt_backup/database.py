"""The database's cluster: how its backups come back, beside it or in its place."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from redoubt_backup.application import held
from redoubt_backup.common import Refused, Settings, call, now, read, reason, room, sql, write

SEGMENT = "0123456789ABCDEF"
# Seconds: where packets are dropped, pgBackRest itself knocks for minutes, and a deploy waits for it.
ANSWERS_WITHIN = 60


def pgbackrest(settings: Settings, *words: str) -> list[str]:
    return ["pgbackrest", f"--stanza={settings.app}", *words]


def info(settings: Settings) -> dict:
    """What pgBackRest knows of the repository."""
    told = call(pgbackrest(settings, "info", "--output=json"), f"The backups of the database on {settings.store} cannot be read", user="postgres",
                within=ANSWERS_WITHIN)
    # Of what cannot be deciphered it quotes bytes.
    found = (json.loads(told, strict=False) or [{}])[0]
    # A repository that does not answer is an answer to pgBackRest, and looks like one without backups (codes 1 to 6 are those of a repository that did).
    wrong = [repository["status"]["message"] for repository in found.get("repo", []) if repository["status"]["code"] > 6]
    if wrong:
        raise Refused(f"The backups of the database on {settings.store} cannot be read: {wrong[0].splitlines()[0].rstrip('.')}.")
    return found


def target(at: datetime.datetime | None) -> list[str]:
    """pgBackRest's words for a time to stop at. Without one, all that was archived is replayed.

    On the timeline of the backup that it begins with: the latest one may be of a restore that went back to before this time.
    """
    if at is None:
        return []
    return ["--type=time", f"--target={at.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S.%f}+00", "--target-timeline=current", "--target-action=promote"]


def fetch(settings: Settings, at: datetime.datetime | None, folder: Path, copies: float, more: int = 0) -> None:
    """Restore the newest backup that leads to a time into an empty folder, if there is room for so many of it, and for more bytes."""
    backups = info(settings).get("backup", [])
    room(folder.parent, copies * max((backup["info"]["size"] for backup in backups), default=0) + more, "database")
    folder.mkdir(mode=0o700)
    owner = pwd.getpwnam("postgres")
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    call(pgbackrest(settings, "restore", f"--pg1-path={folder}", "--log-level-console=error", "--process-max=2", *target(at)),
         "The database was not restored", user="postgres")


def recovered(settings: Settings, socket: str, alive: Callable[[], bool], log: Callable[[], list[str]]) -> None:
    """Wait until a cluster has replayed what it was given and is open for writing. It takes as long as it takes, as long as it runs."""
    while True:
        try:
            if sql(settings, "SELECT pg_is_in_recovery()", "postgres", socket) == "f":
                return
        except Refused:
            pass
        if not alive():
            # Who asks too early is told so, and that is in the log too.
            told = [line for line in log() if "the database system is" not in line]
            raise Refused(f"The restored database does not start: {reason(told).rstrip('.')}.")
        time.sleep(0.2)


def forget_recovery(data: Path) -> None:
    """What pgBackRest has told the cluster for its recovery would be told to every one after it."""
    path = data / "postgresql.auto.conf"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("#", "restore_command", "recovery_target"))]
    path.write_text("".join(f"{line}\n" for line in lines))


def examined(settings: Settings, socket: str) -> dict:
    """What the restored database answers; a sentence where it is not the application's."""
    if sql(settings, f"SELECT count(*) FROM pg_database WHERE datname = '{settings.app}'", "postgres", socket) != "1":
        raise Refused(f"The restored cluster has no database {settings.app}: the backup is of another application.")
    canary = sql(settings, "SELECT to_regclass('redoubt.canary') IS NOT NULL", settings.app, socket)
    newest = sql(settings, "SELECT max(at) FROM redoubt.canary", settings.app, socket) if canary == "t" else ""
    return {"canary": newest, "size": int(sql(settings, f"SELECT pg_database_size('{settings.app}')", "postgres", socket))}


# --- Beside the service ----------------------------------------------------------------------------------------------


def scratch_unit(name: str) -> str:
    return f"redoubt-restored-{name}.service"


def scratch_socket(name: str) -> str:
    return f"/run/redoubt-restored-{name}"


def make_scratch(settings: Settings, name: str) -> Path:
    """Where the data of a restore goes."""
    owner = pwd.getpwnam("postgres")
    for path in (settings.scratch, settings.scratch / name):
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, owner.pw_uid, owner.pw_gid)
    return settings.scratch / name / "data"


def start_scratch(settings: Settings, name: str, archive: bool = False) -> None:
    """A server of its own on restored data: with the service's configuration, but its own socket, and a network to fetch the log with."""
    folder, socket = settings.scratch / name / "data", scratch_socket(name)
    config = f"/etc/postgresql/{settings.version}/main/postgresql.conf"
    settings_ = {"config_file": config, "data_directory": folder, "external_pid_file": folder / "external.pid", "unix_socket_directories": socket, "listen_addresses": "",
                 "archive_mode": "on" if archive else "off", "ssl": "off", "shared_buffers": "64MB", "maintenance_work_mem": "64MB", "logging_collector": "off",
                 "log_destination": "stderr", "log_connections": "off", "log_disconnections": "off", "autovacuum": "off",
                 "restore_command": f'pgbackrest --stanza={settings.app} --pg1-path={folder} archive-get %f "%p"'}
    # A drill's leaves the processor to visitors, as the drill does; one that a restore waits for does not.
    idle = ["--property=CPUSchedulingPolicy=idle", "--property=IOSchedulingClass=idle"] if os.sched_getscheduler(0) == os.SCHED_IDLE else []
    command = [str(settings.bin / "postgres"), *(word for key, value in settings_.items() for word in ("-c", f"{key}={value}"))]
    call(["systemd-run", "--quiet", "--collect", f"--unit={scratch_unit(name)}", "--property=User=postgres", "--property=SupplementaryGroups=redoubt-pki",
          f"--property=RuntimeDirectory={Path(socket).name}", "--property=MemoryHigh=25%", "--property=CPUWeight=20", "--property=IOWeight=20",
          "--property=Nice=10", *idle, "--property=ProtectSystem=strict", "--property=NoNewPrivileges=yes", "--property=PrivateTmp=yes",
          "--property=ProtectHome=yes", "--property=KillSignal=SIGINT", "--property=LimitNOFILE=65536",
          f"--property=ReadWritePaths={settings.scratch / name} {settings.spool} /run/postgresql", "--", *command], "The restored database could not be started")


def scratch_alive(name: str) -> bool:
    return subprocess.run(["systemctl", "--quiet", "is-active", scratch_unit(name)], check=False).returncode == 0


def scratch_log(name: str) -> list[str]:
    lines = subprocess.run(["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=400", f"--unit={scratch_unit(name)}"],
                           capture_output=True, text=True, check=False).stdout.splitlines()
    # Since its last start: earlier restores had the same name.
    starts = [number for number, line in enumerate(lines) if line.startswith("Started ")]
    return lines[starts[-1] + 1:] if starts else lines


def remove_scratch(settings: Settings, name: str) -> None:
    subprocess.run(["systemctl", "stop", scratch_unit(name)], capture_output=True, check=False)
    shutil.rmtree(settings.scratch / name, ignore_errors=True)
    shutil.rmtree(settings.scratch_files / name, ignore_errors=True)


def beside(settings: Settings, at: datetime.datetime | None, name: str, copies: float = 1) -> dict:
    """Restore into a cluster that stands beside the service, and start it. With room for so many of it, where more is to come."""
    folder = settings.scratch / name
    if folder.exists() or scratch_alive(name):
        raise Refused(f"There is a restore called {name} already: take another name, or remove it (`-e into={name} -e remove=true`).")
    try:
        fetch(settings, at, make_scratch(settings, name), copies)
        start_scratch(settings, name)
        recovered(settings, scratch_socket(name), lambda: scratch_alive(name), lambda: scratch_log(name))
        return examined(settings, scratch_socket(name))
    except Refused:
        remove_scratch(settings, name)
        raise


# --- In its place ----------------------------------------------------------------------------------------------------

# The name of the restore that is to take the service's place.
NEXT = "next"
# While a restore takes its place nothing is sent, also not after a boot (the unit asks restore.json): a timeline of a cluster that is taken
# back would be in the repository, and every later restore would follow it there.
SENDER = "redoubt-backup-send.service"


def segments(folder: Path) -> list[Path]:
    """Those of the write-ahead log, in order."""
    return sorted(path for path in folder.iterdir() if len(path.name) == 24 and not set(path.name) - set(SEGMENT)) if folder.is_dir() else []


def identifier(path: Path, offset: int) -> bytes:
    """Which cluster a file is of: pg_control begins with that, and a segment has it in its first page's header. Empty where it cannot be read."""
    try:
        with open(path, "rb") as source:
            source.seek(offset)
            return source.read(8)
    except OSError:
        return b""


def foreign(segment: Path, data: Path) -> bool:
    """Whether a segment is known to be of another cluster than the one in this folder."""
    own, its = identifier(data / "global/pg_control", 0), identifier(segment, 24)
    return len(own) == len(its) == 8 and own != its


class InPlace:
    """A restore that takes the place of the running cluster: made beside it, recovered and examined there, and swapped in by two renames.

    Until the swap the cluster of the service is untouched; after it, it stays aside until the next restore. `restore.json` says when the swap
    began, so that after a kill in between the next run knows which of the two is the real one.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cluster = settings.cluster
        self.aside = self.cluster.with_name("main.before-restore")
        self.record = settings.state / "restore.json"

    def note(self, phase: str, **more: object) -> None:
        write(self.record, {"phase": phase, "at": now(), **more})

    def pending(self) -> bool:
        return read(self.record).get("phase") in ("replaying", "swapping")

    def stop(self) -> None:
        call(["systemctl", "stop", self.settings.unit], "PostgreSQL could not be stopped")

    def start(self, failed: str) -> None:
        subprocess.run(["systemctl", "reset-failed", self.settings.unit], capture_output=True, check=False)
        call(["systemctl", "start", self.settings.unit], failed)

    def mend(self) -> str:
        """Take back a swap that was cut off. Empty where there was none."""
        remove_scratch(self.settings, NEXT)
        if not self.pending():
            self.send()
            return ""
        self.take_back("It was cut off.")
        return "A restore that was cut off has been taken back first."

    def take_back(self, why: str) -> None:
        """The cluster from before is in its place and runs, however far it had come. Killed, it can be done again."""
        # First of all: where it has filled the disk nothing starts, and its server would go on to lay down what is dropped below.
        remove_scratch(self.settings, NEXT)
        if read(self.record).get("phase") == "swapping":
            self.stop()
            if self.aside.exists():
                if self.cluster.exists():
                    shutil.rmtree(self.cluster)
                self.aside.rename(self.cluster)
        self.drop_other_timelines()
        self.start(f"{why} The database from before is in its place, but PostgreSQL did not start again with it")
        self.note("put back", reason=why)
        self.send()

    def send(self) -> None:
        subprocess.run(["systemctl", "start", SENDER], capture_output=True, check=False)

    def drop_other_timelines(self) -> None:
        """What the cluster that is not to be has laid down to be sent."""
        own = max((path.name[:8] for path in segments(self.cluster / "pg_wal")), default="")
        if own and self.settings.spool.is_dir():
            for path in self.settings.spool.iterdir():
                if not set(path.name[:8]) - set(SEGMENT) and path.name[:8] > own:
                    path.unlink()

    def left(self) -> dict[str, Path]:
        """Segments that are on this host, of which some may not have reached the repository; those on their way before those of the server."""
        return {path.name: path for source in (self.cluster / "pg_wal", self.settings.spool) for path in segments(source)}

    def size_left(self) -> int:
        found = 0
        for path in self.left().values():
            # The service goes on meanwhile.
            with contextlib.suppress(FileNotFoundError):
                found += path.stat().st_size
        return found

    def bring_segments(self, data: Path) -> None:
        """With them nothing is missing that had been committed."""
        owner = pwd.getpwnam("postgres")
        for name, path in self.left().items():
            new = data / "pg_wal" / name
            if not new.exists() and not foreign(path, data):
                shutil.copyfile(path, new)
                new.chmod(0o600)
                os.chown(new, owner.pw_uid, owner.pw_gid)

    def look(self) -> None:
        if not info(self.settings).get("backup"):
            raise Refused(f"{self.settings.store} has no backup of this database.")

    def run(self, at: datetime.datetime | None) -> dict:
        settings = self.settings
        # What cannot be reached is found out while the service still serves, and what takes long is done meanwhile.
        self.look()
        try:
            new = make_scratch(settings, NEXT)
            fetch(settings, at, new, 1, self.size_left() if at is None else 0)
            with held(settings):
                return self.replace(at, new)
        except OSError as error:
            raise Refused(f"The database was not restored: {error}. The one from before is in its place.") from None
        finally:
            remove_scratch(settings, NEXT)

    def replace(self, at: datetime.datetime | None, new: Path) -> dict:
        """With the application still: replay the log, look at the result, and swap."""
        settings, wanted = self.settings, {"target": f"{at}" if at else "newest", "aside": str(self.aside)}
        self.note("replaying", **wanted)
        try:
            call(["systemctl", "stop", SENDER], "What sends the log could not be stopped")
            self.stop()
            if at is None:
                self.bring_segments(new)
            # Its new timeline is archived from the beginning, as the service's will be.
            start_scratch(settings, NEXT, archive=True)
            recovered(settings, scratch_socket(NEXT), lambda: scratch_alive(NEXT), lambda: scratch_log(NEXT))
            found = examined(settings, scratch_socket(NEXT))
            call(["systemctl", "stop", scratch_unit(NEXT)], "The restored database could not be stopped")
            forget_recovery(new)
            # What is aside now is of a restore before this one, and not to be put back for it.
            if self.aside.exists():
                shutil.rmtree(self.aside)
            self.note("swapping", **wanted)
            if self.cluster.exists():
                self.cluster.rename(self.aside)
            new.rename(self.cluster)
            # What a new host's own cluster has laid down is refused by the repository, and would stand in the way of all that follows.
            for path in segments(settings.spool):
                if foreign(path, self.cluster):
                    path.unlink()
            self.start("PostgreSQL does not start with the restored data")
            examined(settings, "/run/postgresql")
            self.note("restored", **wanted, **found)
            self.send()
        except (Refused, OSError) as error:
            told = str(error) if isinstance(error, Refused) else f"The database was not restored: {error}."
            self.take_back(told)
            raise Refused(f"{told} The database from before is in its place.") from None
        return {**found, "aside": str(self.aside)}
