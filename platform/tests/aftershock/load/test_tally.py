"""Lines of a generator to rows and counts, without a generator."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftershock.load.tally import COLUMNS, Tally

MS = 1000


def line(*parts: Any) -> bytes:
    """As a generator sends it."""
    return json.dumps(parts).encode()


def sample(n: int, status: int | None = 200, error: str | None = None, end_us: int = 500) -> bytes:
    """One request of iteration `n`."""
    return line("s", n, "checkout", "cart", n * MS, n * MS + 1, end_us, 5, status, error, None, None, "t")


@given(st.permutations([(n, part) for n in range(6) for part in range(3)]), st.sets(st.integers(0, 5)))
def test_no_iteration_is_lost_in_whatever_order_they_interleave(order: list[tuple[int, int]], broken: set[int]) -> None:
    tally, rows, step = Tally(6), [], dict.fromkeys(range(6), 0)
    parts = [
        lambda n: line("b", n, 0, n * MS, n * MS + (150 * MS if n == 5 else 0)),
        lambda n: sample(n),
        lambda n: line("e", n, "ReferenceError" if n in broken else None),
    ]
    cut = order[: len(order) * 2 // 3]
    for n, _ in cut:
        rows.append(tally.feed(parts[step[n]](n)))
        step[n] += 1
    rows += tally.unfinished(10_000)
    begun = {n for n in step if step[n] > 0}
    kept = [r for r in rows if r]
    assert {r["iteration"] for r in kept} == begun
    assert all(tuple(r) == COLUMNS for r in kept)
    assert tally.begun == len(begun)
    assert tally.on_time == len(begun - {5})
    assert tally.late_max_us == (150 * MS if 5 in begun else 0)
    failed = {r["iteration"] for r in kept if r["error"]}
    assert failed == {n for n in begun if step[n] < 3 or n in broken}
    assert not list(tally.unfinished(1))


def test_a_scenario_that_stumbles_over_a_failed_request_is_not_broken() -> None:
    for status, error in ((None, "timeout"), (500, None), (200, "rejected: no")):
        tally = Tally(1)
        tally.feed(line("b", 0, 0, 0, 0))
        assert tally.feed(sample(0, status, error)) is not None
        assert tally.feed(line("e", 0, "TypeError")) is None
        assert tally.complaint() is None


def test_a_scenario_that_fails_by_itself_makes_the_journey_fail_and_the_load_invalid() -> None:
    tally = Tally(100)
    for n in range(100):
        tally.feed(line("b", n, 0, 0, 0))
        tally.feed(sample(n))
        row = tally.feed(line("e", n, "TypeError: x" if n < 5 else None))
        assert (row is not None) == (n < 5)
        if row:
            assert (row["step"], row["status"], row["error"]) == ("scenario", None, "scenario: TypeError: x")
    assert tally.complaint() is None
    tally.feed(line("b", 100, 0, 0, 0))
    tally.feed(line("e", 100, "TypeError: x"))
    assert tally.complaint() == "the scenario itself failed in 6 of 101 iterations: TypeError: x"


def test_complaints_of_a_load_that_was_none() -> None:
    tally = Tally(1)
    assert tally.complaint() == "no arrival was started"
    tally.feed(line("b", 0, 0, 0, 0))
    assert tally.complaint() == "the scenario sent no request"
    tally.feed(sample(0, None, "unresolved"))
    assert tally.complaint() == "the target's name has no address"
    tally.feed(sample(0, None, "timeout"))
    assert tally.complaint() is None


@pytest.mark.parametrize("noise", [b"", b"hello", b"{}", b"[1]", b'{"a": 1}', b"\xff\xfe", b'["x", 1]'])
def test_what_a_scenario_prints_itself_is_ignored(noise: bytes) -> None:
    assert Tally(1).feed(noise) is None


@pytest.mark.parametrize(
    "bad", [b'["s", 1', b'["s", 1]', b'["b", 1]', b'["e", 9, null]', b'["b", "x", 1, 2, 3]', sample(3)]
)
def test_a_malformed_line_of_ours_is_an_error(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Tally(1).feed(bad)


@given(st.binary(max_size=80))
def test_no_line_does_worse_than_a_value_error(noise: bytes) -> None:
    for text in (noise, b'["' + noise):
        try:
            Tally(1).feed(text)
        except ValueError:
            continue
