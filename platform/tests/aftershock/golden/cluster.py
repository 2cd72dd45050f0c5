"""The cluster of the golden run: watch events, Kubernetes Events and the metrics that were scraped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

from .scene import (
    ALL_PODS,
    END_US,
    FAULT_US,
    KILLED_US,
    LOAD_US,
    NODES,
    PODS,
    READY_US,
    RECOVERY_US,
    REPLACEMENT,
    ROUTED_US,
    SECOND,
    STARTED_US,
    SURVIVOR,
    VICTIM,
    Pod,
    uid,
)

Row = dict[str, Any]
SERVICES = ("storefront", "catalog", "cart", "orders", "payments", "shipping", "postgres")
SCRAPE_US = 500_000


class Journal:
    """Collects events in the order of their time and numbers them."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, time_us: int, type_: str, kind: str, name: str | None, *, source: str = "watch", pod: Pod | None = None,
            uid: str | None = None, node: str | None = None, service: str | None = None, reason: str | None = None,
            **detail: Any) -> str:  # fmt: skip
        self.rows.append({
            "id": f"ev-{len(self.rows) + 1:06d}", "time_us": time_us, "source": source, "type": type_, "kind": kind,
            "namespace": None if kind in ("Node", "Runner") else "shop", "name": name, "uid": pod.uid if pod else uid,
            "node": pod.node if pod else node, "service": pod.service if pod else service, "reason": reason, "detail": detail})  # fmt: skip
        return str(self.rows[-1]["id"])


def events() -> tuple[list[Row], dict[str, list[str]]]:
    """The lines of events.jsonl, and the ids that prove each step of the fault."""
    log, rng, at = Journal(), Random(3), STARTED_US + 210_000
    for node in NODES:
        log.add(at, "ADDED", "Node", node, uid=uid(rng), node=node, ready=True, unschedulable=False)
    for service in SERVICES[:-1]:
        count = sum(p.service == service for p in PODS)
        log.add(at + 4_000, "ADDED", "Deployment", service, uid=uid(rng), service=service, replicas=count, ready=count)
    for pod in PODS:
        log.add(at + 9_000, "ADDED", "Pod", pod.name, pod=pod, phase="Running", ready=True, restarts=0)
    for service in SERVICES:
        addresses = [p.ip for p in PODS if p.service == service]
        log.add(
            at + 13_000,
            "ADDED",
            "EndpointSlice",
            f"{service}-x7k2m",
            uid=uid(rng),
            service=service,
            ready=addresses,
            not_ready=[],
        )
    log.add(LOAD_US, "INJECTED", "Runner", "load", source="runner", reason="LoadStarted", tool="k6", rate_per_s=40)
    asked = log.add(
        FAULT_US + 2_100,
        "INJECTED",
        "Runner",
        "kill-one-payments-pod",
        source="runner",
        reason="pod-kill",
        target=VICTIM.name,
    )
    accepted = log.add(FAULT_US + 8_400, "MODIFIED", "Pod", VICTIM.name, pod=VICTIM, reason="Deleting", phase="Running", ready=True,
                       deletion_grace_s=0)  # fmt: skip
    killing = log.add(FAULT_US + 9_900, "NORMAL", "Event", VICTIM.name, pod=VICTIM, reason="Killing",
                      note="Stopping container payments", regarding="Pod")  # fmt: skip
    gone = log.add(KILLED_US + 3_700, "DELETED", "Pod", VICTIM.name, pod=VICTIM, phase="Running", ready=False)
    log.add(FAULT_US + 31_000, "MODIFIED", "Deployment", "payments", service="payments", replicas=2, ready=1)
    log.add(FAULT_US + 62_000, "NORMAL", "Event", "payments-6c8f7d9b5c", service="payments", reason="SuccessfulCreate",
            note=f"Created pod: {REPLACEMENT.name}", regarding="ReplicaSet")  # fmt: skip
    born = log.add(
        FAULT_US + 64_000, "ADDED", "Pod", REPLACEMENT.name, pod=REPLACEMENT, phase="Pending", ready=False, restarts=0
    )
    log.add(FAULT_US + 88_000, "NORMAL", "Event", REPLACEMENT.name, pod=REPLACEMENT, reason="Scheduled",
            note=f"Successfully assigned shop/{REPLACEMENT.name} to {REPLACEMENT.node}", regarding="Pod")  # fmt: skip
    fewer = log.add(
        ROUTED_US, "MODIFIED", "EndpointSlice", "payments-x7k2m", service="payments", ready=[SURVIVOR.ip], not_ready=[]
    )
    log.add(FAULT_US + 640_000, "NORMAL", "Event", REPLACEMENT.name, pod=REPLACEMENT, reason="Started", note="Started container payments",
            regarding="Pod")  # fmt: skip
    log.add(
        FAULT_US + 644_000,
        "MODIFIED",
        "Pod",
        REPLACEMENT.name,
        pod=REPLACEMENT,
        phase="Running",
        ready=False,
        restarts=0,
    )
    log.add(FAULT_US + 1_120_000, "WARNING", "Event", REPLACEMENT.name, pod=REPLACEMENT, reason="Unhealthy",
            note="Readiness probe failed: HTTP probe failed with statuscode: 503", regarding="Pod")  # fmt: skip
    ready = log.add(
        READY_US - 9_000,
        "MODIFIED",
        "Pod",
        REPLACEMENT.name,
        pod=REPLACEMENT,
        reason="Ready",
        phase="Running",
        ready=True,
    )
    more = log.add(READY_US, "MODIFIED", "EndpointSlice", "payments-x7k2m", service="payments", ready=[SURVIVOR.ip, REPLACEMENT.ip],
                   not_ready=[])  # fmt: skip
    log.add(READY_US + 12_000, "MODIFIED", "Deployment", "payments", service="payments", replicas=2, ready=2)
    undone = log.add(RECOVERY_US + 6_000, "UNDONE", "Runner", "kill-one-payments-pod", source="runner", reason="pod-kill",
                     ready="2 of 2")  # fmt: skip
    log.add(END_US, "UNDONE", "Runner", "load", source="runner", reason="LoadEnded")
    return log.rows, {"requested": [asked], "accepted": [accepted, killing], "observed": [gone, fewer], "undone": [undone, born, ready],
                      "recovered": [ready, more]}  # fmt: skip


