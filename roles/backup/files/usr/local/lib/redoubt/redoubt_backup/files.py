"""The nightly backup of a host's files, with a dump of its database made before: and how files come back."""

from __future__ import annotations

import contextlib
import datetime
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Self

from redoubt_backup.application import held
from redoubt_backup.common import ROOT, Refused, Settings, call, moment, now, read, reason, restic, room, snapshots, sql, write

# Every table that people or the application can have put rows into.
COUNTS = """
SELECT coalesce(json_object_agg(name, rows), '{}') FROM (
  SELECT format('%I.%I', n.nspname, c.relname) AS name,
    (xpath('/row/count/text()', query_to_xml(format('SELECT count(*) FROM %I.%I', n.nspname, c.relname), false, true, '')))[1]::text::bigint AS rows
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema') t
"""
MIGRATIONS = """
SELECT coalesce(json_agg(app || '.' || name ORDER BY app, name), '[]') FROM django_migrations
"""
HAS_MIGRATIONS = "SELECT to_regclass('django_migrations') IS NOT NULL"
# In a schema of its own, which the application's roles can neither write nor take for theirs.
CANARY = """
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS redoubt;
CREATE TABLE IF NOT EXISTS redoubt.canary (at timestamptz PRIMARY KEY DEFAULT clock_timestamp(), word text NOT NULL DEFAULT gen_random_uuid()::text);
INSERT INTO redoubt.canary DEFAULT VALUES;
DELETE FROM redoubt.canary WHERE at < now() - interval '90 days';
"""
# A line also where there is no row: who asks waits for one.
LAST_CANARY = """
SELECT coalesce((SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US') || ' ' || word FROM redoubt.canary ORDER BY at DESC LIMIT 1), '')
"""


def canary(settings: Settings) -> None:
    """A row that every backup has to have: what comes back without it is older than it says."""
    sql(settings, CANARY, settings.app, failed="The canary could not be written")


