"""Sends the store on to an outside collector: syslog over TLS (RFC 5425), each record as the message of a line of RFC 5424.

That protocol acknowledges nothing. What was sent in the last seconds before a connection broke is sent again, and so is what was sent in the last
seconds before a stop: a record may come twice.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import json
import re
import socket
import ssl
import time
import zlib
from pathlib import Path

from .records import LEVELS
from .store import DAY, hosts

# Bytes that are read at once: more than any record has.
READ = 256 << 10
# Seconds after which what was sent counts as arrived.
SETTLED = 10
SILENCE = 30
PAUSES = (1, 2, 5, 10, 30)
# Up to where each day of a host has been sent: an offset, or None where all of a day was that is compressed. Of those the last is named: what is
# compressed and of an earlier day was sent before.
Position = dict[str, int | None]


class Forwarder:
    def __init__(self, root: Path, state: Path, target: dict) -> None:
        self.root, self.state, self.target = root, state, target
        self.said = ""
        try:
            # It was one day and its offset before.
            self.settled = {host: dict(found if isinstance(found, dict) else [found]) for host, found in json.loads(state.read_text()).items()}
        except (OSError, ValueError):
            # The first start: from now on.
            self.settled = {host.name: pruned({day: None if packed else (host / f"{day}.jsonl").stat().st_size for day, packed in days(host).items()})
                            for host in hosts(root)}
            self.save()
        self.positions = dict(self.settled)
        # Of each host the compressed day that is being read: where it is, what was read of it last and from where, and the rest of it, if there is more.
        self.open: dict[str, tuple[Path, int, bytes, gzip.GzipFile | None]] = {}
        self.sent: collections.deque[tuple[float, dict[str, Position]]] = collections.deque()

    def save(self) -> None:
        fresh = self.state.with_suffix(".new")
        fresh.write_text(json.dumps(self.settled))
        fresh.rename(self.state)

    def run(self) -> None:
        failures = 0
        while True:
            try:
                with self.connect() as connection:
                    self.say(f"Connected to {self.target['host']}.")
                    failures = 0
                    self.deliver(connection)
            except OSError as error:
                # Who proves to be somebody else does not become the collector by waiting.
                self.say(f"<{2 if isinstance(error, ssl.SSLCertVerificationError) else 4}>Nothing is sent on: {error}.")
            # Nobody knows what of this has arrived.
            self.positions = dict(self.settled)
            self.sent.clear()
            time.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
            failures += 1

    def say(self, text: str) -> None:
        if text != self.said:
            print(text, flush=True)
        self.said = text

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.target["ca"] or None)
        plain = socket.create_connection((self.target["host"], self.target["port"]), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE * 1000)
        found = context.wrap_socket(plain, server_hostname=self.target["host"])
        found.settimeout(SILENCE)
        return found

    def deliver(self, connection: ssl.SSLSocket) -> None:
        while True:
            busy = False
            for host in hosts(self.root):
                messages = self.next(host)
                if messages:
                    connection.sendall(b"".join(messages))
                    busy = True
            now = time.monotonic()
            if not self.sent or now - self.sent[-1][0] >= 1:
                self.sent.append((now, dict(self.positions)))
            if now - self.sent[0][0] >= SETTLED:
                self.settled = self.sent.popleft()[1]
                self.save()
            if not busy:
                self.heard(connection)

    @staticmethod
    def heard(connection: ssl.SSLSocket) -> None:
        """Wait a moment; a collector has nothing to say but that it hangs up."""
        connection.settimeout(0.5)
        try:
            with contextlib.suppress(TimeoutError):
                if not connection.recv(4096):
                    raise ConnectionError("closed by the collector")
        finally:
            connection.settimeout(SILENCE)

    def next(self, host: Path) -> list[bytes]:
        """A host's next records that are whole: the oldest first, but whatever day they are of, since the clock may have been wrong."""
        found = days(host)
        sent = {day: offset for day, offset in self.positions.get(host.name, {}).items() if offset is None or day in found}
        last = max((day for day, offset in sent.items() if offset is None), default=min(sent, default=""))
        messages: list[bytes] = []
        for day, packed in found.items():
            offset = sent.get(day, None if packed and day < last else 0)
            if offset is None:
                continue
            data = self.read(host, day, offset)
            # More than a record without an end is damaged.
            end = data.rfind(b"\n") + 1 or len(data) // READ * READ
            sent[day] = offset + end if end or not packed else None
            if end:
                lines = data[:end].splitlines()
                messages = [message for line in lines if (message := framed(line))]
                if left := len(lines) - len(messages):
                    self.say(f"<4>{left} damaged {'line' if left == 1 else 'lines'} of {host.name}/{day}.jsonl left out of what is sent on.")
                break
        self.positions[host.name] = pruned(sent)
        return messages

    def read(self, host: Path, day: str, offset: int) -> bytes:
        """Part of a day, whether it is compressed or not: it may become so at any moment."""
        for _ in range(2):
            with contextlib.suppress(FileNotFoundError), (host / f"{day}.jsonl").open("rb") as source:
                source.seek(offset)
                return source.read(READ)
            with contextlib.suppress(FileNotFoundError):
                return self.unpacked(host / f"{day}.jsonl.gz", offset)
        return b""

    def unpacked(self, path: Path, offset: int) -> bytes:
        """Part of a compressed day. It stays open, since to seek in it is to read all that is before."""
        known, start, data, source = self.open.pop(path.parent.name, (None, 0, b"", None))
        try:
            if known == path and start <= offset <= start + len(data):
                data = data[offset - start :]
            else:
                if source:
                    source.close()
                data, source = b"", gzip.open(path, "rb")  # noqa: SIM115 (the next call reads on)
                source.seek(offset)
            while source and len(data) < READ:
                if piece := source.read1(READ - len(data)):
                    data += piece
                else:
                    source = source.close()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.say(f"<4>{path.parent.name}/{path.name} could not be read to its end ({error}): what came before is sent on.")
            source = source.close()
        self.open[path.parent.name] = (path, offset, data, source)
        return data


def days(host: Path) -> dict[str, bool]:
    """The days of a host in their order, and whether each is compressed."""
    found: dict[str, bool] = {}
    for path in host.iterdir():
        if match := DAY.fullmatch(path.name):
            found[match[1]] = bool(match[2]) and found.get(match[1], True)
    return dict(sorted(found.items()))


def pruned(sent: Position) -> Position:
    """Of the days that are compressed and sent, only the last."""
    last = max((day for day, offset in sent.items() if offset is None), default="")
    return {day: offset for day, offset in sent.items() if offset is not None or day == last}


def framed(line: bytes) -> bytes:
    """A record as it is sent; nothing where it is damaged. A power cut leaves zeros before the line that comes next."""
    line = line.strip(b"\0")
    try:
        record = json.loads(line)
        level = record.get("log.level")
        priority = 8 + (LEVELS.index(level) if level in LEVELS else 6)
        name = re.sub("[^!-~]", "_", record.get("service.name") or "-")[:48]
        message = b"<%d>1 %s %s %s %s - - %s" % (priority, record["@timestamp"].encode(), record["host.name"].encode(), name.encode(),
                                                 str(record.get("process.pid") or "-").encode(), line)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return b""
    return b"%d %s" % (len(message), message)
