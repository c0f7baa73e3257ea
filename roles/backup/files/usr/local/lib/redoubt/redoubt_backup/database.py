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
from collections.abc import Callable, Iterator
from pathlib import Path

from redoubt_backup.common import ROOT, Refused, Settings, call, now, read, reason, sql, write

SEGMENT = "0123456789ABCDEF"


def pgbackrest(settings: Settings, *words: str) -> list[str]:
    return ["pgbackrest", f"--stanza={settings.app}", *words]


def info(settings: Settings) -> dict:
    """What pgBackRest knows of the repository."""
    told = call(pgbackrest(settings, "info", "--output=json"), f"The backups of the database on {settings.store} cannot be read", user="postgres")
    return (json.loads(told) or [{}])[0]


def target(at: datetime.datetime | None) -> list[str]:
    """pgBackRest's words for a time to stop at. Without one, all that was archived is replayed."""
    if at is None:
        return []
    return ["--type=time", f"--target={at.astimezone(datetime.UTC):%Y-%m-%d %H:%M:%S.%f}+00", "--target-action=promote"]


def fetch(settings: Settings, at: datetime.datetime | None, folder: Path) -> None:
    """Restore the newest backup that leads to a time into an empty folder."""
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
            told = [line for line in log() if "the database system is starting up" not in line]
            raise Refused(f"The restored database does not start: {reason(told).rstrip('.')}.")
        time.sleep(0.2)


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


def start_scratch(settings: Settings, name: str) -> None:
    """A server of its own on restored data: with the service's configuration, but its own socket, and nothing that reaches outside."""
    folder, socket = settings.scratch / name / "data", scratch_socket(name)
    config = f"/etc/postgresql/{settings.version}/main/postgresql.conf"
    settings_ = {"config_file": config, "data_directory": folder, "external_pid_file": folder / "external.pid", "unix_socket_directories": socket, "listen_addresses": "",
                 "archive_mode": "off", "ssl": "off", "shared_buffers": "64MB", "maintenance_work_mem": "64MB", "logging_collector": "off",
                 "log_destination": "stderr", "autovacuum": "off",
                 # Not the service's own spool, which it cannot write.
                 "restore_command": f'pgbackrest --stanza={settings.app} --pg1-path={folder} --no-archive-async archive-get %f "%p"'}
    command = [str(settings.bin / "postgres"), *(word for key, value in settings_.items() for word in ("-c", f"{key}={value}"))]
    call(["systemd-run", "--quiet", "--collect", f"--unit={scratch_unit(name)}", "--property=User=postgres", "--property=SupplementaryGroups=redoubt-pki",
          f"--property=RuntimeDirectory={Path(socket).name}", "--property=MemoryHigh=25%", "--property=CPUWeight=20", "--property=IOWeight=20",
          "--property=Nice=10", "--property=ProtectSystem=strict", "--property=NoNewPrivileges=yes", "--property=PrivateTmp=yes",
          "--property=ProtectHome=yes", "--property=KillSignal=SIGINT", "--property=LimitNOFILE=65536",
          f"--property=ReadWritePaths={settings.scratch / name} /run/postgresql", "--", *command], "The restored database could not be started")


def scratch_alive(name: str) -> bool:
    return subprocess.run(["systemctl", "--quiet", "is-active", scratch_unit(name)], check=False).returncode == 0


def scratch_log(name: str) -> list[str]:
    return subprocess.run(["journalctl", "--quiet", "--no-pager", "--output=cat", "--lines=40", f"--unit={scratch_unit(name)}"],
                          capture_output=True, text=True, check=False).stdout.splitlines()


def remove_scratch(settings: Settings, name: str) -> None:
    subprocess.run(["systemctl", "stop", scratch_unit(name)], capture_output=True, check=False)
    shutil.rmtree(settings.scratch / name, ignore_errors=True)
    shutil.rmtree(settings.scratch_files / name, ignore_errors=True)


def beside(settings: Settings, at: datetime.datetime | None, name: str) -> dict:
    """Restore into a cluster that stands beside the service, and start it."""
    folder = settings.scratch / name
    if folder.exists() or scratch_alive(name):
        raise Refused(f"There is a restore called {name} already: take another name, or remove it (`-e into={name} -e remove=true`).")
    owner = pwd.getpwnam("postgres")
    for path in (settings.scratch, folder):
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, owner.pw_uid, owner.pw_gid)
    try:
        fetch(settings, at, folder / "data")
        start_scratch(settings, name)
        recovered(settings, scratch_socket(name), lambda: scratch_alive(name), lambda: scratch_log(name))
        return examined(settings, scratch_socket(name))
    except Refused:
        remove_scratch(settings, name)
        raise


# --- In its place ----------------------------------------------------------------------------------------------------


