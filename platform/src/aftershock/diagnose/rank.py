"""The ranking: exclusive impact where calls are known, robust deviation where they are not, and disruptions beside both.

Pure: takes a `Case`, gives a `Diagnosis`. Anchors: Hardt et al., "The PetShop Dataset" (2024), for impact along call graphs; Pham et al.,
"BARO" (2024), for the robust scorer (median and interquartile range) on metrics without a call graph.
"""

from __future__ import annotations

from collections import deque
from statistics import median, quantiles

from aftershock.diagnose import deviation
from aftershock.diagnose.case import Case, Diagnosis, Disruption, Edge, Kind, Ranked, Series, kind_of
from aftershock.diagnose.deviation import Z_MIN
from aftershock.diagnose.impact import Signal, exclusive, signals

BEFORE_MIN = 5  # rows of normal operation without which nothing can deviate
RISE_MIN = 0.10  # a shift smaller than this share of normal is no disturbance, however quiet the series was
ERROR_RATIO_MIN = 0.002
ORDER_SLACK_S = 1.0
TOGETHER_S = 5.0  # disruptions of one node's pods within this time have one cause
UNREACHABLE = 0.2  # weight of a candidate to which no chain of calls leads from where it was felt
KINDS: tuple[Kind, ...] = ("errors", "availability", "latency")


def diagnose(case: Case) -> Diagnosis:
    """Rank root causes, best first."""
    start = _start(case)
    if start is None or _rows_before(case, start) < BEFORE_MIN or not _rows_after(case, start):
        return Diagnosis("inconclusive", start, ())
    by_kind = {kind: signals(case, kind, start, case.impact.metric) for kind in KINDS}
    shares = _symptoms(case, by_kind)
    if not case.calls or not any(shares.values()):
        shares = _blend(shares, _robust(case, start))
    happened = [d for d in case.disruptions if d.time >= start - ORDER_SLACK_S]
    scores = _with_disruptions(case, shares, happened)
    deviates = {e: _indicator(case, e, by_kind, happened, start) for e in scores}
    ranked = tuple(
        Ranked(entity, deviates[entity], round(score, 6), path_to(case, entity))
        for entity, score in sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
        if score > 1e-6
    )
    if not ranked:
        return Diagnosis("no_root_cause", None, ())
    return Diagnosis(
        "root_cause",
        _onset(case, ranked[0], start, happened),
        ranked,
        _edges(case, ranked[0], by_kind, happened, start),
    )


def path_to(case: Case, entity: str) -> tuple[str, ...]:
    """The shortest chain from where it was felt to `entity`: along calls, and from a service to a node that hosts it."""
    origin = case.impact.entity
    if origin is None or origin == entity:
        return (entity,)
    neighbours: dict[str, list[str]] = {}
    for caller, callee in sorted(case.calls):
        neighbours.setdefault(caller, []).append(callee)
    for node, services in sorted(case.hosts.items()):
        for service in sorted(services):
            neighbours.setdefault(service, []).append(node)
    before: dict[str, str] = {origin: ""}
    queue = deque([origin])
    while queue:
        at = queue.popleft()
        for following in neighbours.get(at, ()):
            if following not in before:
                before[following] = at
                queue.append(following)
    if entity not in before:
        return (entity,)
    path = [entity]
    while before[path[-1]]:
        path.append(before[path[-1]])
    return tuple(reversed(path))


def _start(case: Case) -> float | None:
    if case.impact.start is not None:
        return case.impact.start
    felt = [s for (e, m), s in case.series.items() if e == case.impact.entity and case.impact.metric in (None, m)]
    points = [(deviation.change_point(s), s) for s in felt or case.series.values()]
    strong = [(abs(deviation.shift(s.between(float("-inf"), at), s.between(at, float("inf")))), at)
              for at, s in points if at is not None]  # fmt: skip
    return max(strong)[1] if strong else None


def _rows_before(case: Case, start: float) -> int:
    return max((sum(t < start for t in s.times) for s in case.series.values()), default=0)


def _rows_after(case: Case, start: float) -> bool:
    return any(t >= start for s in case.series.values() for t in s.times)


def _disturbed(kind: Kind, signal: Signal) -> bool:
    rise = signal.after - signal.before
    if kind == "latency":
        return signal.shift > Z_MIN and rise > RISE_MIN * max(signal.before, 1e-9)
    return rise > max(ERROR_RATIO_MIN if signal.before < 1 else RISE_MIN * signal.before, 1e-9) and signal.shift > Z_MIN


def _symptoms(case: Case, by_kind: dict[Kind, dict[str, Signal]]) -> dict[str, float]:
    """Share of the disturbance that is each entity's own doing, by the kinds that were felt (all, if none was)."""
    wanted = kind_of(case.impact.metric) if case.impact.metric else None
    felt = [k for k in KINDS if case.impact.entity in by_kind[k] and _disturbed(k, by_kind[k][case.impact.entity])]
    kinds = [wanted] if wanted in KINDS and wanted in felt else felt or [
        k for k in KINDS if any(_disturbed(k, s) for s in by_kind[k].values())]  # fmt: skip
    total: dict[str, float] = {}
    for kind in kinds:
        own = exclusive(case, by_kind[kind])
        reached = {e: v * (1.0 if _reached(case, e) else UNREACHABLE) for e, v in own.items()}
        whole = sum(reached.values())
        for entity, value in reached.items():
            if whole and (value > 0.01 * whole):
                total[entity] = total.get(entity, 0.0) + value / whole / len(kinds)
    return total


