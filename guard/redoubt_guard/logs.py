"""The project's log lines on their way to the journal."""

from __future__ import annotations

import logging
import os

# Syslog levels by Python's, highest first.
_LEVELS = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


class JournalHandler(logging.StreamHandler):
    """A StreamHandler whose lines carry their severity (`<3>`) when the stream leads to the journal.

    The journal takes the mark off and keeps it as PRIORITY. Every line of a message gets it, so that a traceback is an error to its
    end, and so that no logged text can choose a severity by starting a line of its own. On a terminal or in a file nothing changes.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The message of `record`, marked where that is of use."""
        text = super().format(record)
        if not self._journal():
            return text
        level = next((mark for least, mark in _LEVELS if record.levelno >= least), 7)
        return "\n".join(f"<{level}>{line}" for line in text.split("\n"))

    def _journal(self) -> bool:
        """Whether the stream is the one that systemd has connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
        try:
            status = os.fstat(self.stream.fileno())
        except (AttributeError, OSError, ValueError):
            return False
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
