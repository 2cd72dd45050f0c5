"""Values as text, per language: rounded so that no digit lies, and free text made harmless."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime

QUOTE_MAX = 200
DIGITS_MAX = 6


def number(value: float | int, digits: int) -> str:
    """A number with at most `digits` decimals; more where rounding would make a figure rounder than it is (0.98997 is no 0.99)."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    for decimals in range(digits, DIGITS_MAX + 1):
        text = f"{value:,.{decimals}f}"
        if decimals == 0 or not text.endswith("0") or float(text.replace(",", "")) == value:
            break
    return text.rstrip("0").rstrip(".") if "." in text else text


def measured(value: float | int, unit: str | None, language: str) -> str:
    """A value with its unit."""
    korean = language == "ko"
    if unit == "ratio":
        return f"{number(value * 100, 2)}%"
    if unit == "ms":
        return f"{number(value, 1)}ms" if korean else f"{number(value, 1)} ms"
    if unit == "s":
        if 0 < abs(value) < 1:
            return measured(value * 1000, "ms", language)
        return f"{number(value, 2)}초" if korean else f"{number(value, 2)} s"
    if unit == "1/s":
        return f"초당 {number(value, 2)}" if korean else f"{number(value, 2)} per second"
    if unit == "points":
        return f"{number(value, 2)}퍼센트포인트" if korean else f"{number(value, 2)} percentage points"
    return number(value, 2)


def clock(time_us: int) -> str:
    """Time of day in UTC to the millisecond, rounded down."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%H:%M:%S}.{time_us % 1_000_000 // 1000:03d} UTC"


def day(time_us: int) -> str:
    """Date and time of day in UTC."""
    return f"{datetime.fromtimestamp(time_us // 1_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def quote(text: str) -> str:
    """Text that others wrote, on one line, without control, formatting or invisible characters, bounded."""
    kept = "".join(" " if unicodedata.category(c) in ("Zs", "Zl", "Zp") or c in "\t\r\n" else c for c in text
                   if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") or c in "\t\r\n")  # fmt: skip
    kept = re.sub(" +", " ", re.sub('["“”„«»]', "'", kept)).strip()  # so that it cannot end its own quotation
    return kept if len(kept) <= QUOTE_MAX else kept[: QUOTE_MAX - 1].rstrip() + "…"