def _reached(case: Case, entity: str) -> bool:
    return not case.calls or case.impact.entity in (None, entity) or len(path_to(case, entity)) > 1


def _robust(case: Case, start: float) -> dict[str, float]:
    """BARO's scorer: how many interquartile ranges a metric leaves its median by, at most; best metric of each entity."""
    best: dict[str, float] = {}
    for (entity, _), series in case.series.items():
        before, after = series.between(float("-inf"), start), series.between(start, float("inf"))
        if len(before) < BEFORE_MIN or not after:
            continue
        middle, (low, _, high) = median(before), quantiles(before, n=4)
        scale = max(high - low, 0.05 * abs(middle), 1e-9)
        far = max(abs(v - middle) for v in after) / scale
        if abs(deviation.shift(before, after)) > Z_MIN:
            best[entity] = max(best.get(entity, 0.0), far)
    top = max(best.values(), default=0.0)
    return {entity: value / top for entity, value in best.items()} if top else {}


def _blend(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    return {e: (first.get(e, 0.0) + second.get(e, 0.0)) / 2 for e in {*first, *second}}


def _with_disruptions(case: Case, shares: dict[str, float], happened: list[Disruption]) -> dict[str, float]:
    """Half by symptom, half by what happened to the entity; a node stands for the services whose pods it lost."""
    if not happened:
        return dict(shares)
    scores = {entity: share / 2 for entity, share in shares.items()}
    on_node: dict[str, set[str]] = {}
    first = min(d.time for d in happened)
    for d in happened:
        if d.node and d.entity != d.node and d.time - first < TOGETHER_S:
            on_node.setdefault(d.node, set()).add(d.entity)
    told = {d.entity for d in happened if d.entity in case.hosts}
    blamed = {n for n, services in on_node.items() if n in told or (len(services) > 1 and len(on_node) == 1)} | told
    excused = {service for node in blamed for service in on_node.get(node, ())}
    for node in blamed:
        scores[node] = 0.5 + sum(shares.get(service, 0.0) for service in on_node.get(node, ())) / 2
    for entity in {d.entity for d in happened} - blamed:
        scores[entity] = scores.get(entity, 0.0) + (0.1 if entity in excused else 0.5)
    return scores


def _indicator(
    case: Case, entity: str, by_kind: dict[Kind, dict[str, Signal]], happened: list[Disruption], start: float
) -> str:
    worst = max(((s.shift, s.metric) for k in KINDS for e, s in by_kind[k].items() if e == entity and _disturbed(k, s)),
                default=None)  # fmt: skip
    if worst:
        return worst[1]
    told = next((d.what for d in happened if d.entity == entity), None)
    if told:
        return told
    found = {m: abs(deviation.shift(s.between(float("-inf"), start), s.between(start, float("inf"))))
             for (e, m), s in case.series.items() if e == entity}  # fmt: skip
    return max(found, key=lambda m: (found[m], m)) if found else "unknown"


def _series_of(case: Case, entity: str, metric: str) -> Series | None:
    return case.series.get((entity, metric))


def _begun(case: Case, entity: str, metric: str, start: float, happened: list[Disruption]) -> float | None:
    """When an entity first deviated, by its series or by what happened to it."""
    times = [d.time for d in happened if d.entity == entity]
    series = _series_of(case, entity, metric)
    if series is not None:
        reference = series.between(float("-inf"), start)
        sign = -1 if kind_of(metric) == "availability" else 1
        at = deviation.onset(series, start - ORDER_SLACK_S, reference, sign) if len(reference) >= BEFORE_MIN else None
        times += [at] if at is not None else []
    return min(times, default=None)


def _onset(case: Case, top: Ranked, start: float, happened: list[Disruption]) -> float:
    at = _begun(case, top.entity, top.indicator, start, happened)
    return start if at is None else at


def _edges(
    case: Case, top: Ranked, by_kind: dict[Kind, dict[str, Signal]], happened: list[Disruption], start: float
) -> tuple[Edge, ...]:
    """The three-way test along the path of the best candidate, and against its other neighbours."""
    wanted = [(b, a) for a, b in zip(top.path, top.path[1:], strict=False)]
    wanted += [
        (callee, caller)
        for caller, callee in sorted(case.calls)
        if caller in top.path and (callee, caller) not in wanted
    ]
    step = _step(case)
    edges = []
    for cause, effect in wanted:
        at = {
            e: _begun(case, e, _indicator(case, e, by_kind, happened, start), start, happened) for e in (cause, effect)
        }
        structure = (effect, cause) in case.calls or effect in case.hosts.get(cause, ())
        moved = at[cause] is not None and at[effect] is not None
        ordered = moved and (at[cause] or 0.0) <= (at[effect] or 0.0) + max(ORDER_SLACK_S, step)
        still = [e for e in (cause, effect) if at[e] is None]
        why = (
            "no call or placement joins them" if not structure
            else f"{' and '.join(still)} did not deviate" if still
            else f"{cause} deviated after {effect}" if not ordered
            else f"{effect} depends on {cause}, both deviated, {cause} not later"
        )  # fmt: skip
        edges.append(Edge(cause, effect, structure, moved, ordered, why))
    return tuple(edges)


def _step(case: Case) -> float:
    gaps = [b - a for s in list(case.series.values())[:50] for a, b in zip(s.times, s.times[1:], strict=False)]
    return median(gaps) if gaps else 0.0
