"""A case from a run folder, by an allow-list: nothing that tells what was broken, where or when can get in.

Allowed: the baseline window (proven normal operation), the placement of pods, spans, what customers' requests met, and what a watch saw of
pods, nodes and workloads. Not allowed: the experiment, evidence, activities, fault objects, and any event that aftershock itself made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aftershock.diagnose.case import Case, Impact, Series
from aftershock.diagnose.watched import disruptions_of
from aftershock.folder import RunFolder

STEP_S, STEP_MIN_S = 0.5, 0.2
BASELINE_ROWS = 12  # so many rows a short baseline should still give
HOLD_S = 1.5  # a machine that runs a whole cluster stops for a second now and then
RISE_MIN = 0.5  # and is half as slow again for a few
SLOWDOWN_MAX = 3.0  # and all on it together may be slower for as long as something else runs there
SPAN_COLUMNS = ("service", "kind", "peer", "start_us", "duration_us", "error")
SAMPLE_COLUMNS = ("start_us", "latency_us", "status", "error")

Calls = dict[tuple[str, str], float]


class Bins:
    """Requests, failures and time spent, by entity and `step_s` since `begin`."""

    def __init__(self, begin: float, step_s: float = STEP_S) -> None:
        self.begin_us, self.step_s = begin * 1e6, step_s
        self.of: dict[str, dict[int, list[float]]] = {}

    def add(self, entity: str, start_us: int, duration_us: int, failed: bool) -> None:
        """Count one request."""
        if start_us >= self.begin_us:
            at = int((start_us - self.begin_us) / 1e6 / self.step_s)
            into = self.of.setdefault(entity, {}).setdefault(at, [0.0, 0.0, 0.0])
            into[0] += 1
            into[1] += failed
            into[2] += duration_us / 1000

    def series(self) -> Iterator[tuple[tuple[str, str], Series]]:
        """Three series for each entity."""
        for entity, bins in self.of.items():
            order = sorted(bins)
            times = tuple(self.begin_us / 1e6 + n * self.step_s for n in order)
            yield (entity, "latency_ms"), Series(times, tuple(bins[n][2] / bins[n][0] for n in order))
            yield (entity, "error_ratio"), Series(times, tuple(bins[n][1] / bins[n][0] for n in order))
            yield (entity, "requests"), Series(times, tuple(bins[n][0] for n in order))


def case_of(folder: RunFolder) -> Case:
    """Everything that a diagnosis may know of a run. A folder without spans gives a case without series."""
    run = folder.read("run.json")
    baseline = (run["windows"] or {}).get("baseline")
    start = baseline["to_us"] / 1e6 if baseline else None
    begin = baseline["from_us"] / 1e6 if baseline else 0.0
    bins = Bins(begin, STEP_S if start is None else min(STEP_S, max(STEP_MIN_S, (start - begin) / BASELINE_ROWS)))
    calls = _spans(folder, bins)
    called = {callee for _, callee in calls}
    entries = sorted((e for e in bins.of if e not in called), key=lambda e: -sum(b[0] for b in bins.of[e].values()))
    entry = entries[0] if entries else None
    if entry is not None and folder.has("samples.parquet"):
        _customers(folder, bins, entry)
    hosts: dict[str, set[str]] = {}
    for pod in run["topology"]["pods"]:
        if pod["node"] and pod["service"]:
            hosts.setdefault(pod["node"], set()).add(pod["service"])
    events = folder.lines("events.jsonl") if folder.has("events.jsonl") else iter(())
    disruptions = [d for d in disruptions_of(events) if d.time * 1e6 >= bins.begin_us]
    return Case(
        dict(bins.series()), frozenset(calls), Impact(entry, None, start), disruptions,
        {n: frozenset(s) for n, s in hosts.items()}, calls, HOLD_S, RISE_MIN, SLOWDOWN_MAX,
    )  # fmt: skip


def _spans(folder: RunFolder, bins: Bins) -> Calls:
    """Count spans into `bins`: a service as its callers feel it, the network included; one that nobody calls as it feels itself."""
    if not folder.has("traces.parquet"):
        return {}
    spans = _rows(folder, "traces.parquet", SPAN_COLUMNS)
    calls: Calls = {}
    for service, kind, peer, *_ in spans:
        if kind == "CLIENT" and peer and peer != service:
            calls[service, peer] = calls.get((service, peer), 0.0) + 1
    called = {callee for _, callee in calls}
    for service, kind, peer, start_us, duration_us, error in spans:
        entity = peer if kind == "CLIENT" else service if kind == "SERVER" and service not in called else None
        if entity:
            bins.add(entity, start_us, duration_us, bool(error))
    return calls


def _customers(folder: RunFolder, bins: Bins, entry: str) -> None:
    """Count the entry as customers met it, since one that is gone has no spans. No answer is a failure, a refused sale is none."""
    seen = Bins(bins.begin_us / 1e6, bins.step_s)
    for start_us, latency_us, status, error in _rows(folder, "samples.parquet", SAMPLE_COLUMNS):
        if start_us is not None and latency_us is not None:
            seen.add(entry, start_us, latency_us, bool(error) or not status or status >= 500)
    if entry in seen.of:
        bins.of[entry] = seen.of[entry]


def _rows(folder: RunFolder, name: str, columns: tuple[str, ...]) -> list[tuple[Any, ...]]:
    table: Mapping[str, list[Any]] = folder.table(name, columns).to_pydict()
    return list(zip(*(table[c] for c in columns), strict=True))