class Snapshot:
    """One view of the database for the dump and for what is counted beside it."""

    def __init__(self, settings: Settings, socket: str = "/run/postgresql") -> None:
        command = [str(settings.bin / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", socket, "-d", settings.app]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")

    def __enter__(self) -> Self:
        self.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
        self.name = self.ask("SELECT pg_export_snapshot()")
        return self

    def ask(self, statement: str) -> str:
        """One line of answer."""
        try:
            self.process.stdin.write(f"{' '.join(statement.split())};\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Refused(f"The database cannot be read: {reason((self.process.communicate()[1] or '').splitlines())}")
        return line.strip()

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def counted(view: Snapshot) -> dict:
    """What a restored database has to have."""
    found = {"rows": json.loads(view.ask(COUNTS)), "canary": view.ask(LAST_CANARY), "migrations": []}
    if not found["canary"]:
        raise Refused("redoubt.canary has no row, which `systemctl start redoubt-backup` writes before it sends anything.")
    if view.ask(HAS_MIGRATIONS) == "t":
        found["migrations"] = json.loads(view.ask(MIGRATIONS))
    return found


def dump(settings: Settings) -> dict:
    """A logical copy, first to a file that is read again: what cannot be listed is not sent. Not compressed: restic does, and finds what it has."""
    pending = settings.dump.with_suffix(".new")
    try:
        with Snapshot(settings) as view:
            call([str(settings.bin / "pg_dump"), "--format=custom", "--compress=0", f"--snapshot={view.name}", f"--file={pending}",
                  "--host=/run/postgresql", settings.app], "The database could not be dumped")
            found = counted(view)
        call([str(settings.bin / "pg_restore"), "--list", str(pending)], "The dump of the database cannot be read again")
        pending.rename(settings.dump)
    finally:
        # A disk that was full for it is not to stay so.
        pending.unlink(missing_ok=True)
    return {**found, "bytes": settings.dump.stat().st_size}


def hashed(path: Path) -> str:
    with open(path, "rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def listed(roots: list[Path], before: dict) -> dict:
    """Size, time and hash of every file below the folders. What has kept size, time and inode keeps its hash."""
    found = {}
    for root in roots:
        for folder, _, names in os.walk(root):
            for name in names:
                path = Path(folder) / name
                try:
                    status = path.lstat()
                    if not stat.S_ISREG(status.st_mode):
                        continue
                    was = before.get(str(path))
                    same = was and (was["size"], was["mtime"], was["inode"]) == (status.st_size, status.st_mtime_ns, status.st_ino)
                    found[str(path)] = {"size": status.st_size, "mtime": status.st_mtime_ns, "inode": status.st_ino,
                                        "sha256": was["sha256"] if same else hashed(path)}
                except FileNotFoundError:
                    continue  # removed meanwhile
    return found


def moved(files: dict) -> list[str]:
    """Files that are not as they were listed: removed or written since."""
    found = []
    for name, was in files.items():
        try:
            status = os.lstat(name)
        except FileNotFoundError:
            found.append(name)
            continue
        if (status.st_size, status.st_mtime_ns) != (was["size"], was["mtime"]):
            found.append(name)
    return found


def claim(settings: Settings) -> None:
    """From now on the repository is this host's to send to: it has restored what is in it, or is told to begin anew."""
    write(settings.state / "files-claimed.json", {"at": now()})


def refuse_another_life(settings: Settings, command: list[str]) -> None:
    """A host made new would send its emptiness as the newest backup of the host that it is to become again."""
    if (settings.work / "files.json").exists() or (settings.state / "files-claimed.json").exists():
        return
    found = snapshots(settings, command)
    if found:
        raise Refused(f"{settings.store} has files that an earlier {settings.host} sent, until {found[-1]['time'][:19]}: bring them back with restore.yml, or "
                      "begin anew with `backup.yml -e begin_anew=true`. Until then no files of this host are backed up.")


def back_up(settings: Settings) -> str:
    """Dump, list, send. What was sent is the newest snapshot, and files.json says what came of it."""
    started = now()
    manifest = {"app": settings.app, "host": settings.host, "at": started, "database": dump(settings) if settings.database else None}
    old = json.loads(settings.manifest.read_text())["files"] if settings.manifest.exists() else {}
    manifest["files"] = listed(settings.roots, old)
    write(settings.manifest, manifest, 0o600)
    with restic(settings) as command:
        opened = subprocess.run([*command, "cat", "config"], capture_output=True, text=True, check=False)
        if "wrong password" in opened.stderr:
            raise Refused(f"The repository on {settings.store} does not open: app_backup_files_pass is another than the one it was made with.")
        if opened.returncode:
            call([*command, "init"], f"The repository on {settings.store} could not be begun")
        refuse_another_life(settings, command)
        # Locks of a backup that was killed; those of one that runs stay.
        call([*command, "unlock"], "The repository stays locked")
        paths = sorted({path for pattern in [*settings.paths, str(settings.work)] for path in glob.glob(pattern)})
        told = call([*command, "backup", "--json", f"--host={settings.host}", "--tag=redoubt", "--one-file-system",
                     *(f"--exclude={pattern}" for pattern in [*settings.exclude, str(settings.work / "files.json")]), *paths],
                    f"The files were not sent to {settings.store}")
        summary = next((json.loads(line) for line in told.splitlines() if '"summary"' in line), {})
    write(settings.work / "files.json", {"started": started, "ended": now(), "snapshot": summary.get("snapshot_id", "")[:8],
                                         "files": len(manifest["files"]),
                                         # While it was sent: in the snapshot they may be as before, as after, or not at all.
                                         "moved": moved(manifest["files"]), "bytes": summary.get("total_bytes_processed", 0)})
    return f"sent {summary.get('snapshot_id', '')[:8]}: {summary.get('total_files_processed')} files, {summary.get('data_added')} new bytes"


# --- The way back ----------------------------------------------------------------------------------------------------


def chosen(settings: Settings, command: list[str], at: datetime.datetime | None) -> dict:
    """The newest snapshot, or the newest that was made until then."""
    found = snapshots(settings, command)
    if not found:
        raise Refused(f"{settings.store} has no backup of the files of {settings.host}.")
    # The date is the sender's word: one that is yet to come was sent by nobody honest, and would be the newest for ever.
    latest = at or datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    fitting = [snapshot for snapshot in found if moment(snapshot["time"]) <= latest]
    if not fitting:
        raise Refused(f"The oldest backup of files is of {found[0]['time'][:19]}, after {latest:%Y-%m-%d %H:%M:%S%z}: choose a later time.")
    return fitting[-1]


def size(manifest: dict, roots: list[Path] | None) -> int:
    """Bytes of all that was sent, as far as it is large; or of these folders alone."""
    files = sum(was["size"] for name, was in manifest["files"].items() if roots is None or any(Path(name).is_relative_to(root) for root in roots))
    return files + ((manifest["database"] or {}).get("bytes", 0) if roots is None else 0)


def fetch(settings: Settings, at: datetime.datetime | None, target: Path, only: list[Path] | None = None) -> dict:
    """Restore a snapshot, or these folders of it, into an empty folder; which one it was."""
    target.mkdir(parents=True, mode=0o700)
    with restic(settings) as command:
        snapshot = chosen(settings, command, at)
        manifest = call([*command, "dump", snapshot["id"], str(settings.manifest)],
                        f"Snapshot {snapshot['short_id']} of {snapshot['time'][:19]} has no list of its files, so it is none of redoubt-backup's: choose another time")
        room(target, size(json.loads(manifest), only), "files")
        call([*command, "restore", snapshot["id"], f"--target={target}", *(f"--include={path}" for path in only or [])],
             "The files were not restored")
    return snapshot


def put_back(pending: Path) -> None:
    """The folders from before, as far as they had been put aside: `placing.json` says where, of those that there were. Killed, it can be done again."""
    for name, aside in read(pending / "placing.json").items():
        root = Path(name)
        if Path(aside).exists() if aside else not (pending / name.lstrip("/")).exists():
            if root.exists():
                shutil.rmtree(root)
            if aside:
                Path(aside).rename(root)
    (pending / "placing.json").unlink(missing_ok=True)


def refuse_mounts(settings: Settings) -> None:
    """A rename would take a file system that is mounted below along, which is in no backup, and what removes the folder later would empty it."""
    # What a rename moves: the name, wherever its folder is.
    roots = [root.parent.resolve() / root.name for root in settings.roots]
    for line in os.fsdecode((ROOT / "proc/self/mountinfo").read_bytes()).splitlines():
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4]))
        if any(point.is_relative_to(root) for root in roots):
            raise Refused(f"{point} is a mounted file system, which cannot be put aside: restore beside it (`-e into=restored`) and copy.")


