"""Memory that a body leaves is kept for the next one; a large one's is the kernel's again."""

import resource
import subprocess
import sys

import pytest

from extproc.allocator import APART_BYTES, ARENAS, KEPT_BYTES, give_back, keep_freed_memory
from extproc.budget import BURST_BYTES, BodyBudget

ROUNDS = 50
COPIES = 4
"""Of a body, while it is received, read, rewritten and sent."""
USUAL_BYTES = 220_000
PAGE_BYTES = resource.getpagesize()

FAULTS = f"""
import os, resource, sys
from extproc.allocator import keep_freed_memory
size = int(sys.argv[1])
told = keep_freed_memory({{}}) if sys.argv[2] == "told" else None
bytes(size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    [bytearray(b"x") * size for _ in range({COPIES})]
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(size: int, told: str) -> tuple[str, int]:
    """(what `keep_freed_memory` answered, page faults of ROUNDS times COPIES blocks of *size* bytes)."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, str(size), told],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    answer, count = run.stdout.split()
    return answer, int(count)


@pytest.fixture(autouse=True)
def _glibc_only():
    if sys.platform != "linux" or faults(1, "told")[0] != "True":
        pytest.skip("glibc only")


def test_what_a_usual_body_leaves_is_used_for_the_next_one():
    told, count = faults(USUAL_BYTES, "told")
    assert told == "True"
    assert count <= 2 * COPIES * USUAL_BYTES // PAGE_BYTES
    assert faults(USUAL_BYTES, "untold")[1] > 10 * count


def test_what_a_large_one_leaves_is_given_back_each_time():
    _, count = faults(2 * APART_BYTES, "told")
    assert count >= ROUNDS * COPIES * 2 * APART_BYTES // PAGE_BYTES


@pytest.mark.parametrize(
    "name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"]
)
def test_what_the_operator_says_of_memory_stands(name):
    assert keep_freed_memory({"PATH": "/bin", name: "1"}) is False


class Libc:
    """One whose mallopt takes all but *refused*."""

    def __init__(self, refused: int | None = None) -> None:
        self._refused = refused
        self.told: dict[int, int] = {}

    def mallopt(self, name: int, value: int) -> int:
        self.told[name] = value
        return int(name != self._refused)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""As malloc.h has them."""


def test_glibc_is_told_what_to_keep_what_not_and_in_how_many_arenas(monkeypatch):
    libc = Libc()
    monkeypatch.setattr("ctypes.CDLL", lambda _: libc)
    assert keep_freed_memory({"PATH": "/bin"}) is True
    assert libc.told == {
        M_TRIM_THRESHOLD: KEPT_BYTES,
        M_MMAP_THRESHOLD: APART_BYTES,
        M_ARENA_MAX: ARENAS,
    }


@pytest.mark.parametrize("refused", [M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX])
def test_glibc_was_not_told_where_it_refuses_one_of_them(monkeypatch, refused):
    monkeypatch.setattr("ctypes.CDLL", lambda _: Libc(refused))
    assert keep_freed_memory({}) is False


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert keep_freed_memory({}) is False
    give_back()


def test_a_burst_of_bodies_has_ended_once_a_quarter_of_it_is_left():
    budget = BodyBudget()
    ended = []
    for size in (BURST_BYTES - 1, 1, -(BURST_BYTES // 2), -(BURST_BYTES // 4), 0, -(BURST_BYTES // 4)):
        if size > 0:
            budget.take(size, BURST_BYTES)
        else:
            budget.give_back(-size)
        ended.append(budget.burst_ended())
    assert ended == [False, False, False, True, False, False]


def test_a_burst_has_ended_although_others_came_after_it():
    budget = BodyBudget()
    budget.take(BURST_BYTES, BURST_BYTES)
    budget.give_back(BURST_BYTES)
    budget.take(1, BURST_BYTES)
    assert [budget.burst_ended(), budget.burst_ended()] == [True, False]


def test_what_lies_between_blocks_that_are_still_used_is_given_back_too():
    script = """
import resource, sys
from extproc.allocator import give_back, keep_freed_memory
keep_freed_memory({})
blocks = [bytearray(b"x") * 200_000 for _ in range(500)]
del blocks[1::2]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
give_back()
print(before - resident())
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert int(run.stdout) > 0.9 * 250 * (200_000 - 2 * PAGE_BYTES)
