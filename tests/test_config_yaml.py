"""Reading a config file: whatever is in it, the answer is a config or faults, and nothing is blown up by it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc import config_file, strict_yaml
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
    ("[" * 20_000, "line 1, column 65: nested too deeply; a config needs less than ten levels"),
    ("- " * 20_000, "line 1, column 129: nested too deeply; a config needs less than ten levels"),
    ("{a: " * 20_000, "line 1, column 257: nested too deeply; a config needs less than ten levels"),
    ("pools: &a [*a]", "line 1, column 12: an alias inside of what it stands for"),
    ("a: &a {b: {<<: *a}}", "line 1, column 16: an alias inside of what it stands for"),
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


def test_references_that_multiply_are_refused() -> None:
    """Ten levels of ten references each are 10^10 words when written out."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 11))
    assert faults("l0: &l0 x\n" + levels) == ["$: not YAML: line 5, column 45: aliases make too much of it"]


def test_references_that_multiply_in_the_shape_of_a_config_are_refused() -> None:
    """Each level alone is what a config may have; together they are a million labels in 4 KB."""
    labels = "{" + ", ".join(f"a{n}: 1" for n in range(100)) + "}"
    endpoints = f"[&e {{address: '1.1.1.1:1', labels: {labels}}}{', *e' * 100}]"
    told = faults(f"pools:\n- &p {{name: p, endpoints: {endpoints}}}\n" + "- *p\n" * 100)
    assert told == ["$: not YAML: line 2, column 1091: aliases make too much of it"]


def test_what_many_models_share_may_be_written_once() -> None:
    shared = "targets: [{model: a, weight: 1, labels: {version: v1}}, {model: b, weight: 1}]"
    models = "".join(f"- {{name: m{n}, pool: a, <<: *shared}}\n" for n in range(700))
    first = f"models:\n- &shared {{name: shared, pool: a, {shared}}}\n"
    config = parse_config((POOL + first + models).encode())
    assert [target.model for target in config.models[-1].effective_targets] == ["a", "b"]


def test_an_alias_of_one_document_is_not_one_of_the_next() -> None:
    two = strict_yaml.parse_all(b"a: &x [1, 2]\nb: *x\n---\nc: &x 1\nd: *x\n")
    assert two == [{"a": [1, 2], "b": [1, 2]}, {"c": 1, "d": 1}]
    with pytest.raises(ConfigError, match="line 3, column 8: an alias inside of what it stands for"):
        strict_yaml.parse_all(b"a: &x [1, 2]\n---\nc: &x [*x]\n")


@pytest.mark.parametrize("key", ["~", "null"])
def test_a_key_that_says_nothing_is_unknown_wherever_it_stands(key: str) -> None:
    endpoint = "address: 127.0.0.1:1, " + key + ": 1"
    told = faults(
        "pools: [{name: a, endpoints: [{" + endpoint + "}], metrics: {" + key + ": 1}}]\n" + key + ": 1"
    )
    allowed = "allowed: address, labels, max_in_flight, cordoned"
    assert f"$.pools[0].endpoints[0].nothing: unknown key; {allowed}" in told
    assert [fault.partition(":")[0] for fault in told] == [
        "$.nothing",
        "$.pools[0].endpoints[0].nothing",
        "$.pools[0].metrics.nothing",
    ]


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
    with suppress(ConfigError):  # some are a config: hypothesis tries literals of the code, too
        parse_config(text)
