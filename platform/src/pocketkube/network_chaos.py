"""NetworkChaos (chaos-mesh.org/v1alpha1): delay, loss and partition between pods, put on real connections by the proxy.

Follows Chaos Mesh: pods are chosen once, records tell the state of each, `to` is what the selected pods send to the target, `from` what
the target sends to them, and the object is gone only after the fault is (finalizer `chaos-mesh/records`). Without a target the other
side is anybody, outside the cluster included.
"""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass
from typing import Any

from pocketkube import selectors
from pocketkube.errors import NotFound
from pocketkube.flow import Rule
from pocketkube.proxy_control import ProxyControl
from pocketkube.storage import Event, Object, Store, now

FINALIZER = "chaos-mesh/records"
PAUSE = "experiment.chaos-mesh.org/pause"
SOURCE = "networkchaos-controller"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


@dataclass(eq=False)
class _Experiment:
    """What one object does now; `selected` and `targets` are (namespace/name, uid), fixed once chosen."""

    selected: list[tuple[str, str]]
    targets: list[tuple[str, str]] | None  # None: anybody
    begun: float
    running: bool = False
    told: int = 0  # how many records had this state when it was written


class NetworkChaosController:
    """Brings the proxy's faults in line with the objects."""

    def __init__(self, store: Store, proxy: ProxyControl) -> None:
        self._store = store
        self._proxy = proxy
        self._experiments: dict[str, _Experiment] = {}
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        self._store.listen(self._changed)
        self._woken.set()
        loop = asyncio.get_running_loop()
        while True:
            due = self._next_end()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - loop.time())):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            await self._reconcile()

    def _changed(self, event: Event) -> None:
        if event.resource == "networkchaos" or (event.resource == "pods" and self._waits(event)):
            self._woken.set()

    def _waits(self, event: Event) -> bool:
        """A pod matters to objects that have not found any yet, when it gets its address or goes."""
        return event.type != "MODIFIED" or (event.object.get("status") or {}).get("podIP") != (
            ((event.old or {}).get("status") or {}).get("podIP")
        )

    def _next_end(self) -> float | None:
        ends = []
        for obj in self._store.list("networkchaos"):
            experiment = self._experiments.get(obj["metadata"]["uid"])
            if experiment and experiment.running and (length := obj["spec"].get("duration")):
                ends.append(experiment.begun + seconds(length))
        return min(ends, default=None)

    async def _reconcile(self) -> None:
        """Choose pods, tell the proxy, and only then write what is in force."""
        objects = self._store.list("networkchaos")
        alive = {obj["metadata"]["uid"] for obj in objects}
        for uid in self._experiments.keys() - alive:
            del self._experiments[uid]
        rules: list[Rule] = []
        phases: list[tuple[Object, bool]] = []
        for obj in objects:
            run = self._wanted(obj)
            phases.append((obj, run))
            experiment = self._experiments.get(obj["metadata"]["uid"])
            if run and experiment is not None:
                rules += rules_of(obj, experiment.selected, experiment.targets)
        await self._proxy.disturb(tuple(rules))
        for obj, run in phases:
            self._write(obj, run)

    def _wanted(self, obj: Object) -> bool:
        """True if the fault should be in force; chooses the pods the first time."""
        meta, spec = obj["metadata"], obj["spec"]
        loop = asyncio.get_running_loop()
        experiment = self._experiments.get(meta["uid"])
        if "deletionTimestamp" in meta or (meta.get("annotations") or {}).get(PAUSE) == "true":
            return False
        if experiment is None:
            selected = self._choose(obj, spec)
            targets = self._choose(obj, spec["target"]) if spec.get("target") else None
            if not selected or targets == []:
                return False
            experiment = self._experiments[meta["uid"]] = _Experiment(selected, targets, loop.time())
            experiment.running = True
        length = spec.get("duration")
        return not length or loop.time() < experiment.begun + seconds(length)

    def _choose(self, obj: Object, part: Object) -> list[tuple[str, str]]:
        found = select(self._store, part["selector"], obj["metadata"]["namespace"])
        chosen = some(found, part.get("mode") or "all", str(part.get("value") or ""), obj["metadata"]["uid"])
        return [(f"{p['metadata']['namespace']}/{p['metadata']['name']}", p["metadata"]["uid"]) for p in chosen]

    def _write(self, obj: Object, run: bool) -> None:
        meta = obj["metadata"]
        experiment = self._experiments.get(meta["uid"])
        ended = "deletionTimestamp" in meta

        def change(draft: Object) -> None:
            finalizers = [f for f in draft["metadata"].get("finalizers") or [] if f != FINALIZER]
            if not ended:
                finalizers.append(FINALIZER)
            draft["metadata"]["finalizers"] = finalizers
            draft["status"] = status_of(draft, experiment.selected if experiment else [],
                                        experiment.targets if experiment else None, run, draft.get("status") or {})  # fmt: skip

        before = (obj.get("status") or {}).get("experiment") or {}
        try:
            live = self._store.mutate("networkchaos", meta["namespace"], meta["name"], change)
        except NotFound:
            return
        if ended:
            if experiment is not None:
                self._store.record_event(obj, "Recovered", "Successfully recover chaos", source=SOURCE)
            return
        if experiment is None:
            self._store.record_event(
                live, "Failed", "Failed to select targets: no pod is selected", kind="Warning", source=SOURCE
            )
        elif (run and before.get("desiredPhase") != "Run") or (run and not before.get("containerRecords")):
            self._store.record_event(
                live, "Applied", f"Successfully apply chaos for {len(experiment.selected)} pods", source=SOURCE
            )
        elif not run and before.get("desiredPhase") == "Run":
            experiment.running = False
            self._store.record_event(live, "TimeUp", "Time up according to the duration", source=SOURCE)


