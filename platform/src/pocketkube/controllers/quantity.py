"""Quantities such as 250m, 128Mi and 1e3. Source: apimachinery pkg/api/resource."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

_SUFFIX = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6),
    "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
    **{f"{letter}i": Decimal(1024 ** (n + 1)) for n, letter in enumerate("KMGTPE")},
}  # fmt: skip
_QUANTITY = re.compile(rf"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)({'|'.join(_SUFFIX)})", re.ASCII)


@lru_cache(maxsize=4096)
def milli(text: str | int | float) -> int:
    """Thousandths, rounded up. Raises ValueError."""
    found = _QUANTITY.fullmatch(str(text))
    if found is None:
        raise ValueError(f"not a quantity: {text!r}")
    value = Decimal(found[1]) * _SUFFIX[found[2]] * 1000
    whole = int(value)
    return whole + 1 if value > whole else whole