class InPlace:
    """A restore over the running cluster, which is put aside by a rename and comes back by one when the restored one does not answer.

    `restore.json` says how far it has come, so that after a kill the next run knows which of the two is the real one.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cluster = settings.cluster
        self.aside = self.cluster.with_name("main.before-restore")
        self.record = settings.state / "restore.json"

    def note(self, phase: str, **more: object) -> None:
        write(self.record, {"phase": phase, "at": now(), **more})

    def pending(self) -> bool:
        return read(self.record).get("phase") in ("stopping", "restoring")

    def stop(self) -> None:
        call(["systemctl", "stop", self.settings.unit], "PostgreSQL could not be stopped")

    def mend(self) -> str:
        """Finish a restore that was cut off: the cluster from before is put back. Empty where there was none."""
        if not self.pending():
            return ""
        self.take_back("It was cut off.")
        return "A restore that was cut off has been taken back first."

    def take_back(self, why: str) -> None:
        """The cluster from before is in its place and runs, however far it had come. Killed, it can be done again."""
        if read(self.record).get("phase") == "restoring":
            self.stop()
            if self.aside.exists():
                if self.cluster.exists():
                    shutil.rmtree(self.cluster)
                self.aside.rename(self.cluster)
        subprocess.run(["systemctl", "reset-failed", self.settings.unit], capture_output=True, check=False)
        call(["systemctl", "start", self.settings.unit], f"{why} The database from before is in its place, but PostgreSQL did not start again with it")
        self.note("put back", reason=why)

    def log(self) -> list[str]:
        path = ROOT / f"var/log/postgresql/postgresql-{self.settings.version}-main.log"
        lines = path.read_text(errors="replace").splitlines()[-60:] if path.exists() else []
        # The newest reason, not one of an earlier start.
        return [line for line in reversed(lines) if "FATAL" in line or "PANIC" in line] or lines

    def alive(self) -> bool:
        return subprocess.run(["systemctl", "--quiet", "is-active", self.settings.unit], check=False).returncode == 0

    def bring_segments(self) -> None:
        """Segments that the old cluster had not archived yet: with them nothing is missing that had been committed."""
        found = self.aside / "pg_wal"
        owner = pwd.getpwnam("postgres")
        for path in sorted(found.iterdir()) if found.is_dir() else []:
            target = self.cluster / "pg_wal" / path.name
            if len(path.name) == 24 and not set(path.name) - set(SEGMENT) and not target.exists():
                shutil.copyfile(path, target)
                target.chmod(0o600)
                os.chown(target, owner.pw_uid, owner.pw_gid)

    def look(self) -> None:
        if not info(self.settings).get("backup"):
            raise Refused(f"{self.settings.store} has no backup of this database.")

    def run(self, at: datetime.datetime | None) -> dict:
        settings, wanted = self.settings, {"target": f"{at}" if at else "newest", "aside": str(self.aside)}
        self.look()
        # What is aside now is of a restore before this one, and not to be put back for it.
        self.note("stopping", **wanted)
        try:
            self.stop()
            if self.aside.exists():
                shutil.rmtree(self.aside)
            self.note("restoring", **wanted)
            if self.cluster.exists():
                self.cluster.rename(self.aside)
            fetch(settings, at, self.cluster)
            if at is None:
                self.bring_segments()
            subprocess.run(["systemctl", "reset-failed", settings.unit], capture_output=True, check=False)
            subprocess.run(["systemctl", "start", settings.unit], capture_output=True, check=False)
            recovered(settings, "/run/postgresql", self.alive, self.log)
            found = examined(settings, "/run/postgresql")
        except (Refused, OSError) as error:
            told = str(error) if isinstance(error, Refused) else f"The database was not restored: {error}."
            self.take_back(told)
            raise Refused(f"{told} The database from before is back in its place.") from None
        self.note("restored", **wanted, **found)
        return {**found, "aside": str(self.aside)}


# --- The application while its data is replaced ----------------------------------------------------------------------


def units(settings: Settings) -> list[str]:
    """What of the application runs, its sockets and timers included."""
    told = call(["systemctl", "list-units", "--plain", "--no-legend", "--full", "--state=active,activating", f"{settings.app}@*", f"{settings.app}-*"],
                "systemd does not answer")
    names = [line.split()[0] for line in told.splitlines()]
    # Of its commands that somebody runs by hand, each is its own affair.
    return [name for name in names if name.endswith((".service", ".socket", ".timer"))]


@contextlib.contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Nothing of the application runs; what ran before runs again after, also if the run between the two was killed."""
    record = settings.state / "held.json"
    try:
        hold(settings)
        yield
    finally:
        if record.exists():
            release(settings)


def hold(settings: Settings) -> None:
    record = settings.state / "held.json"
    running = read(record).get("units") or []
    running = sorted({*running, *units(settings)})
    write(record, {"units": running, "at": now()})
    # Sockets first: a connection would start the service again.
    for kind in (".timer", ".socket", ".service"):
        names = [name for name in running if name.endswith(kind)]
        if names:
            call(["systemctl", "stop", *names], "The application could not be stopped")


def release(settings: Settings) -> None:
    record = settings.state / "held.json"
    running = read(record).get("units") or []
    known = [name for name in running if not name.startswith(f"{settings.app}-build-")]
    failed = ""
    # One that does not start again is no reason for the others to stand still.
    for kind in (".socket", ".service", ".timer"):
        names = [name for name in known if name.endswith(kind)]
        try:
            if names:
                call(["systemctl", "start", *names], "The application was not started again")
        except Refused as error:
            failed = failed or str(error)
    if failed:
        raise Refused(failed)
    record.unlink(missing_ok=True)
