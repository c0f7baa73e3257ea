"""The files of the store: `<host>/<UTC day of arrival>.jsonl`, earlier days as `.jsonl.gz`.

A day that is compressed is closed: where a clock was wrong, what comes for it is filed under the next that is not. So where both files of a day are
there, the one has just become the other.
"""

from __future__ import annotations

import datetime
import fcntl
import gzip
import os
import re
import shutil
from pathlib import Path

DAY = re.compile(r"(\d{4}-\d\d-\d\d)\.jsonl(\.gz)?")


class Store:
    """Where one host's records are written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.day = ""
        self.file = -1

    def write(self, lines: bytes, now: datetime.datetime) -> None:
        """Append whole lines; they are on the disk afterwards, or none of them is and an OSError says why."""
        day = now.strftime("%Y-%m-%d")
        if day != self.day or self.file < 0:
            self.open(day)
        end = os.lseek(self.file, 0, os.SEEK_END)
        try:
            left = memoryview(lines)
            while left:
                left = left[os.write(self.file, left) :]
            os.fdatasync(self.file)
        except OSError:
            # A full disk takes the beginning of a line; the host sends all of it again.
            os.ftruncate(self.file, end)
            raise

    def open(self, day: str) -> None:
        self.close()
        self.folder.mkdir(mode=0o750, exist_ok=True)
        file = self.unclosed(day)
        # A server that was killed may have left the beginning of a line, which it never acknowledged.
        end = os.lseek(file, 0, os.SEEK_END)
        os.ftruncate(file, whole(file, end))
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.file, self.day = file, day

    def unclosed(self, day: str) -> int:
        """The file of a day, or of the first after it that is not compressed; it will not be as long as it is open here."""
        while True:
            while (self.folder / f"{day}.jsonl.gz").exists():
                day = (datetime.date.fromisoformat(day) + datetime.timedelta(1)).isoformat()
            file = os.open(self.folder / f"{day}.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file).st_nlink:
                return file
            # It was just being compressed.
            os.close(file)

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
        self.file, self.day = -1, ""


def hosts(root: Path) -> list[Path]:
    """The folders of the hosts. On a file system of its own the store has one that is root's."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path.name != "lost+found")


def room(root: Path, percent: float) -> tuple[dict[str, int], int]:
    """Bytes that the logs of each host take, and how many those of one may take: so much of what all of them take and what is free."""
    taken = {folder.name: sum(path.stat().st_blocks * 512 for path in folder.iterdir()) for folder in hosts(root)}
    disk = os.statvfs(root)
    return taken, int((sum(taken.values()) + disk.f_bavail * disk.f_frsize) * percent / 100)


def whole(file: int, end: int) -> int:
    """Where the last whole line ends."""
    step = 1 << 16
    while end > 0:
        start = max(0, end - step)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def compress(path: Path) -> bool:
    """Compress a day, unless it is open. Where a crash has left both files, the second comes behind the first: copies are better than a loss."""
    packed = path.with_name(f"{path.name}.gz")
    fresh = path.with_name(f"{path.name}.gz.new")
    with path.open("rb") as source, fresh.open("wb") as sink:
        try:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fresh.unlink()
            return False
        os.fchmod(sink.fileno(), 0o640)
        if packed.exists():
            with packed.open("rb") as before:
                shutil.copyfileobj(before, sink, 1 << 20)
        with gzip.GzipFile(filename="", fileobj=sink, mode="wb", compresslevel=6, mtime=0) as member:
            shutil.copyfileobj(source, member, 1 << 20)
        sink.flush()
        # When a host has last said something is when its files were last written.
        os.utime(sink.fileno(), ns=(os.fstat(source.fileno()).st_mtime_ns,) * 2)
        os.fsync(sink.fileno())
        fresh.rename(packed)
        path.unlink()
    return True


def keep(root: Path, days: int, today: datetime.date) -> list[str]:
    """Remove days that are too old, and compress those before yesterday; what was done, in sentences.

    A day is too old when so many days with records came after it, and not only by the clock: one that is wrong removes nothing. Yesterday's file may
    still be written to, by a connection that began a write before midnight: it is left alone for a day.
    """
    done = []
    found = [(path, match[1], bool(match[2])) for folder in hosts(root) for path in sorted(folder.iterdir())
             if (match := DAY.fullmatch(path.name)) and not path.is_symlink()]
    known = sorted({day for _, day, _ in found})
    for path, day, packed in found:
        age = (today - datetime.date.fromisoformat(day)).days
        if age > days and len(known) - known.index(day) > days:
            path.unlink()
            done.append(f"Removed {path.parent.name}/{path.name}.")
        elif age > 1 and not packed:
            path.with_name(f"{path.name}.gz.new").unlink(missing_ok=True)
    # What needs room comes after what gives some.
    for path, day, packed in found:
        if (today - datetime.date.fromisoformat(day)).days > 1 and not packed and path.exists() and compress(path):
            done.append(f"Compressed {path.parent.name}/{path.name}.")
    return done
