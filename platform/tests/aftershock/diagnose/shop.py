"""A small model of the shop under load on a busy machine, which writes run folders with a fault in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from aftershock.folder import RunFolder

from ..golden.make import GOLDEN

BEGIN_US = 1_800_000_000_000_000
SECOND = 1_000_000
WARM_UP_S, BASELINE_S, FAULT_S, RECOVERY_S = 2, 6, 8, 6
FAULT_FROM_S = WARM_UP_S + BASELINE_S
RATE = 40
NODES = {
    "body": ("storefront", "cart", "orders", "payments", "shipping"),
    "body2": ("storefront", "catalog", "cart", "orders", "payments"),
    "memory": ("postgres",),
}
OWN_MS = {
    "storefront": 1.5,
    "catalog": 0.8,
    "cart": 1.0,
    "orders": 2.0,
    "payments": 1.5,
    "shipping": 1.0,
    "postgres": 1.2,
}
CALLS: dict[tuple[str, str], tuple[str, ...]] = {
    ("storefront", "products"): ("catalog",), ("storefront", "cart"): ("cart",), ("storefront", "checkout"): ("orders",),
    ("catalog", ""): ("postgres",), ("cart", ""): ("catalog", "postgres", "postgres"),
    ("orders", ""): ("cart", "postgres", "payments", "postgres", "postgres"), ("payments", ""): ("postgres",),
    ("shipping", ""): ("postgres",),
}  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Fault:
    """What goes wrong while it lasts: of calls to `service` a `share` takes `more_ms` or is `refused`; only from `caller`, if given."""

    service: str = ""
    more_ms: float = 0.0
    times: float = 1.0  # its own work takes so many times as long
    share: float = 1.0
    refused: float = 0.0
    lost: float = 0.0  # so many calls get no answer for `timeout_ms`
    timeout_ms: float = 1000.0
    caller: str | None = None
    from_s: float = FAULT_FROM_S
    to_s: float = FAULT_FROM_S + FAULT_S

    def hits(self, caller: str | None, service: str, at_s: float) -> bool:
        """Whether it is in the way of this call."""
        return service == self.service and self.from_s <= at_s < self.to_s and self.caller in (None, caller)


@dataclass
class Shop:
    """Plays all customers once; `busy(at_s)` is by how much the whole machine is slower."""

    seed: int = 1
    fault: Fault = field(default_factory=Fault)
    busy: Callable[[float], float] = lambda at_s: 1.0
    retries: bool = True

    def __post_init__(self) -> None:
        self.rng, self.spans, self.samples = Random(self.seed), list[Row](), list[Row]()
        hiccups = [self.rng.uniform(0, 22) for _ in range(3)]
        self._hiccup = lambda at_s: 4.0 if any(h <= at_s < h + 0.4 for h in hiccups) else 1.0
        for n in range((FAULT_FROM_S + FAULT_S + RECOVERY_S) * RATE):
            at_s = n / RATE
            for step in ("products", "cart", "checkout") if n % 2 else ("products",):
                took, ok = self.call(None, "storefront", at_s, step, None)
                self.samples.append(self._sample(n, step, at_s, took, ok))
                at_s += took / 1000
            if n % 2:
                self.call("orders", "shipping", at_s + 0.1, "", None)

    def call(self, caller: str | None, service: str, at_s: float, step: str, parent: str | None) -> tuple[float, bool]:
        """(milliseconds, answered well) of one call, as its caller feels it; leaves spans behind."""
        took, ok = 0.0, True
        span = None if caller is None else self._span("CLIENT", caller, service, parent, at_s)
        hit = self.fault.hits(caller, service, at_s) and self.rng.random() < self.fault.share
        if hit and self.rng.random() < self.fault.lost:
            took, ok = self.fault.timeout_ms, False
        elif hit and self.rng.random() < self.fault.refused:
            took, ok = 0.4, False
        else:
            took, ok = self._serve(
                service, at_s, step, span["span_id"] if span else parent, self.fault.times if hit else 1.0
            )
            took += self.fault.more_ms * self.rng.uniform(0.9, 1.1) if hit else 0.0
        if span is not None:
            span.update(duration_us=int(took * 1000), error=not ok)
        return took, ok

    def _serve(self, service: str, at_s: float, step: str, parent: str | None, times: float) -> tuple[float, bool]:
        slow = self.busy(at_s) * self._hiccup(at_s) * self.rng.lognormvariate(0, 0.35)
        span = None if service == "postgres" else self._span("SERVER", service, None, parent, at_s)
        took, ok = OWN_MS[service] * slow * times, True
        for callee in CALLS.get((service, step), ()):
            inside, well = self.call(service, callee, at_s + took / 1000, "", span["span_id"] if span else None)
            if not well and self.retries and inside < 500:
                again, well = self.call(
                    service, callee, at_s + (took + inside + 50) / 1000, "", span["span_id"] if span else None
                )
                inside += 50 + again
            took += inside
            if not well:
                ok = False
                break
        if span is not None:
            span.update(duration_us=int(took * 1000), error=not ok)
        return took, ok

    def _span(self, kind: str, service: str, peer: str | None, parent: str | None, at_s: float) -> Row:
        row = {"trace_id": "t", "span_id": f"s{len(self.spans)}", "parent_span_id": parent, "service": service, "kind": kind, "peer": peer,
               "start_us": BEGIN_US + int(at_s * SECOND), "duration_us": 0, "error": False}  # fmt: skip
        self.spans.append(row)
        return row

    def _sample(self, n: int, step: str, at_s: float, took: float, ok: bool) -> Row:
        start_us, latency_us = BEGIN_US + int(at_s * SECOND), min(2 * SECOND, int(took * 1000))
        status, error = (None, "timeout") if took > 2000 else (200 if ok else 503, None)
        return {"iteration": n, "journey": "checkout", "step": step, "intended_us": start_us, "start_us": start_us,
                "end_us": start_us + latency_us, "latency_us": latency_us, "status": status, "error": error}  # fmt: skip

    def write(self, path: Path, events: Iterable[Row] = ()) -> RunFolder:
        """A run folder with all that a diagnosis may read."""
        path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path)
        run = json.loads((GOLDEN / "run.json").read_text())
        edges = [0, WARM_UP_S, FAULT_FROM_S, FAULT_FROM_S + FAULT_S, FAULT_FROM_S + FAULT_S + RECOVERY_S]
        names = ("warm_up", "baseline", "fault", "recovery")
        run["windows"] = {
            n: {"from_us": BEGIN_US + a * SECOND, "to_us": BEGIN_US + b * SECOND}
            for n, a, b in zip(names, edges, edges[1:], strict=False)
        }
        run["topology"]["pods"] = [
            {"name": pod(s, node), "uid": uid(s, node), "service": s, "node": node, "ip": "127.0.0.1"}
            for node, services in NODES.items() for s in services
        ]  # fmt: skip
        folder.write("run.json", run)
        for name, rows in (("traces", self.spans), ("samples", self.samples)):
            with folder.writer(f"{name}.parquet") as writer:
                writer.append(rows)
        folder.write_lines("events.jsonl", [*initial(), *events])
        return folder


def pod(service: str, node: str) -> str:
    """Name of a service's pod on a node."""
    return f"{service}-{node}"


