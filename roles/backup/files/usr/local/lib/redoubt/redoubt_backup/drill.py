"""The weekly proof that the backups come back: restored beside the service, compared, judged and removed again."""

from __future__ import annotations

import datetime
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from redoubt_backup import database, files
from redoubt_backup.common import Refused, Settings, as_user, call, now, read, restic, sql, write

NAME = "drill"
# Seconds: many times what a segment of 16 MB takes on a slow line.
ARCHIVED_WITHIN = 120


class Drill:
    """Runs the steps in order; one that fails does not keep the next from being looked at, where it can be."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps: list[dict] = []

    def step(self, name: str, what: Callable[[], str]) -> bool:
        began = time.monotonic()
        try:
            told, good = what(), True
        except Refused as error:
            told, good = str(error), False
        except Exception as error:  # noqa: BLE001 (what nobody has thought of is a failed drill too, and is written down as one)
            told, good = f"{type(error).__name__}: {error}", False
        self.steps.append({"step": name, "ok": good, "seconds": round(time.monotonic() - began, 1), "told": told})
        print(f"{'ok' if good else 'FAILED'}  {name}: {told}", flush=True)
        return good

    def run(self) -> dict:
        settings, began = self.settings, time.monotonic()
        started = now()
        database.remove_scratch(settings, NAME)
        # What is there while it runs, and after a kill.
        write(settings.state / "drill.json", {"started": started, "ended": started, "seconds": 0, "ok": False, "backup": "", "snapshot": "",
                                              "steps": [{"step": "end", "ok": False, "seconds": 0, "told": "It has not come to its end"}]})
        try:
            if settings.database:
                self.step("log archived", self.archive_log)
            if self.step("files restored", self.restore_files):
                self.step("files as listed", self.compare_files)
                if settings.database and self.step("dump restored", self.restore_dump_and_cluster):
                    self.step("rows as counted", self.compare_rows)
            if settings.database:
                if database.scratch_alive(NAME):
                    self.step("canary", self.find_canary)
                    self.step("every page read", self.read_pages)
                    self.step("migrations", self.check_migrations)
                # Debian 12's pgBackRest dies of it over the network; its repository's own host does it after each whole backup, on any release.
                if settings.version != "15":
                    self.step("database's repository", self.verify)
            self.step("files' repository", self.check_repository)
        finally:
            database.remove_scratch(settings, NAME)
        result = {"started": started, "ended": now(), "seconds": round(time.monotonic() - began, 1), "ok": all(step["ok"] for step in self.steps),
                  "backup": getattr(self, "label", ""), "snapshot": getattr(self, "snapshot", ""), "steps": self.steps}
        write(settings.state / "drill.json", result)
        return result

    # --- Files ---

    @property
    def target(self) -> Path:
        return self.settings.scratch_files / NAME

    @property
    def manifest(self) -> dict:
        return json.loads((self.target / str(self.settings.manifest).lstrip("/")).read_text())

    def restore_files(self) -> str:
        self.target.parent.mkdir(mode=0o700, exist_ok=True)
        found = files.fetch(self.settings, None, self.target)
        self.snapshot = found["short_id"]
        return f"snapshot {found['short_id']} of {found['time'][:19]}"

    def compare_files(self) -> str:
        manifest, last = self.manifest, read(self.settings.work / "files.json")
        wrong = files.compared(manifest, self.target, last.get("moved", []) if last.get("snapshot") == self.snapshot else [])
        if wrong:
            raise Refused(f"{len(wrong)} of {len(manifest['files'])} files differ from the manifest: {', '.join(wrong[:3])}")
        return f"{len(manifest['files'])} files have the hashes of the manifest"

    # --- Database ---

    def archive_log(self) -> str:
        """What is committed by now is to be in the restore: the segment that holds it is sent without waiting for its minute."""
        # With nothing written since the last one, PostgreSQL 17 names the next, which nobody will archive: something is written first.
        segment = sql(self.settings, "SELECT pg_walfile_name(pg_switch_wal()) FROM pg_logical_emit_message(false, 'redoubt', '')", "postgres")
        deadline = time.monotonic() + ARCHIVED_WITHIN
        laid = f"SELECT coalesce(last_archived_wal, '') >= '{segment}' FROM pg_stat_archiver"
        while sql(self.settings, laid, "postgres") != "t" or (self.settings.spool / segment).exists():
            if time.monotonic() > deadline:
                raise Refused(f"Segment {segment} has not been archived within {ARCHIVED_WITHIN} s")
            time.sleep(0.5)
        return segment

    def restore_dump_and_cluster(self) -> str:
        settings = self.settings
        # The dump goes in beside it.
        found = database.beside(settings, None, NAME, copies=2.1)
        backups = database.info(settings).get("backup", [])
        self.label = backups[-1]["label"] if backups else ""
        socket = database.scratch_socket(NAME)
        dump = self.target / str(settings.dump).lstrip("/")
        sql(settings, "CREATE DATABASE redoubt_dump TEMPLATE template0", "postgres", socket)
        # As postgres reads it: the folder is root's alone.
        with open(dump, "rb") as source:
            done = subprocess.run([*as_user("postgres"), str(settings.bin / "pg_restore"), "--exit-on-error", "--host", socket, "--dbname",
                                   "redoubt_dump"], stdin=source, capture_output=True, text=True, check=False, cwd="/")
        if done.returncode:
            raise Refused(f"The dump does not go in: {(done.stderr.strip().splitlines() or ['pg_restore said nothing'])[0]}")
        return f"{self.label} and the dump, {found['size'] // 1024} kB"

    def compare_rows(self) -> str:
        settings = self.settings
        wanted = self.manifest["database"]["rows"]
        found = json.loads(sql(settings, files.COUNTS, "redoubt_dump", database.scratch_socket(NAME)))
        wrong = [f"{name} has {found.get(name, 'no')} rows instead of {rows}" for name, rows in wanted.items() if found.get(name) != rows]
        if wrong:
            raise Refused(f"{len(wrong)} tables differ: {', '.join(wrong[:3])}")
        return f"{sum(wanted.values())} rows in {len(wanted)} tables"

    def find_canary(self) -> str:
        settings = self.settings
        wanted = self.manifest["database"]["canary"]
        found = sql(settings, f"SELECT count(*) FROM redoubt.canary WHERE word = '{wanted.split()[1]}'", settings.app, database.scratch_socket(NAME))
        if found != "1":
            raise Refused(f"The row of {wanted.split()[0]}, which the backup of the files has, is not in the restored database")
        newest = sql(settings, files.LAST_CANARY, settings.app, database.scratch_socket(NAME)).split()[0]
        age = time.time() - datetime.datetime.fromisoformat(newest).replace(tzinfo=datetime.UTC).timestamp()
        if age > settings.max_age_hours * 3600:
            raise Refused(f"The newest row of the canary is {age / 3600:.0f} hours old")
        return f"{newest} is there"

    def read_pages(self) -> str:
        settings = self.settings
        # Checksums are looked at when a page is read, and this reads all of them.
        call(["sh", "-c", f"'{settings.bin}/pg_dump' --host={database.scratch_socket(NAME)} --format=custom --compress=0 {settings.app} >/dev/null"],
             "The restored database cannot be read whole", user="postgres")
        return "no checksum is wrong"

    def check_migrations(self) -> str:
        settings = self.settings
        wanted = self.manifest["database"]["migrations"]
        found = json.loads(sql(settings, files.MIGRATIONS, settings.app, database.scratch_socket(NAME)) or "[]") if wanted else []
        missing = sorted(set(wanted) - set(found))
        if missing:
            raise Refused(f"{len(missing)} migrations are not in the restored database: {', '.join(missing[:3])}")
        live = Path(f"/srv/{settings.app}/live/release")
        if not settings.web or not live.exists():
            return f"{len(found)} applied, as listed; the code that could be asked is on another host"
        call([f"/usr/local/lib/redoubt/{settings.app}-run", "drill", live.resolve().name, f"{settings.manage} migrate --check"],
             "The live release does not fit the restored database (migrate --check)")
        return f"{len(found)} applied, and the live release asks for no more"

    def verify(self) -> str:
        told = call(database.pgbackrest(self.settings, "verify", "--output=text"), "The database's repository is damaged", user="postgres").splitlines()
        # Its exit says nothing. Its output, unless `--verbose`, is nothing but `status: error` and what is wrong.
        if "status: error" in told:
            wrong = [line.strip() for line in told[told.index("status: error") + 1:] if line.strip()]
            raise Refused(f"The database's repository is damaged: {'; '.join(wrong[:4]) or 'pgbackrest verify says why'}")
        return "every file of every backup has its checksum"

    def check_repository(self) -> str:
        # All of it in four weeks; what a restore reads was read above.
        part = datetime.datetime.now(datetime.UTC).isocalendar()[1] % 4 + 1
        with restic(self.settings) as command:
            call([*command, "check", f"--read-data-subset={part}/4"], "The files' repository is damaged")
        return f"whole, and part {part} of 4 was read"
