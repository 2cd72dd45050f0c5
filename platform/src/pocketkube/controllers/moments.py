"""Times as Kubernetes writes them, from and to Unix seconds."""

from __future__ import annotations

import datetime


def stamp(at_s: float, micro: bool = False) -> str:
    """RFC 3339 in UTC, whole seconds; `micro` for MicroTime fields."""
    at = datetime.datetime.fromtimestamp(at_s, datetime.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str | None) -> float:
    """Unix seconds of a time that Kubernetes wrote; 0 for none."""
    return datetime.datetime.fromisoformat(text).timestamp() if text else 0.0
