"""The arithmetic of a HorizontalPodAutoscaler: from pods and their usage to a number of replicas; pure.

Source: kubernetes pkg/controller/podautoscaler (replica_calculator.go, horizontal.go), KEP-853.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pocketkube.controllers import conditions, pods
from pocketkube.controllers.moments import seconds
from pocketkube.controllers.quantity import milli
from pocketkube.storage import Object
from pocketkube.usage import Usage

TOLERANCE = 0.1
CPU_INITIALIZATION_S, INITIAL_READINESS_S, DOWNSCALE_WINDOW_S = 300.0, 30.0, 300.0
Told = tuple[str, str]  # reason and message of a condition


class NoMetric(Exception):
    """A metric has no value now; the message is upstream's."""


@dataclass(frozen=True)
class Proposal:
    """What one metric asks for, and its value as status.currentMetrics shows it."""

    replicas: int
    name: str
    current: dict[str, Any]


@dataclass(frozen=True)
class Groups:
    """Pods by what their samples are good for, by name."""

    ready: int
    unready: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]


def grouped(every: Iterable[Object], usages: Mapping[str, Usage], resource: str, now_s: float) -> Groups:
    """Ended pods are ignored; young or never ready ones are unready where CPU counts, for starting costs CPU."""
    ready, unready, missing, ignored = 0, set(), set(), set()
    for pod in every:
        name = pod["metadata"]["name"]
        usage = usages.get(name)
        if pods.is_terminating(pod) or pods.phase(pod) == "Failed":
            ignored.add(name)
        elif pods.phase(pod) == "Pending":
            unready.add(name)
        elif usage is None:
            missing.add(name)
        elif resource == "cpu" and _is_unready(pod, usage, now_s):
            unready.add(name)
        else:
            ready += 1
    return Groups(ready, frozenset(unready), frozenset(missing), frozenset(ignored))


def _is_unready(pod: Object, usage: Usage, now_s: float) -> bool:
    ready, began = conditions.find(pod, "Ready"), (pod.get("status") or {}).get("startTime")
    if ready is None or not began:
        return True
    began_s, changed_s = seconds(began), seconds(ready.get("lastTransitionTime"))
    if began_s + CPU_INITIALIZATION_S > now_s:
        return bool(ready["status"] == "False") or usage.at_s < changed_s + usage.window_s
    return bool(ready["status"] == "False") and began_s + INITIAL_READINESS_S > changed_s


def proposal(metric: Object, every: list[Object], usages: Mapping[str, Usage], current: int, now_s: float) -> Proposal:
    """Replicas by one Resource metric. Raises NoMetric."""
    resource, target = metric["resource"]["name"], metric["resource"]["target"]
    failed = f"failed to get {resource} utilization: "
    if not usages:
        raise NoMetric(
            f"{failed}unable to get metrics for resource {resource}: no metrics returned from resource metrics API"
        )
    groups = grouped(every, usages, resource, now_s)
    gone = groups.ignored | groups.unready
    values = {name: _value(usage, resource) for name, usage in usages.items() if name not in gone}
    try:
        asked = _requests(every, resource) if target["type"] == "Utilization" else {}
    except NoMetric as error:
        raise NoMetric(failed + str(error)) from None
    if not values:
        raise NoMetric(failed + "did not receive metrics for targeted pods (pods might be unready)")
    if target["type"] == "Utilization":
        wanted = int(target["averageUtilization"])
        replicas, percent, average = _by_utilization(values, asked, wanted, groups, current)
        shown = {"averageUtilization": percent, "averageValue": quantity(average)}
        name = f"{resource} resource utilization (percentage of request)"
    else:
        replicas, average = _by_average(values, milli(target["averageValue"]), groups, current)
        shown, name = {"averageValue": quantity(average)}, f"{resource} resource"
    return Proposal(replicas, name, {"type": "Resource", "resource": {"name": resource, "current": shown}})


def quantity(thousandths: int) -> str:
    """A quantity of thousandths, as short as upstream writes it."""
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def _value(usage: Usage, resource: str) -> int:
    return math.ceil(usage.total.cpu * 1000) if resource == "cpu" else usage.total.memory * 1000