def uid(service: str, node: str) -> str:
    """Its uid."""
    return f"uid-{service}-{node}"


def event(at_s: float, type_: str, kind: str, name: str, detail: Row, *, service: str | None = None, node: str | None = None,
          uid: str | None = None, source: str = "watch", reason: str | None = None) -> Row:  # fmt: skip
    """One line of events.jsonl."""
    return {"id": "ev-000001", "time_us": BEGIN_US + int(at_s * SECOND), "source": source, "type": type_, "kind": kind, "namespace": "shop",
            "name": name, "uid": uid, "node": node, "service": service, "reason": reason, "detail": detail}  # fmt: skip


def pod_event(at_s: float, type_: str, service: str, on: str, **detail: Any) -> Row:
    """A line about a pod."""
    state = {"phase": "Running", "ready": True, "restarts": 0, "containers": [], **detail}
    return event(at_s, type_, "Pod", pod(service, on), state, service=service, node=on, uid=uid(service, on))


def node_event(at_s: float, name: str, **detail: Any) -> Row:
    """A line about a node that changed."""
    return event(
        at_s, "MODIFIED", "Node", name, {"unschedulable": False, "ready": True, "taints": [], **detail}, node=name
    )


def deployment_event(at_s: float, name: str, **detail: Any) -> Row:
    """A line about a Deployment that changed."""
    return event(
        at_s, "MODIFIED", "Deployment", name, {"replicas": 2, "ready": 2, "image": "shop:1", **detail}, service=name
    )


def killed(service: str, on: str, at_s: float = FAULT_FROM_S + 0.02) -> list[Row]:
    """A pod is deleted and gone."""
    return [
        pod_event(at_s, "MODIFIED", service, on, deletionTimestamp="now"),
        pod_event(at_s + 0.1, "DELETED", service, on, ready=False),
    ]


def initial() -> list[Row]:
    """What a watch lists when it begins."""
    services = sorted({s for group in NODES.values() for s in group} - {"postgres"})
    lines = [pod_event(0, "ADDED", s, node, initial=True) for node, group in NODES.items() for s in group]
    lines += [{**node_event(0, node, initial=True), "type": "ADDED"} for node in NODES]
    return lines + [{**deployment_event(0, s, initial=True), "type": "ADDED"} for s in services]