def seconds(text: str) -> float:
    """A Go duration such as 1m30s or 300ms."""
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def rules_of(obj: Object, selected: list[tuple[str, str]], targets: list[tuple[str, str]] | None) -> list[Rule]:
    """The object as rules, one a direction."""
    spec, uid = obj["spec"], obj["metadata"]["uid"]
    these = frozenset(pod for _, pod in selected)
    those = None if targets is None else frozenset(pod for _, pod in targets)
    numbers: dict[str, float] = {}
    if spec["action"] == "delay":
        delay = spec["delay"]
        numbers = {"latency_s": seconds(delay["latency"]), "jitter_s": seconds(str(delay.get("jitter") or "0")),
                   "correlation": float(delay.get("correlation") or 0) / 100}  # fmt: skip
    elif spec["action"] == "loss":
        loss = spec["loss"]
        numbers = {"loss": float(loss["loss"]) / 100, "correlation": float(loss.get("correlation") or 0) / 100}
    direction = spec.get("direction") or "to"
    made = []
    if direction in ("to", "both"):
        made.append(Rule(f"{uid}/to", spec["action"], these, those, **numbers))
    if direction in ("from", "both"):
        made.append(Rule(f"{uid}/from", spec["action"], those, these, **numbers))
    return made


def select(store: Store, selector: Object, namespace: str) -> list[Object]:
    """Running pods that a PodSelectorSpec means; its parts must all hold."""
    named = selector.get("pods")
    spaces = selector.get("namespaces") or ([] if named else [namespace])
    wanted = selectors.of({"matchLabels": selector.get("labelSelectors") or {},
                           "matchExpressions": selector.get("expressionSelectors") or []})  # fmt: skip
    notes = selector.get("annotationSelectors") or {}
    nodes = selector.get("nodes") or []
    phases = selector.get("podPhaseSelectors") or ["Running"]
    found = []
    for pod in store.list("pods"):
        meta, status = pod["metadata"], pod.get("status") or {}
        if named is not None and meta["name"] not in (named.get(meta["namespace"]) or []):
            continue
        if (spaces and meta["namespace"] not in spaces) or not wanted(pod) or "deletionTimestamp" in meta:
            continue
        if any((meta.get("annotations") or {}).get(k) != v for k, v in notes.items()):
            continue
        if (
            (nodes and pod["spec"].get("nodeName") not in nodes)
            or status.get("phase") not in phases
            or not status.get("podIP")
        ):
            continue
        found.append(pod)
    return found


def some(pods: list[Object], mode: str, value: str, seed: str) -> list[Object]:
    """As many of the pods as the mode says, chosen by the seed, in their order."""
    share = float(value or 0)
    draw = random.Random(seed)
    count = {"all": len(pods), "one": 1, "fixed": int(share), "fixed-percent": int(len(pods) * share / 100)}.get(mode)
    if count is None:  # random-max-percent
        count = draw.randint(0, int(len(pods) * share / 100))
    return sorted(draw.sample(pods, min(count, len(pods))), key=lambda p: str(p["metadata"]["name"]))


def status_of(
    obj: Object, selected: list[tuple[str, str]], targets: list[tuple[str, str]] | None, run: bool, before: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """status: conditions and one record a pod, as Chaos Mesh writes them."""
    old = {(r["id"], r["selectorKey"]): r for r in (before.get("experiment") or {}).get("containerRecords") or []}
    phase = "Injected" if run else "Not Injected"
    records = []
    for key, pods in ((".", selected), (".Target", targets or [])):
        for name, _ in pods:
            record = dict(old.get((name, key)) or {"id": name, "selectorKey": key, "phase": "Not Injected", "injectedCount": 0,
                                                   "recoveredCount": 0, "events": []})  # fmt: skip
            if record["phase"] != phase:
                counted = "injectedCount" if run else "recoveredCount"
                event = {"operation": "Apply" if run else "Recover", "timestamp": now(), "type": "Succeeded"}
                record |= {"phase": phase, counted: record[counted] + 1, "events": [*record["events"], event]}
            records.append(record)
    paused = (obj["metadata"].get("annotations") or {}).get(PAUSE) == "true"
    conditions = {
        "Selected": bool(records), "AllInjected": bool(records) and run, "AllRecovered": not run, "Paused": paused,
    }  # fmt: skip
    stopped = "deletionTimestamp" in obj["metadata"] or paused or (bool(records) and not run)
    return {**before, "conditions": [{"type": k, "status": "True" if v else "False", "reason": ""} for k, v in conditions.items()],
            "experiment": {"desiredPhase": "Stop" if stopped else "Run", "containerRecords": records}}  # fmt: skip
