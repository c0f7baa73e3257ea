"""Lines on their way to the journal."""

import io
import logging
import os

import pytest

from redoubt_guard.logs import JournalHandler


def record(level, text, exc=None):
    return logging.LogRecord("shop", level, __file__, 1, text, (), exc)


@pytest.fixture
def stream(tmp_path, monkeypatch):
    with open(tmp_path / "stream", "w+") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        yield file


@pytest.mark.parametrize(
    ("level", "mark"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (35, 4), (logging.INFO, 6), (logging.DEBUG, 7), (1, 7), (99, 2)],
)
def test_the_journal_gets_severities(stream, level, mark):
    JournalHandler(stream).emit(record(level, "text"))
    stream.seek(0)
    assert stream.read() == f"<{mark}>text\n"


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
