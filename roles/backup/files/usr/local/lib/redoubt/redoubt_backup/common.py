"""What the parts share: the role's settings, commands that fail in one sentence, results on disk, restic."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

CONFIG = Path(os.environ.get("BACKUP_CONFIG", "/etc/redoubt/backup"))
# What is looked for at fixed places is below it: a folder, in tests.
ROOT = Path(os.environ.get("BACKUP_ROOT", "/"))


# Seconds.
DOOR_OPENS_WITHIN = 20


class Refused(Exception):
    """Something that an operator can act on, in one sentence."""


class Settings:
    """config.json, as the role wrote it."""

    def __init__(self) -> None:
        found = json.loads((CONFIG / "config.json").read_text())
        self.app: str = found["app"]
        self.host: str = found["host"]
        self.store: str = found["store"]
        self.repository: str = found["repository"]
        self.database: bool = found["database"]
        self.web: bool = found["web"]
        self.version: str = str(found["version"])
        self.paths: list[str] = found["paths"]
        self.exclude: list[str] = found["exclude"]
        self.media = Path(found["media"])
        self.data = Path(found["data"])
        self.state = Path(found["state"])
        self.pki = Path(found["pki"])
        self.manage: str = found["manage"]
        self.max_age_hours: int = found["max_age_hours"]
        self.drill_max_age_days: int = found["drill_max_age_days"]

    @property
    def work(self) -> Path:
        """What the backup writes before it sends it; the unit's StateDirectory."""
        return ROOT / "var/lib/redoubt-backup"

    @property
    def dump(self) -> Path:
        return self.work / f"{self.app}.dump"

    @property
    def manifest(self) -> Path:
        return self.work / "manifest.json"

    @property
    def roots(self) -> list[Path]:
        """Folders whose files are the application's data."""
        return [self.media, self.data] if self.web else []

    @property
    def bin(self) -> Path:
        return ROOT / f"usr/lib/postgresql/{self.version}/bin"

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-main.service"

    @property
    def cluster(self) -> Path:
        return ROOT / f"var/lib/postgresql/{self.version}/main"

    @property
    def spool(self) -> Path:
        """Segments of the log that are on their way."""
        return ROOT / "var/lib/postgresql/pgbackrest-spool"

    @property
    def scratch(self) -> Path:
        """Restores that stand beside the service, each in a folder of its name."""
        return ROOT / "var/lib/postgresql/redoubt-restored"

    @property
    def scratch_files(self) -> Path:
        return ROOT / "var/lib/redoubt-restored"


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """A time as `now` writes it, since the epoch."""
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC).timestamp()


def moment(text: str) -> datetime.datetime:
    """A time as an operator gives it; without a zone it is UTC."""
    try:
        found = datetime.datetime.fromisoformat(text.strip())
        # A day alone would be its midnight, and its zone would be taken for the hour: hardly what was meant.
        if not re.search(r"\d[T ]\d\d:\d", text):
            raise ValueError
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise Refused(f"{text!r} is no time: write it as 2026-11-20T02:15:00Z.") from None


def write(path: Path, value: object, mode: int = 0o644) -> None:
    """A result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_name(f".{path.name}.new")
    pending.unlink(missing_ok=True)
    with os.fdopen(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as sink:
        json.dump(value, sink, indent=1)
        sink.flush()
        os.fsync(sink.fileno())
    pending.rename(path)


def read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def room(folder: Path, needed: float, what: str) -> None:
    """Refuse what would not fit (bytes), with a tenth to spare for what grows meanwhile."""
    free = shutil.disk_usage(folder).free
    if free < needed * 1.1:
        raise Refused(f"Room for {needed / 1e9:.1f} GB of the {what} is needed, beside what is there, and {folder} has {free / 1e9:.1f} GB free: make room first.")


def reason(lines: list[str]) -> str:
    """What a program gave as the reason: the first of its lines that speaks of an error, without time and process."""
    told = [line for line in lines if any(word in line for word in ("ERROR", "FATAL", "PANIC", "Fatal", "error:"))] or lines[-1:] or ["it said nothing"]
    text = told[0].strip()
    for mark in ("ERROR:", "FATAL:", "PANIC:", "Fatal:"):
        if mark in text:
            return text.split(mark, 1)[1].strip()
    return text


def as_user(name: str) -> list[str]:
    """What stands before a command that root runs as somebody else. Not runuser, which notes a session each time.

    It ends with us: a restore that went on after we were killed would write into what has been put back meanwhile.
    """
    return ["setpriv", "--pdeathsig=KILL", f"--reuid={name}", f"--regid={name}", "--init-groups", "--"]


def call(command: list[str], failed: str, user: str = "", within: float | None = None) -> str:
    """Output of a command, run as somebody else where a user is named; a sentence that begins with `failed` where it fails, or takes more seconds."""
    if user and os.geteuid() == 0:
        command = [*as_user(user), *command]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL, cwd="/", timeout=within)
    except subprocess.TimeoutExpired:
        raise Refused(f"{failed}: no answer within {within:.0f} s.") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Refused(f"{failed}: {reason(said).rstrip('.')}.")
    return done.stdout


def sql(settings: Settings, statement: str, database: str, socket: str = "/run/postgresql", failed: str = "PostgreSQL does not answer") -> str:
    """As the administrator of a cluster."""
    return call([str(settings.bin / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", socket, "-d", database, "-c", statement], failed, user="postgres").strip()


def reach(settings: Settings, identity: Path) -> None:
    """Whether the repository's door opens: restic itself would go on knocking for a quarter of an hour."""
    address = urllib.parse.urlsplit(settings.repository.removeprefix("rest:"))
    try:
        context = ssl.create_default_context(cafile=settings.pki / "ca.pem")
        context.load_cert_chain(identity)
        connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=DOOR_OPENS_WITHIN, context=context)
        connection.request("GET", f"{address.path}config")
        answer = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Refused(f"{settings.store} cannot be reached for the files ({address.hostname} port {address.port}): {error}.") from None
    if answer not in (200, 404):
        raise Refused(f"{settings.store} does not let {settings.host} to its files: it answers {answer}, and its log (redoubt_backup_door) says more.")


@contextlib.contextmanager
def restic(settings: Settings) -> Iterator[list[str]]:
    """The beginning of a command of restic's: which repository, whom to trust, and who we are. Files of the host's key are ours alone."""
    with tempfile.TemporaryDirectory(prefix="redoubt-", dir=os.environ.get("RUNTIME_DIRECTORY", "/run")) as folder:
        identity = Path(folder) / "identity.pem"
        with os.fdopen(os.open(identity, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as sink:
            sink.write((settings.pki / "host.pem").read_text() + (settings.pki / "host.key").read_text())
        reach(settings, identity)
        yield ["restic", f"--repo={settings.repository}", f"--password-file={CONFIG / 'files.pass'}", f"--cacert={settings.pki / 'ca.pem'}",
               f"--tls-client-cert={identity}", "--quiet"]


def snapshots(settings: Settings, command: list[str], failed: str = "The backups of files cannot be read") -> list[dict]:
    """What this host has sent, the oldest first."""
    found = json.loads(call([*command, "snapshots", "--json", "--no-lock", f"--host={settings.host}"], failed) or "[]")
    return sorted(found or [], key=lambda snapshot: moment(snapshot["time"]))
