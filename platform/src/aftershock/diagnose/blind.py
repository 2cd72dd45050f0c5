"""A case from a run folder, by an allow-list: nothing that tells what was broken, where or when can get in.

Allowed: the baseline window (proven normal operation), the placement of pods, spans, and what a watch saw of pods, nodes and workloads.
Not allowed: the experiment, evidence, activities, fault objects, and any event that aftershock itself made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aftershock.diagnose.case import Case, Disruption, Impact, Series
from aftershock.folder import RunFolder

STEP_S = 0.5
SPAN_COLUMNS = ("span_id", "parent_span_id", "service", "kind", "peer", "start_us", "duration_us", "error")
WORKLOADS = ("Deployment", "StatefulSet")

Bin = dict[int, list[float]]  # [requests, failed, milliseconds]


def case_of(folder: RunFolder) -> Case:
    """Everything that a diagnosis may know of a run. A folder without spans gives a case without series."""
    run = folder.read("run.json")
    baseline = (run["windows"] or {}).get("baseline")
    start = baseline["to_us"] / 1e6 if baseline else None
    begin = baseline["from_us"] / 1e6 if baseline else 0.0
    series, calls, entry = _spans(folder, begin)
    hosts: dict[str, set[str]] = {}
    for pod in run["topology"]["pods"]:
        if pod["node"] and pod["service"]:
            hosts.setdefault(pod["node"], set()).add(pod["service"])
    events = list(folder.lines("events.jsonl")) if folder.has("events.jsonl") else []
    disruptions = [d for d in disruptions_of(events) if d.time >= begin]
    return Case(series, calls, Impact(entry, None, start), disruptions, {n: frozenset(s) for n, s in hosts.items()})


def _spans(
    folder: RunFolder, begin: float
) -> tuple[dict[tuple[str, str], Series], frozenset[tuple[str, str]], str | None]:
    if not folder.has("traces.parquet"):
        return {}, frozenset(), None
    table = folder.table("traces.parquet", SPAN_COLUMNS).to_pydict()
    spans = list(zip(*(table[c] for c in SPAN_COLUMNS), strict=True))
    calls = frozenset((s[2], s[4]) for s in spans if s[3] == "CLIENT" and s[4] and s[4] != s[2])
    called = {callee for _, callee in calls}
    # A service is measured as its callers feel it, the network between them included; the entry as it feels itself.
    felt: dict[str, Bin] = {}
    for _, _, service, kind, peer, start_us, duration_us, error in spans:
        entity = peer if kind == "CLIENT" else service if kind == "SERVER" and service not in called else None
        if entity and start_us / 1e6 >= begin:
            into = felt.setdefault(entity, {}).setdefault(int((start_us / 1e6 - begin) / STEP_S), [0.0, 0.0, 0.0])
            into[0] += 1
            into[1] += bool(error)
            into[2] += duration_us / 1000
    entries = sorted((e for e in felt if e not in called), key=lambda e: -sum(b[0] for b in felt[e].values()))
    return dict(_series(felt, begin)), calls, entries[0] if entries else None


def _series(felt: Mapping[str, Bin], begin: float) -> Iterator[tuple[tuple[str, str], Series]]:
    for entity, bins in felt.items():
        order = sorted(bins)
        times = tuple(begin + n * STEP_S for n in order)
        yield (entity, "latency_ms"), Series(times, tuple(bins[n][2] / bins[n][0] for n in order))
        yield (entity, "error_ratio"), Series(times, tuple(bins[n][1] / bins[n][0] for n in order))
        yield (entity, "requests"), Series(times, tuple(bins[n][0] for n in order))


def disruptions_of(events: Iterable[Mapping[str, Any]]) -> list[Disruption]:
    """What a watch saw happen to pods, nodes and workloads, in order; each pod's end and each change once."""
    found: list[Disruption] = []
    ended: set[str] = set()
    before: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event in events:
        if event["source"] != "watch":
            continue
        detail, key = event["detail"] or {}, (event["kind"], event["name"])
        time = event["time_us"] / 1e6
        known = before.get(key, detail)
        if event["kind"] == "Pod":
            over = event["type"] == "DELETED" or detail.get("deletionTimestamp")
            if over and event["uid"] not in ended and event["service"] and not detail.get("initial"):
                ended.add(event["uid"])
                found.append(Disruption(time, event["service"], "pod ended", event["node"]))
            elif int(detail.get("restarts") or 0) > int(known.get("restarts") or 0) and event["service"]:
                found.append(Disruption(time, event["service"], "container restarted", event["node"]))
        elif event["kind"] == "Node":
            if detail.get("unschedulable") and not known.get("unschedulable"):
                found.append(Disruption(time, event["name"], "node unschedulable", event["name"]))
            if detail.get("ready") is False and known.get("ready") is not False:
                found.append(Disruption(time, event["name"], "node not ready", event["name"]))
        elif event["kind"] in WORKLOADS:
            if event["type"] == "DELETED":
                found.append(Disruption(time, event["name"], "workload deleted"))
            for field, what in (("replicas", "scaled"), ("image", "new version")):
                if detail.get(field) != known.get(field):
                    found.append(Disruption(time, event["name"], what))
        before[key] = detail
    return found