def _requests(every: Iterable[Object], resource: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for pod in every:
        name = pod["metadata"]["name"]
        for container in pod["spec"]["containers"]:
            asked = ((container.get("resources") or {}).get("requests") or {}).get(resource)
            if asked is None:
                raise NoMetric(f"missing request for {resource} in container {container['name']} of Pod {name}")
            found[name] = found.get(name, 0) + milli(asked)
    return found


def _by_utilization(
    values: dict[str, int], asked: Mapping[str, int], wanted: int, groups: Groups, current: int
) -> tuple[int, int, int]:  # fmt: skip
    """(replicas, percent, average in thousandths)."""

    def ratio(of: Mapping[str, int]) -> tuple[float, int, int]:
        known = [name for name in of if name in asked]
        total, requested = sum(of[n] for n in known), sum(asked[n] for n in known)
        if not requested:
            raise NoMetric("no metrics returned matched known pods")
        percent = total * 100 // requested
        return percent / wanted, percent, total // len(known)

    used, percent, average = ratio(values)
    filled = {n: asked.get(n, 0) * max(100, wanted) // 100 for n in groups.missing}
    return _replicas(values, used, filled, groups, current, lambda of: ratio(of)[0]), percent, average


def _by_average(values: dict[str, int], wanted: int, groups: Groups, current: int) -> tuple[int, int]:
    """(replicas, average in thousandths)."""

    def average(of: Mapping[str, int]) -> int:
        return sum(of.values()) // len(of)

    used = average(values) / wanted
    filled = dict.fromkeys(groups.missing, wanted)
    return _replicas(values, used, filled, groups, current, lambda of: average(of) / wanted), average(values)


def _replicas(
    values: Mapping[str, int], used: float, filled: Mapping[str, int], groups: Groups, current: int, ratio: Any
) -> int:  # fmt: skip
    """Missing pods count against the change: as busy when it would scale down, as idle when it would scale up."""
    rebalance = bool(groups.unready) and used > 1.0
    if not rebalance and not groups.missing:
        return current if abs(1.0 - used) <= TOLERANCE else math.ceil(used * groups.ready)
    assumed = dict(values)
    if used < 1.0:
        assumed |= filled
    elif used > 1.0:
        assumed |= dict.fromkeys(groups.missing, 0)
    if rebalance:
        assumed |= dict.fromkeys(groups.unready, 0)
    then = ratio(assumed)
    if abs(1.0 - then) <= TOLERANCE or (used < 1.0 < then) or (then < 1.0 < used):
        return current
    wanted = math.ceil(then * len(assumed))
    return current if (then < 1.0 and wanted > current) or (then > 1.0 and wanted < current) else wanted


# From what metrics ask for to what is done: stabilization windows, policies, bounds.


@dataclass
class History:
    """What one autoscaler asked for and did, as (time, number); bounded by the longest window."""

    recommended: list[tuple[float, int]] = field(default_factory=list)
    grown: list[tuple[float, int]] = field(default_factory=list)
    shrunk: list[tuple[float, int]] = field(default_factory=list)

    def did(self, before: int, after: int, now_s: float, longest_s: float) -> None:
        """A rescale."""
        kept = self.grown if after > before else self.shrunk
        kept[:] = [(at_s, n) for at_s, n in kept if at_s >= now_s - longest_s] + [(now_s, abs(after - before))]


def normalized(
    spec: Object, history: History, current: int, wanted: int, now_s: float
) -> tuple[int, Told, tuple[bool, Told]]:  # fmt: skip
    """(replicas, AbleToScale, (limited, ScalingLimited)) of an autoscaler that wants so many."""
    behavior, least, most = spec.get("behavior"), spec.get("minReplicas") or 1, spec["maxReplicas"]
    if behavior is None:
        stable, able = _highest(history, wanted, now_s)
        size, why = _bounded(current, stable, least, most)
    else:
        stable, able = _stabilized(behavior, history, current, wanted, now_s)
        size, why = _paced(behavior, history, current, stable, least, most, now_s)
    if stable == wanted:
        able = ("ReadyForNewScale", "recommended size matches current size")
    return size, able, (size != stable, why)


def _highest(history: History, wanted: int, now_s: float) -> tuple[int, Told]:
    """Without a behavior: the highest of the last five minutes."""
    kept = [(at_s, n) for at_s, n in history.recommended if at_s >= now_s - DOWNSCALE_WINDOW_S]
    history.recommended = [*kept, (now_s, wanted)]
    return max([wanted, *(n for _, n in kept)]), (
        "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation",
    )  # fmt: skip


def _stabilized(behavior: Object, history: History, current: int, wanted: int, now_s: float) -> tuple[int, Told]:
    """No higher than the lowest wish of the one window, no lower than the highest of the other."""
    up_s, down_s = window_s(behavior, "scaleUp"), window_s(behavior, "scaleDown")
    up = min([wanted, *(n for at_s, n in history.recommended if at_s > now_s - up_s)])
    down = max([wanted, *(n for at_s, n in history.recommended if at_s > now_s - down_s)])
    kept = [(at_s, n) for at_s, n in history.recommended if at_s >= now_s - max(up_s, down_s)]
    history.recommended = [*kept, (now_s, wanted)]
    stable = min(max(current, up), down)
    if wanted >= current:
        return stable, ("ScaleUpStabilized",
                        "recent recommendations were lower than current one, applying the lowest recent recommendation")  # fmt: skip
    return stable, ("ScaleDownStabilized",
                    "recent recommendations were higher than current one, applying the highest recent recommendation")  # fmt: skip


def window_s(behavior: Object, direction: str) -> float:
    """Length of a stabilization window."""
    given = (behavior.get(direction) or {}).get("stabilizationWindowSeconds")
    return float(given) if given is not None else DOWNSCALE_WINDOW_S if direction == "scaleDown" else 0.0


def longest_s(behavior: Object | None, direction: str) -> float:
    """The longest period of a direction's policies."""
    policies = ((behavior or {}).get(direction) or {}).get("policies") or []
    return float(max((p["periodSeconds"] for p in policies), default=0))


IN_RANGE = ("DesiredWithinRange", "the desired count is within the acceptable range")
TOO_MANY = ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
TOO_FEW = ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
UP_LIMIT = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
DOWN_LIMIT = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")


def _bounded(current: int, wanted: int, least: int, most: int) -> tuple[int, Told]:
    limit = max(2 * current, 4)
    high, why = (limit, UP_LIMIT) if most > limit else (most, TOO_MANY)
    if wanted < least:
        return least, TOO_FEW
    return (high, why) if wanted > high else (wanted, IN_RANGE)


def _paced(
    behavior: Object, history: History, current: int, wanted: int, least: int, most: int, now_s: float
) -> tuple[int, Told]:  # fmt: skip
    if wanted > current:
        limit = max(current, _limit(behavior["scaleUp"], history, current, now_s, up=True))
        high, why = (limit, UP_LIMIT) if most > limit else (most, TOO_MANY)
        return (high, why) if wanted > high else (wanted, IN_RANGE)
    if wanted < current:
        limit = min(current, _limit(behavior["scaleDown"], history, current, now_s, up=False))
        low, why = (limit, DOWN_LIMIT) if least < limit else (least, TOO_FEW)
        return (low, why) if wanted < low else (wanted, IN_RANGE)
    return wanted, IN_RANGE


def _limit(rules: Object, history: History, current: int, now_s: float, *, up: bool) -> int:
    """How far the policies let the size go now."""
    if rules["selectPolicy"] == "Disabled":
        return current
    limits: list[int] = []
    for policy in rules["policies"]:
        since_s = now_s - policy["periodSeconds"]
        start = current - _since(history.grown, since_s) + _since(history.shrunk, since_s)
        value = policy["value"]
        if policy["type"] == "Pods":
            limits.append(start + value if up else start - value)
        else:
            limits.append(math.ceil(start * (1 + value / 100)) if up else int(start * (1 - value / 100)))
    return max(limits) if up == (rules["selectPolicy"] == "Max") else min(limits)


def _since(changes: Iterable[tuple[float, int]], since_s: float) -> int:
    return sum(n for at_s, n in changes if at_s > since_s)
