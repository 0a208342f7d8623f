"""Reading a config file: whatever is in it, the answer is a config or faults, and nothing is blown up by it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import config_file
from extproc.config import parse_config
from extproc.config.load import MAX_FILE_BYTES
from extproc.errors import ConfigError

POOL = "pools: [{name: a, endpoints: ['127.0.0.1:1']}]\n"
NAME_RULE = "1..253 letters, digits, '.', '_' and '-', with a letter or digit at both ends"


def faults(text: str | bytes) -> list[str]:
    """What is told of a faulty config."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text if isinstance(text, bytes) else text.encode("utf-8"))
    return [str(fault) for fault in caught.value.faults]


NOT_YAML: list[tuple[str | bytes, str]] = [
    (POOL + POOL, "line 2, column 1: key 'pools' stands twice"),
    ("pools: [{name: a, 'name': b, endpoints: []}]", "line 1, column 19: key 'name' stands twice"),
    (f"{'k' * 100}: 1\n{'k' * 100}: 1", f"line 2, column 1: key '{'k' * 57}...' stands twice"),
    ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", "line 2, column 13: key '<<' stands twice"),
    ("a: &a {x: 1}\nb: {<<: [*a, *a]}", "line 2, column 5: << takes one mapping"),
    ("? [a]\n: b", "line 1, column 3: a key must be a word"),
    ("? {a: b}\n: c", "line 1, column 3: a key must be a word"),
    ("a:\n\tb: c", "line 2, column 1: found character '\\t' that cannot start any token"),
    ("a: [1", "line 1, column 6: expected ',' or ']', but got '<stream end>'"),
    (POOL + "---\n" + POOL, "line 2, column 1: but found another document"),
    ("a: *b", "line 1, column 4: found undefined alias 'b'"),
    (
        "a: !!python/name:os.system x",
        "line 1, column 4: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
    ),
    ("a: !!bool x", "a value does not fit its tag (KeyError: 'x')"),
    ("a: !!int ''", "a value does not fit its tag (IndexError: string index out of range)"),
    ("a: 2026-02-31", "a value does not fit its tag (ValueError: day is out of range for month)"),
    (
        "a: !!timestamp x",
        "a value does not fit its tag (AttributeError: 'NoneType' object has no attribute 'groupdict')",
    ),
    ("[" * 20_000, "nested too deeply; a config needs less than ten levels"),
    ("- " * 20_000, "nested too deeply; a config needs less than ten levels"),
    ("{a: " * 20_000, "nested too deeply; a config needs less than ten levels"),
    (
        b"\x89PNG\r\n\x1a\n\0\0",
        'unacceptable character #x0089: invalid start byte in "<byte string>", position 0',
    ),
    (b"\xff\xfe\x00", 'unacceptable character #x0000: truncated data in "<byte string>", position 2'),
    (
        b"a: \0",
        'unacceptable character #x0000: special characters are not allowed in "<byte string>", position 3',
    ),
]


@pytest.mark.parametrize(("text", "told"), NOT_YAML, ids=range(len(NOT_YAML)))
def test_what_is_no_sound_yaml_is_one_fault_that_says_where(text: str | bytes, told: str) -> None:
    assert faults(text) == [f"$: not YAML: {told}"]


def test_references_that_multiply_do_not_fill_the_memory() -> None:
    """Ten levels of ten references each are 10^10 words when written out."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 11))
    told = faults("l0: &l0 x\n" + levels + "pools: [{name: *l10, endpoints: *l10, metrics: {path: *l10}}]")
    assert f"$.pools[0].name: expected {NAME_RULE}, got a list" in told


def test_a_value_that_contains_itself_is_a_fault() -> None:
    assert faults("pools: &a [*a]") == ["$.pools[0]: expected a mapping, got a list"]


def test_a_file_of_more_than_16_mib_is_refused_unread() -> None:
    told = [f"$: too long; at most {MAX_FILE_BYTES} bytes are allowed"]
    assert MAX_FILE_BYTES == 16 * 1024 * 1024
    assert faults(b"#" * (MAX_FILE_BYTES + 1)) == told


def test_a_file_is_never_read_further_than_16_mib() -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.load(Path("/dev/zero"))
    assert [str(f) for f in caught.value.faults] == [
        f"$: too long; at most {MAX_FILE_BYTES} bytes are allowed"
    ]


def test_a_file_comes_with_its_text(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(POOL)
    assert config_file.load(file) == (parse_config(POOL.encode()), POOL.encode())


@pytest.mark.parametrize(
    ("name", "told"),
    [("none", "No such file or directory"), (".", "Is a directory"), ("a\0", "embedded null byte")],
)
def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.load(tmp_path / name)
    assert [str(fault) for fault in caught.value.faults] == [f"$: cannot be read: {told}"]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["a", "vllm", "fresh"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "pools",
                    "models",
                    "name",
                    "endpoints",
                    "type",
                    "metrics",
                    "filters",
                    "targets",
                    "pool",
                    "profiles",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(VALUES)
def test_whatever_the_values_are_every_fault_is_told_on_one_line(value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(msgspec.json.encode({"x": value, "pools": value}))
    assert [str(fault) for fault in caught.value.faults if not re.fullmatch(r"\$.*: .+", str(fault))] == []


@given(
    st.binary(max_size=60) | st.text(alphabet="{}[]:,-?!&*<>|%@'\"#ab01 \n\t", max_size=60).map(str.encode)
)
def test_no_bytes_make_the_reader_fail_otherwise(text: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_config(text)
