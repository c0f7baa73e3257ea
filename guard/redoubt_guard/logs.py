"""The project's log lines on their way to the journal."""

from __future__ import annotations

import logging
import os
import socket
import struct

# Syslog levels by Python's, highest first.
_LEVELS = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))

# The journal's own socket (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
JOURNAL = "/run/systemd/journal/socket"


def _level(record: logging.LogRecord) -> int:
    return next((mark for least, mark in _LEVELS if record.levelno >= least), 7)


class JournalHandler(logging.StreamHandler):
    """A StreamHandler whose lines carry their severity (`<3>`) when the stream leads to the journal.

    The journal takes the mark off and keeps it as PRIORITY. Every line of a message gets it, so that a traceback is an error to its
    end, and so that no logged text can choose a severity by starting a line of its own. On a terminal or in a file nothing changes.

    To the journal each line on a stream is an entry. A message of several lines goes over its socket instead, and is one.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Send `record` to where it is one entry."""
        try:
            if (record.exc_info or record.exc_text or record.stack_info or "\n" in record.getMessage()) and self._journal() and self._send(record):
                return
        except Exception:
            self.handleError(record)
            return
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """The message of `record`, marked where that is of use."""
        text = super().format(record)
        if not self._journal():
            return text
        return "\n".join(f"<{_level(record)}>{line}" for line in text.split("\n"))

    def _send(self, record: logging.LogRecord) -> bool:
        """Whether the journal has taken `record` over its socket. It takes no more than a datagram holds."""
        message = super().format(record).encode("utf-8", "backslashreplace")
        fields = f"PRIORITY={_level(record)}\nSYSLOG_IDENTIFIER={os.environ.get('REDOUBT_LOG_IDENTIFIER', 'python')}\n".encode()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sink:
                # As long as a write to the stream might wait, and no longer: the other way is still open.
                sink.settimeout(1)
                sink.sendto(fields + b"MESSAGE\n" + struct.pack("<Q", len(message)) + message + b"\n", JOURNAL)
        except OSError:
            return False
        return True

    def _journal(self) -> bool:
        """Whether the stream is the one that systemd has connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
        try:
            status = os.fstat(self.stream.fileno())
        except (AttributeError, OSError, ValueError):
            return False
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
