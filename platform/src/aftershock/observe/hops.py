"""The ways between services of one run, measured by its spans; each pair's spans are looked up once."""

from __future__ import annotations

from typing import Any

from aftershock.folder import RunFolder
from aftershock.observe.reach import HOP_COLUMNS, Hop, hop_latency_ms
from aftershock.slo import Interval

Row = tuple[Any, ...]
_SERVICE, _KIND, _PEER = (HOP_COLUMNS.index(name) for name in ("service", "kind", "peer"))


class Hops:
    """Call it with caller, callee and interval; a run without spans has no ways."""

    def __init__(self, folder: RunFolder) -> None:
        self._asked: dict[tuple[str, str], list[Row]] = {}
        self._answered: dict[str, list[Row]] = {}
        if not folder.has("traces.parquet"):
            return
        columns = folder.table("traces.parquet", HOP_COLUMNS).to_pydict()
        for row in zip(*(columns[name] for name in HOP_COLUMNS), strict=True):
            service, peer = row[_SERVICE], row[_PEER]
            if row[_KIND] == "CLIENT" and service and peer and service != peer:
                self._asked.setdefault((service, peer), []).append(row)
            elif row[_KIND] == "SERVER":
                self._answered.setdefault(service, []).append(row)

    @property
    def calls(self) -> list[tuple[str, str]]:
        """Every (caller, callee) of which at least one call was recorded."""
        return sorted(self._asked)

    def __call__(self, caller: str, callee: str, interval: Interval) -> Hop:
        """The calls of a pair that started in an interval."""
        rows = [*self._asked.get((caller, callee), ()), *self._answered.get(callee, ())]
        return hop_latency_ms(
            {name: [row[n] for row in rows] for n, name in enumerate(HOP_COLUMNS)}, caller, callee, interval
        )
