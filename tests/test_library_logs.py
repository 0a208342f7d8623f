"""What libraries say becomes lines of our log, without what they say of requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from extproc import logs
from extproc.http_server import HttpServer
from extproc.library_logs import MAX_FRAMES, LibraryHandler, told_to

SECRET = "s3cret-token-of-prometheus"
HERE = "/".join(Path(__file__).parts[-3:])


class Log:
    """A log of ours, and its lines."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("wb")
        self._path = file
        self._writer = logs.LineWriter(self._file.fileno())
        self.log = logs.configure(self._writer, "info", "json")

    def close(self) -> None:
        self._writer.close()
        self._file.close()

    def text(self) -> str:
        """All of it; nothing is logged after that."""
        self.close()
        return self._path.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "log")
    yield made
    made.close()


@contextmanager
def logging_as(name: str) -> Iterator[logging.Logger]:
    yield logging.getLogger(name)
    logging.getLogger(name).setLevel(logging.NOTSET)


def fail(depth: int = 0) -> None:
    if depth:
        fail(depth - 1)
    raise ValueError(SECRET)


def test_a_record_is_one_line_with_where_it_comes_from_and_nothing_of_what_it_says(log: Log) -> None:
    with told_to(log.log), logging_as("some.library") as library:
        try:
            fail()
        except ValueError:
            library.exception("while reading %s", SECRET)
        library.warning("about\n%s", SECRET)
    text = log.text()
    failed, warned = map(json.loads, text.splitlines())
    assert SECRET not in text
    assert [place.rsplit(":", 1)[0] for place in failed["stack"]] == [HERE] * 2
    assert [place.split()[1] for place in failed["stack"]] == [
        "test_a_record_is_one_line_with_where_it_comes_from_and_nothing_of_what_it_says",
        "fail",
    ]
    assert _of_interest(failed) == ("error", "library_log", "some.library", "builtins.ValueError", 0)
    assert _of_interest(warned) == ("warning", "library_log", "some.library", None, 0)
    assert (warned["stack"], warned["where"].rsplit(":", 1)[0]) == ([], HERE)


def _of_interest(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["level"], line["event"], line["logger"], line["error"], line["unreported"]


def test_what_is_no_warning_is_not_told(log: Log) -> None:
    with told_to(log.log), logging_as("some.library") as library:
        library.setLevel(logging.DEBUG)
        library.debug("details")
        library.info("all is well")
    assert log.lines() == []


def test_of_a_kind_one_line_comes_a_second_and_says_how_many_there_were_between(log: Log) -> None:
    clock = [100.0]
    handler = LibraryHandler(log.log, lambda: clock[0])

    def tell(logger: str, level: int, error: type[Exception] | None) -> None:
        handler.handle(
            logging.LogRecord(
                logger, level, __file__, 1, "text", (), (error, error(), None) if error else None
            )
        )

    for clock[0] in (100.0, 100.5, 100.99, 101.0, 101.5):
        tell("a", logging.ERROR, ValueError)
    for logger, level, error in (
        ("b", logging.ERROR, ValueError),
        ("a", logging.WARNING, ValueError),
        ("a", logging.ERROR, KeyError),
        ("a", logging.CRITICAL, None),
    ):
        tell(logger, level, error)
    clock[0] = 200.0
    tell("a", logging.ERROR, ValueError)
    assert [_of_interest(line)[2:] for line in log.lines()] == [
        ("a", "builtins.ValueError", 0),
        ("a", "builtins.ValueError", 2),
        ("b", "builtins.ValueError", 0),
        ("a", "builtins.ValueError", 0),
        ("a", "builtins.KeyError", 0),
        ("a", None, 0),
        ("a", "builtins.ValueError", 1),
    ]


def test_of_a_deep_stack_the_innermost_places_are_told(log: Log) -> None:
    with told_to(log.log), logging_as("some.library") as library:
        try:
            fail(100)
        except ValueError:
            library.exception("deep")
    (line,) = log.lines()
    assert [place.split()[1] for place in line["stack"]] == ["fail"] * MAX_FRAMES


class Faulty:
    def __del__(self) -> None:
        raise ValueError(SECRET)


def test_warnings_and_exceptions_that_nobody_caught_are_told_like_records(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    with told_to(log.log), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(SECRET, RuntimeWarning, stacklevel=1)
        Faulty()  # is let go of here
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    text = log.text()
    assert [_of_interest(json.loads(line)) for line in text.splitlines()] == [
        ("warning", "library_log", "warnings", "builtins.RuntimeWarning", 0),
        ("error", "library_log", "unraisable", "builtins.ValueError", 0),
        ("error", "library_log", "threading", "builtins.ValueError", 0),
    ]
    assert (SECRET in text, capfd.readouterr().err) == (False, "")


def test_afterwards_all_is_as_it_was(log: Log) -> None:
    def hooks() -> tuple[Any, ...]:
        return (
            tuple(logging.getLogger().handlers),
            warnings.showwarning,
            sys.unraisablehook,
            threading.excepthook,
        )

    before = hooks()
    with contextlib.suppress(KeyError), told_to(log.log):
        during = hooks()
        raise KeyError
    assert ([old is new for old, new in zip(before, during, strict=True)], hooks()) == (
        [False] * len(before),
        before,
    )


@pytest.mark.parametrize(
    ("request_bytes", "error"),
    [
        (f"GET /metrics HTTP/1.1\r\nAuthorization: Bearer {SECRET}\x01\r\n\r\n", "BadHttpMessage"),
        (f"GET /metrics?token={SECRET}\xff HTTP/1.1\r\n\r\n", "InvalidURLError"),
        (f"GET /metrics HTTP/1.1\r\nX-Token: {SECRET * 500}\r\n\r\n", "LineTooLong"),
    ],
    ids=["header", "query", "length"],
)
async def test_a_malformed_request_to_the_http_port_leaves_a_line_without_anything_of_it(
    log: Log, request_bytes: str, error: str
) -> None:
    http = HttpServer(CollectorRegistry(), list, list, dict, lambda *_: [])
    with told_to(log.log):
        port = await http.start("127.0.0.1", 0)
        try:
            for _ in range(20):
                answer = await _answer(port, request_bytes.encode("latin-1"))
                assert answer.split(b"\r\n")[0] == b"HTTP/1.0 400 Bad Request"
        finally:
            await http.stop()
    text = log.text()
    first = json.loads(text.splitlines()[0])
    assert _of_interest(first) == (
        "error",
        "library_log",
        "aiohttp.server",
        f"aiohttp.http_exceptions.{error}",
        0,
    )
    assert SECRET not in text


async def _answer(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


def test_what_a_finalizer_raises_while_a_line_is_counted_blocks_nobody(tmp_path: Path) -> None:
    """The garbage collector may run one at any time, on the same thread."""
    log = Log(tmp_path / "log")
    raised = iter([True])

    def clock() -> float:
        if next(raised, False):
            handler.tell("unraisable", "", logging.ERROR, ZeroDivisionError)
        return 0.0

    handler = LibraryHandler(log.log, clock)
    telling = threading.Thread(target=handler.tell, args=("x", "x.py:1", logging.WARNING, None), daemon=True)
    telling.start()
    telling.join(5.0)
    assert [line["logger"] for line in log.lines()] == ["unraisable", "x"]