def put_in_place(settings: Settings, at: datetime.datetime | None) -> dict:
    """Uploads and data as they were: fetched beside what is there while the application runs, swapped while it stands still."""
    refuse_mounts(settings)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    pending = settings.media.parent / f".restoring-{stamp}"
    # Of a run that was killed.
    for path in settings.media.parent.glob(".restoring-*"):
        put_back(path)
        shutil.rmtree(path)
    try:
        snapshot = fetch(settings, at, pending, settings.roots)
        if not (pending / str(settings.media).lstrip("/")).is_dir():
            raise Refused(f"Snapshot {snapshot['short_id']} of {snapshot['time'][:19]} has no {settings.media}: choose another time, or restore beside "
                          "(`-e into=look`) and copy what it has.")
        with held(settings):
            aside = replace(settings, pending, stamp)
    finally:
        if not (pending / "placing.json").exists():
            shutil.rmtree(pending, ignore_errors=True)
    claim(settings)
    return {"snapshot": snapshot["short_id"], "of": snapshot["time"][:19], "aside": aside}


def adopt(found: Path, root: Path) -> None:
    """Give restored files to the accounts of this host: a new one numbers them otherwise."""
    was, is_ = found.stat(), root.stat() if root.exists() else found.stat()
    if (was.st_uid, was.st_gid) == (is_.st_uid, is_.st_gid):
        return
    for path in [found, *found.rglob("*")]:
        status = path.lstat()
        os.lchown(path, is_.st_uid if status.st_uid == was.st_uid else status.st_uid, is_.st_gid if status.st_gid == was.st_gid else status.st_gid)
        if not path.is_symlink():
            path.chmod(status.st_mode & 0o7777)


def replace(settings: Settings, pending: Path, stamp: str) -> list[str]:
    """Swap each folder with the restored one; all of them or none. Where those from before are: under a name of their own, for nobody else has them."""
    placed = {root: root.with_name(f"{root.name}.before-restore-{stamp}") if root.exists() else None
              for root in settings.roots if (pending / str(root).lstrip("/")).is_dir()}
    try:
        for root, aside in placed.items():
            adopt(pending / str(root).lstrip("/"), root)
            # What is there already would be taken for the folder from before.
            if aside and aside.exists():
                raise FileExistsError(f"{aside} is there already")
        write(pending / "placing.json", {str(root): str(aside or "") for root, aside in placed.items()})
        for root, aside in placed.items():
            if aside:
                root.rename(aside)
            (pending / str(root).lstrip("/")).rename(root)
        (pending / "placing.json").unlink()
    except OSError as error:
        put_back(pending)
        raise Refused(f"The files were not put in place, and those from before are back: {error}.") from error
    return [str(aside) for aside in placed.values() if aside]


def compared(manifest: dict, target: Path, moved: list[str]) -> list[str]:
    """Which files of the manifest a restored folder does not have as it says, those aside that were moving while they were sent."""
    wrong, left_out = [], set(moved)
    for name, was in manifest["files"].items():
        path = target / name.lstrip("/")
        if name in left_out:
            continue
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != was["size"] or hashed(path) != was["sha256"]:
            wrong.append(f"{name} has other content")
    return wrong
