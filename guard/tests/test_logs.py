"""Lines on their way to the journal."""

import io
import logging
import os
import socket

import pytest

from redoubt_guard import logs
from redoubt_guard.logs import JournalHandler


def record(level, text, exc=None):
    return logging.LogRecord("shop", level, __file__, 1, text, (), exc)


@pytest.fixture
def stream(tmp_path, monkeypatch):
    with open(tmp_path / "stream", "w+") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr(logs, "JOURNAL", str(tmp_path / "journal"))
        yield file


@pytest.mark.parametrize(
    ("level", "mark"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (35, 4), (logging.INFO, 6), (logging.DEBUG, 7), (1, 7), (99, 2)],
)
def test_the_journal_gets_severities(stream, level, mark):
    JournalHandler(stream).emit(record(level, "text"))
    stream.seek(0)
    assert stream.read() == f"<{mark}>text\n"


def raised(text):
    try:
        raise ValueError(text)
    except ValueError as error:
        return type(error), error, error.__traceback__


@pytest.fixture
def journal(stream, tmp_path, monkeypatch):
    monkeypatch.setenv("REDOUBT_LOG_IDENTIFIER", "shop-worker")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as found:
        found.bind(str(tmp_path / "journal"))
        found.settimeout(5)
        yield found


@pytest.mark.parametrize("text", ["first\n<0>second", "x" * 4096, "a\n\nPRIORITY=0\nMESSAGE=y", "half of one: \udcff"])
def test_a_traceback_is_one_entry(stream, journal, text):
    """Whatever its text is: its length is said beforehand."""
    JournalHandler(stream).emit(record(logging.ERROR, text, raised("x" * 4096)))
    entry = journal.recv(1 << 20)
    fields, length_and_message = entry.split(b"MESSAGE\n", 1)
    assert fields == b"PRIORITY=3\nSYSLOG_IDENTIFIER=shop-worker\n"
    length, message = int.from_bytes(length_and_message[:8], "little"), length_and_message[8:-1]
    assert (length, length_and_message[-1:]) == (len(message), b"\n")
    assert message == (text + "\n" + logging.Formatter().formatException(raised("x" * 4096))).encode("utf-8", "backslashreplace")
    stream.seek(0)
    assert stream.read() == ""


def test_one_line_stays_on_the_stream(stream, journal):
    JournalHandler(stream).emit(record(logging.INFO, "text"))
    journal.setblocking(False)
    with pytest.raises(BlockingIOError):
        journal.recv(1)
    stream.seek(0)
    assert stream.read() == "<6>text\n"


def test_what_no_datagram_holds_stays_on_the_stream(stream, journal):
    JournalHandler(stream).emit(record(logging.INFO, "long\n" * 1_000_000))
    stream.seek(0)
    assert stream.read() == "<6>long\n" * 1_000_000 + "<6>\n"


def test_every_line_gets_it(stream):
    """So that no text can choose one."""
    try:
        raise ValueError("x")
    except ValueError as error:
        exc = (type(error), error, error.__traceback__)
    JournalHandler(stream).emit(record(logging.ERROR, "first\n<0>second", exc))
    stream.seek(0)
    lines = stream.read().splitlines()
    assert lines[:2] == ["<3>first", "<3><0>second"]
    assert lines[-1] == "<3>ValueError: x"
    assert all(line.startswith("<3>") for line in lines)


def test_elsewhere_nothing_changes(stream, monkeypatch, tmp_path):
    memory = io.StringIO()
    JournalHandler(memory).emit(record(logging.ERROR, "text"))
    assert memory.getvalue() == "text\n"
    handler = JournalHandler(stream)
    monkeypatch.setenv("JOURNAL_STREAM", "1:1")
    handler.emit(record(logging.ERROR, "text"))
    monkeypatch.delenv("JOURNAL_STREAM")
    handler.emit(record(logging.ERROR, "text"))
    stream.seek(0)
    assert stream.read() == "text\ntext\n"
