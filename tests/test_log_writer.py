"""The thread that writes log lines: to slow readers, to readers that are gone, to full disks."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from extproc import logs
from extproc.logs import LineWriter


class Drops:
    """How many lines were told to be dropped."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def read_all(descriptor: int, pause_s: float = 0.0) -> list[bytes]:
    """The lines, until nobody writes any more."""
    text = b""
    while piece := os.read(descriptor, 4096):
        text += piece
        time.sleep(pause_s)
    return text.splitlines()


def test_a_slow_reader_of_a_pipe_that_does_not_block_gets_every_line_whole() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)  # as whoever shares it may do, a Node.js program for one
    drops, read = Drops(), list[bytes]()
    reader = threading.Thread(target=lambda: read.extend(read_all(ours, 0.001)))
    reader.start()
    writer = LineWriter(theirs, drops)
    for number in range(3000):
        writer.line(json.dumps({"number": number, "padding": "x" * 200}))
    writer.close(20.0)
    os.close(theirs)
    reader.join()
    os.close(ours)
    assert [json.loads(line)["number"] for line in read] == list(range(3000))
    assert drops.count == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_lines_that_a_full_disk_does_not_take_are_counted() -> None:
    full, drops = os.open("/dev/full", os.O_WRONLY), Drops()
    writer = LineWriter(full, drops)
    for _ in range(100):
        writer.line("lost")
    writer.close()
    os.close(full)
    assert drops.count == 100


def test_lines_that_nobody_reads_any_more_are_counted() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    drops = Drops()
    writer = LineWriter(theirs, drops)
    writer.line("unread")
    writer.close()
    os.close(theirs)
    assert drops.count == 1


def test_after_half_a_line_on_a_disk_that_was_full_the_next_begins_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written, room, drops = bytearray(), [8], Drops()

    really_write = os.write

    def write(descriptor: int, data: memoryview) -> int:
        if descriptor != theirs:
            return really_write(descriptor, data)
        if not room[0]:
            raise OSError(28, "No space left on device")
        took = min(room[0], len(data))
        room[0] -= took
        written.extend(data[:took])
        return took

    ours, theirs = os.pipe()
    monkeypatch.setattr(os, "write", write)
    writer = LineWriter(theirs, drops)
    writer.line("first")
    writer.line("second")
    wait_until(lambda: drops.count == 1)
    room[0] = 1000
    writer.line("third")
    writer.close()
    os.close(ours)
    os.close(theirs)
    assert bytes(written).splitlines() == [b"first", b"se", b"third"]


def test_without_a_standard_error_lines_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    descriptor, drops = logs.standard_error(), Drops()
    writer = LineWriter(descriptor, drops)
    writer.line("unheard")
    writer.close()
    os.close(descriptor)
    assert drops.count == 0


def test_what_nobody_takes_in_time_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_PENDING", 10)
    ours, theirs = os.pipe()
    drops = Drops()
    writer = LineWriter(theirs, drops)
    lines = 100
    for _ in range(lines):
        writer.line("x" * 100_000)  # more than the pipe holds: the first is never written
    assert lines - drops.count in range(10, 21)  # those in the queue, and those that the thread has in hand
    os.close(ours)
    writer.close()
    os.close(theirs)


def wait_until(holds: Callable[[], bool]) -> None:
    """At most ten seconds."""
    deadline = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