def metrics(spans: Sequence[Row]) -> list[Row]:
    """Rows of metrics.parquet: counters of each pod, scraped twice a second from what its spans say it did."""
    rng, rows = Random(11), []
    done = [(s["start_us"] + s["duration_us"], s) for s in spans if s["kind"] == "SERVER" or s["peer"] == "payments"]
    done.sort(key=lambda pair: pair[0])
    totals: dict[tuple[str, str, str], float] = {}
    births = {pod.name: READY_US - 900_000 if pod is REPLACEMENT else 0 for pod in ALL_PODS}
    cpu = {pod.name: rng.uniform(1.0, 3.0) for pod in ALL_PODS}
    index = 0
    for at in range(LOAD_US, END_US + SECOND, SCRAPE_US):
        while index < len(done) and done[index][0] <= at:
            _count(totals, done[index][1])
            index += 1
        for n, pod in enumerate(ALL_PODS):
            if at < births[pod.name] or (pod is VICTIM and at >= KILLED_US):
                continue
            when = at + n * 1_900
            cpu[pod.name] += rng.uniform(0.02, 0.05)
            rows.append(_row(when, pod, "process_cpu_seconds_total", {}, round(cpu[pod.name], 3)))
            rows.append(
                _row(when, pod, "process_resident_memory_bytes", {}, float(46_000_000 + rng.randint(0, 400) * 4096))
            )
            rows.extend(
                _row(when, pod, name, json.loads(labels), round(value, 6))
                for (owner, name, labels), value in sorted(totals.items())
                if owner == pod.name
            )
    return rows


def _count(totals: dict[tuple[str, str, str], float], span: Row) -> None:
    if span["kind"] == "SERVER":
        method, route = span["operation"].split(" ", 1)
        labels = {"service": span["service"], "route": route, "method": method}
        _add(totals, span["pod"], "http_requests_total", {**labels, "status": str(span["status_code"])}, 1.0)
        _add(totals, span["pod"], "http_request_duration_seconds_count", labels, 1.0)
        _add(totals, span["pod"], "http_request_duration_seconds_sum", labels, span["duration_us"] / 1e6)
    else:
        outcome = "refused" if span["error"] else "ok"
        _add(
            totals,
            span["pod"],
            "client_requests_total",
            {"service": span["service"], "peer": span["peer"], "outcome": outcome},
            1.0,
        )


def _add(totals: dict[tuple[str, str, str], float], pod: str, name: str, labels: Row, value: float) -> None:
    key = (pod, name, json.dumps(labels, sort_keys=True))
    totals[key] = totals.get(key, 0.0) + value


def _row(at: int, pod: Pod, name: str, labels: Row, value: float) -> Row:
    return {"time_us": at, "pod": pod.name, "service": pod.service, "node": pod.node, "name": name,
            "labels": json.dumps(labels, sort_keys=True), "value": value}  # fmt: skip
