"""Quantities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube.controllers.quantity import milli


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", 1000), ("250m", 250), ("0.5", 500), ("1Ki", 1024_000), ("2Mi", 2 * 1024**2 * 1000), ("1k", 1_000_000), ("1e3", 1_000_000),
     ("1E", 10**21), ("100u", 1), ("1n", 1), (2, 2000), (0.1, 100), ("-1", -1000), ("1.5Gi", 1536 * 1024**2 * 1000), ("12E2", 1_200_000)],
)  # fmt: skip
def test_a_quantity_is_read(text: str | int | float, expected: int) -> None:
    assert milli(text) == expected


@pytest.mark.parametrize("text", ["", "x", "1x", "1mm", "Ki", "1 Gi", "1ki"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        milli(text)


@given(st.integers(0, 10**9))
def test_milli_and_plain_agree(n: int) -> None:
    assert milli(f"{n}m") * 1000 == milli(n)
    assert milli(f"{n}Ki") == 1024 * milli(n)
