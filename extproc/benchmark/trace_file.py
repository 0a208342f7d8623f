"""The calls of a trace: CSV or JSON lines.

A line is a request.  Columns or keys (upper or lower case, with or without spaces and underscores; others are not
looked at; the alternatives are those of the traces of Azure, Mooncake and BurstGPT, which work as they are):

| name | alternatives | |
|---|---|---|
| `timestamp` | | seconds, or ISO 8601; milliseconds where the lines have `hash_ids` and `input_length`, as Mooncake's |
| `prompt_tokens` | `input_length`, `ContextTokens`, `request_tokens`, `input_tokens` | 1 or more |
| `output_tokens` | `output_length`, `GeneratedTokens`, `response_tokens` | 1 or more |
| `hash_ids` | | optional; the prompt's contents, an integer for each 512 tokens: a list, or text with spaces |
| `session`, `tenant`, `lora` | | optional text |
| `priority` | | optional: Critical, Standard, Sheddable, or an integer |
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from extproc.benchmark.workload import BLOCK_TOKENS, Call

HASH_TOKENS = 512
"""Tokens of Mooncake's blocks."""
_ALIASES = {
    "timestamp": "timestamp",
    "prompttokens": "prompt_tokens",
    "inputlength": "prompt_tokens",
    "inputtokens": "prompt_tokens",
    "contexttokens": "prompt_tokens",
    "requesttokens": "prompt_tokens",
    "outputtokens": "output_tokens",
    "outputlength": "output_tokens",
    "generatedtokens": "output_tokens",
    "responsetokens": "output_tokens",
    "hashids": "hash_ids",
    "session": "session",
    "sessionid": "session",
    "tenant": "tenant",
    "lora": "lora",
    "priority": "priority",
}
_NEEDED = ("timestamp", "prompt_tokens", "output_tokens")
_NUMBER = re.compile(r"\d{1,15}\.0*")
_PRIORITIES = {"critical": 1, "standard": 0, "sheddable": -1}


class TraceError(ValueError):
    """What is wrong with a trace, as `FILE:LINE: what is wrong and what is allowed`."""


class _Fault(ValueError):
    """A fault of one line, to which its reader adds the place."""


def read_trace(path: Path) -> list[Call]:
    """The calls of a file by time, the first at 0.  Raises TraceError, OSError."""
    calls: list[Call] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            for line, row in _rows(path, lines):
                try:
                    calls.append(_call(_known(row), mooncake="input_length" in row and "hash_ids" in row))
                except _Fault as fault:
                    raise TraceError(f"{path}:{line}: {fault}") from None
    except UnicodeDecodeError:
        raise TraceError(f"{path}: not UTF-8 text") from None
    if not calls:
        raise TraceError(f"{path}: no requests in it")
    calls.sort(key=lambda call: call.at_s)
    first = calls[0].at_s
    return [msgspec.structs.replace(call, at_s=call.at_s - first) for call in calls]


def _rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers from 1 and what stands there by name; JSON where the first line begins with a brace."""
    for blank, head in enumerate(lines):
        if head.lstrip().startswith("{"):
            yield from _json_rows(path, chain((head,), lines), blank + 1)
            return
        if head.strip():
            yield from _csv_rows(path, chain((head,), lines), blank)
            return


def _csv_rows(path: Path, lines: Iterator[str], before: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.reader(lines)
    try:
        names = next(reader)
        missing = [name for name in _NEEDED if name not in {_canonical(column) for column in names}]
        if missing:
            raise TraceError(
                f"{path}:{before + 1}: no column {' or '.join(missing)}; the columns are {', '.join(names)}"
            )
        for cells in reader:
            number = before + reader.line_num
            if cells and len(cells) != len(names):
                raise TraceError(f"{path}:{number}: {len(cells)} cells, but the head line has {len(names)}")
            if cells:
                yield number, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise TraceError(f"{path}:{before + reader.line_num}: {error}") from None


def _json_rows(path: Path, lines: Iterator[str], first: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        try:
            yield number, decoder.decode(line)
        except (msgspec.DecodeError, RecursionError):
            raise TraceError(f"{path}:{number}: not a JSON object on a line of its own") from None


def _canonical(name: str) -> str | None:
    return _ALIASES.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """By canonical names, without empty cells."""
    return {
        known: value
        for name, value in row.items()
        if (known := _canonical(name)) is not None and value not in ("", None)
    }


def _call(values: Mapping[str, Any], *, mooncake: bool) -> Call:
    missing = [name for name in _NEEDED if name not in values]
    if missing:
        raise _Fault(f"no {' and no '.join(missing)}")
    prompt = _tokens(values, "prompt_tokens")
    return Call(
        at_s=_seconds(values["timestamp"], milliseconds=mooncake),
        prompt_tokens=prompt,
        output_tokens=_tokens(values, "output_tokens"),
        blocks=_blocks(values.get("hash_ids", ()), prompt),
        session=_text(values, "session"),
        tenant=_text(values, "tenant"),
        lora=_text(values, "lora") or None,
        priority=_priority(values.get("priority", 0)),
    )


def _seconds(value: Any, *, milliseconds: bool) -> float:
    try:
        seconds = float(value) / (1000 if milliseconds else 1)
    except (TypeError, ValueError, OverflowError):
        seconds = _iso_seconds(value)
    if not math.isfinite(seconds):
        raise _Fault(f"timestamp is {value}, not a finite number")
    return seconds


def _iso_seconds(value: Any) -> float:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _Fault(f"timestamp is {value!r}, neither seconds nor ISO 8601") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _tokens(values: Mapping[str, Any], name: str) -> int:
    count = _integer(values[name])
    if count is None or count < 1:
        raise _Fault(f"{name} is {values[name]!r}, not an integer of 1 or more")
    return count


def _integer(value: Any) -> int | None:
    """Also of text, and of numbers like 12.0, which some tools write."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    try:
        return int(value)
    except (TypeError, ValueError):
        return _integer(float(value)) if isinstance(value, str) and _NUMBER.fullmatch(value) else None


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Fault(f"{name} is {value!r}, not text")
    return str(value)


def _priority(value: Any) -> int:
    if isinstance(value, str) and value.strip().lower() in _PRIORITIES:
        return _PRIORITIES[value.strip().lower()]
    number = _integer(value)
    if number is None:
        raise _Fault(f"priority is {value!r}, not Critical, Standard, Sheddable or an integer")
    return number


def _blocks(value: Any, prompt_tokens: int) -> tuple[range, ...]:
    """Full blocks of the prompt; neighbours are joined."""
    ids = re.findall(r"[^\s,;\[\]]+", value) if isinstance(value, str) else value
    if not isinstance(ids, list | tuple):
        raise _Fault(f"hash_ids is {value!r}, not a list of integers")
    each = HASH_TOKENS // BLOCK_TOKENS
    pieces: list[range] = []
    left = prompt_tokens // BLOCK_TOKENS
    for item in ids:
        number = _integer(item)
        if number is None or number < 0:
            raise _Fault(f"hash_ids has {item!r}, not an integer of 0 or more")
        count = min(each, left)
        left -= count
        start = number * each
        if count and pieces and pieces[-1].stop == start:
            pieces[-1] = range(pieces[-1].start, start + count)
        elif count:
            pieces.append(range(start, start + count))
    return tuple(pieces)
