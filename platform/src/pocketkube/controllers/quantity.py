"""Quantities such as 250m, 128Mi and 1e3. Source: apimachinery pkg/api/resource."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

_SUFFIX = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6),
    "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    **{f"{letter}i": Decimal(1024 ** (n + 1)) for n, letter in enumerate("KMGTPE")},
}  # fmt: skip


@lru_cache(maxsize=4096)
def milli(text: str | int | float) -> int:
    """Thousandths, rounded up. Raises ValueError."""
    text = str(text).strip()
    number = text.rstrip("numkMGTPEKi")
    suffix = text[len(number) :]
    try:
        value = Decimal(number) * _SUFFIX[suffix] * 1000
    except (ArithmeticError, KeyError):
        raise ValueError(f"not a quantity: {text!r}") from None
    whole = int(value)
    return whole + 1 if value > whole else whole
