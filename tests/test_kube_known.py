"""Which event is news."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.kube import known as known_module
from extproc.kube.decoding import Meta
from extproc.kube.known import Known, newer
from extproc.kube.lines import Lines, LineTooLong


def meta(version: int | str, uid: str = "u1", name: str = "a") -> Meta:
    return Meta(name, "llm", uid, str(version))


def listed(*metas: Meta, version: int | str = 100) -> Known:
    known = Known(str(version))
    for each in metas:
        known.add(each)
    return known


@pytest.mark.parametrize(
    ("version", "than", "expected"),
    [
        ("10", "9", True),
        ("9", "10", False),
        ("9", "9", False),
        ("99999999999999999999999", "9", True),
        ("abc", "9", True),
        ("abc", "abc", False),
        ("1", "", True),
        ("9", "010", False),
        ("10", "009", True),
        ("007", "7", False),
        pytest.param("1" * 5000, "9", True, id="more digits than int takes"),
    ],
)
def test_versions_are_numbers_or_else_only_equal_or_not(version: str, than: str, expected: bool) -> None:
    assert newer(version, than) is expected


def test_a_change_is_news_once() -> None:
    known = listed(meta(90))
    assert [known.put(meta(101)), known.put(meta(101)), known.put(meta(102))] == [True, False, True]


def test_what_is_not_newer_than_the_list_was_in_it() -> None:
    known = listed()
    assert [known.put(meta(99)), known.put(meta(100)), known.put(meta(101))] == [False, False, True]


def test_a_late_change_does_not_resurrect_what_was_deleted() -> None:
    known = listed(meta(90))
    assert known.delete(meta(105)) is True
    assert [known.put(meta(104)), known.delete(meta(105)), len(known)] == [False, False, 0]


def test_a_deletion_that_comes_before_what_it_deletes_holds() -> None:
    known = listed()
    assert [known.delete(meta(105)), known.put(meta(104)), len(known)] == [False, False, 0]


def test_what_left_the_selector_may_come_back_with_its_uid() -> None:
    known = listed(meta(90))
    assert [known.delete(meta(105)), known.put(meta(106)), len(known)] == [True, True, 1]


def test_a_late_deletion_does_not_take_away_what_came_back() -> None:
    known = listed(meta(90))
    assert [known.put(meta(106)), known.delete(meta(105)), len(known)] == [True, False, 1]


def test_a_new_uid_replaces_and_nothing_of_the_old_one_counts_any_more() -> None:
    known = listed(meta(90, "old"))
    assert known.put(meta(107, "new")) is True
    assert [known.put(meta(106, "old")), len(known)] == [False, 1]
    assert [known.delete(meta(108, "new")), known.put(meta(106, "old")), len(known)] == [True, False, 0]
    assert [known.put(meta(109, "third")), known.delete(meta(107, "new")), len(known)] == [True, False, 1]


def test_deletions_are_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_module, "MAX_DELETED", 2)
    known = listed()
    for number in range(3):
        known.delete(meta(110 + number, f"u{number}", f"n{number}"))
    assert [known.put(meta(105, f"u{number}", f"n{number}")) for number in range(3)] == [True, False, False]


def test_the_place_to_go_on_from_only_moves_on() -> None:
    known = listed()
    versions = []
    for version in ("105", "103", "", "110"):
        known.reached(version)
        versions.append(known.version)
    assert versions == ["105", "105", "105", "110"]


@given(st.data())
def test_each_objects_last_state_wins_in_whatever_order_and_however_often_events_come(
    data: st.DataObject,
) -> None:
    alive: dict[str, Meta] = {}
    events: list[tuple[str, Meta]] = []
    for version in range(101, 101 + data.draw(st.integers(1, 20))):
        name = data.draw(st.sampled_from("abc"))
        if name in alive and data.draw(st.booleans()):
            gone = meta(version, alive.pop(name).uid, name)
            events.append(("DELETED", gone))
        else:
            alive[name] = meta(version, alive[name].uid if name in alive else f"{name}{version}", name)
            events.append(("MODIFIED", alive[name]))
    order = data.draw(st.permutations(events))
    repeated = data.draw(st.lists(st.sampled_from(events)))
    known, told = listed(), dict[str, Meta]()
    for type, each in [*order, *repeated]:
        if type == "MODIFIED" and known.put(each):
            told[each.name] = each
        elif type == "DELETED" and known.delete(each):
            told.pop(each.name)
    assert told == alive
    assert len(known) == len(alive)


@given(st.lists(st.binary(max_size=8)), st.data())
def test_lines_are_the_same_wherever_the_stream_is_split(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"\n".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    lines, found = Lines(100), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += lines.feed(stream[start:end])
    assert found == [line for line in stream.split(b"\n")[:-1] if line.strip()]


@pytest.mark.parametrize(
    ("before", "last"),
    [(b"", b"x" * 11), (b"x" * 6, b"x" * 5), (b"", b"a\n" + b"x" * 11 + b"\n"), (b"", b"a\n" + b"x" * 11)],
)
def test_a_line_that_is_too_long_is_not_kept(before: bytes, last: bytes) -> None:
    lines = Lines(10)
    lines.feed(before)
    with pytest.raises(LineTooLong, match=r"^a line of more than 10 bytes$"):
        lines.feed(last)
