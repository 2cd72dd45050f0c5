"""Run folders of every kind for the tests of what reads them: a small run in figures that can be worked out by hand.

One iteration every 50 ms for 22 s (440); in the first 2 s of the fault window every fifth fails. The judge's file is written as it would.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

from aftershock.folder import RunFolder

Json = dict[str, Any]
RUN_ID = "20260301T120000Z-0a1b2c"
T0 = 1_772_366_400_000_000  # 2026-03-01 12:00:00 UTC
S = 1_000_000
WINDOWS = {"warm_up": (0, 2), "baseline": (2, 8), "fault": (8, 16), "recovery": (16, 22)}
STEP_US = 50_000
ITERATIONS = 440
FAILED = tuple(i for i in range(160, 200, 5))  # 8 of the fault window's 160 journeys: success ratio 0.95
POD = "payments-6f9c7d-x2k4z"


def _step(after_s: float, summary: str, events: list[str], value: float | None = None, unit: str | None = None) -> Json:
    return {
        "time_us": T0 + round(after_s * S),
        "source": "watch",
        "summary": summary,
        "events": events,
        "value": value,
        "unit": unit,
    }


def documents() -> Json:
    """The JSON files of a whole run that FAILs on one objective, by name; change what a test needs."""
    nodes = [("storefront", "body"), ("orders", "body2"), ("payments", "body"), ("shipping", "body2")]
    tested = {"structure": True, "deviation": True, "order": True, "why": ""}
    pods = [
        {
            "name": f"{service}-6f9c7d-x2k4z",
            "uid": f"uid-{service}",
            "service": service,
            "node": node,
            "ip": f"127.9.0.{n}",
        }
        for n, (service, node) in enumerate(nodes, 1)
    ]
    run = {
        "run_id": RUN_ID, "experiment": "payments-pod-kill", "title": "Checkout survives the loss of one payments pod",
        "started_us": T0 - S, "ended_us": T0 + 23 * S, "seed": 7, "expect": "fault", "weakness": None,
        "cluster": {"kind": "pocket", "context": "pocket", "server_version": "v1.34.0", "fingerprint": "ab" * 32,
                    "nodes": ["brain", "body", "body2", "memory"]},
        "git_commit": "0123abcd", "versions": {"aftershock": "0.1.0"}, "images": {}, "clock": {"offset_us": 0, "source": "system"},
        "load": {"tool": "k6", "scenario": "scenarios/checkout.js", "rate_per_s": 40, "target_url": "http://127.9.0.100:7070"},
        "windows": {name: {"from_us": T0 + a * S, "to_us": T0 + b * S} for name, (a, b) in WINDOWS.items()},
        "topology": {"calls": [["storefront", "orders"], ["orders", "payments"], ["orders", "shipping"]], "pods": pods},
        "unenforced": ["spec.containers[0].resources.limits.memory"],
    }  # fmt: skip
    target = {
        "kind": "Pod",
        "namespace": "shop",
        "name": POD,
        "uid": "uid-payments",
        "node": "body",
        "service": "payments",
    }
    evidence = {
        "faults": [{"id": "f1", "activity": "kill-one-payments-pod", "action": "pod-kill", "targets": [target], "steps": {
            "requested": _step(8.0, "asked", []), "accepted": _step(8.012, "200", []),
            "observed": _step(8.25, "pod is gone", ["ev-000002"]), "undone": None,
            "recovered": _step(9.34, "replacement is ready", ["ev-000003"])}, "refused": None}],
        "activities": [{"name": "checkout-works", "kind": "probe", "phase": "before", "status": "succeeded", "time_us": T0 + 7 * S,
                        "duration_us": 9000, "output": True, "error": None, "tolerance_met": True}],
        "observers": [{"name": "watch", "from_us": T0 - S, "to_us": T0 + 23 * S, "records": 4, "gaps": []}],
        "steady": {"before": True, "after": True, "why": "probes held"},
        "load": {"offered": True, "scheduled": 880, "started_on_time": 879, "late_max_us": 1200, "dropped": 0, "exit_code": 0,
                 "error": None},
        "undo": {"pending": 0, "entries": []},
    }  # fmt: skip
    slos = [
        {"id": "slo.1", "journey": "checkout", "indicator": "success_ratio", "bound": 0.99, "window": "fault", "measured": 0.95,
         "samples": 160, "held": False},
        {"id": "slo.2", "journey": "checkout", "indicator": "latency_ms_p95", "bound": 400, "window": "recovery", "measured": 12.5,
         "samples": 120, "held": True},
    ]  # fmt: skip
    verdict = {
        "verdict": "FAIL",
        "findings": [
            finding(1, "targets", "PASS", "pod-kill had 1 target(s)", ["f1"]),
            finding(2, "observed", "PASS", "pod-kill was observed", ["f1", "ev-000002"]),
            finding(3, "slo", "FAIL", "checkout success_ratio >= 0.99 in fault: measured 0.95 over 160 journeys", ["slo.1"]),
            finding(4, "recovery", "PASS", "recovered 1.34 s after the undo", []),
        ],
        "slos": slos, "recovery": {"deadline_s": 15, "recovered_s": 1.34}, "judged_at_us": T0 + 24 * S,
    }  # fmt: skip
    invariants = {"checked_at_us": T0 + 23 * S, "settled": True, "results": [
        {"name": "no_lost_order", "outcome": "PASS", "checked": 880, "violations": [], "summary": "none of 880 lost"},
        {"name": "paid_iff_shipped", "outcome": "PASS", "checked": 880, "violations": [], "summary": "all"}]}  # fmt: skip
    diagnosis = {
        "verdict": "root_cause", "onset": (T0 + 8 * S) / 1e6,
        "ranked": [{"entity": "payments", "indicator": "errors", "score": 0.91, "path": ["storefront", "orders", "payments"]},
                   {"entity": "orders", "indicator": "latency", "score": 0.2, "path": ["storefront", "orders"]}],
        "edges": [
            {"cause": "payments", "effect": "orders", "outcome": "accepted", **tested},
            {"cause": "orders", "effect": "storefront", "outcome": "accepted", **tested},
            {"cause": "shipping", "effect": "orders", "outcome": "rejected", "structure": True, "deviation": False, "order": False,
             "why": "shipping did not deviate"}],
        "observed": {"entities": ["payments", "orders", "storefront"], "impact": {"entity": "storefront"}},
        "truth": {"entity": "payments", "rank": 1},
    }  # fmt: skip
    return {
        "run.json": run,
        "evidence.json": evidence,
        "verdict.json": verdict,
        "invariants.json": invariants,
        "diagnosis.json": diagnosis,
    }


def finding(number: int, rule: str, outcome: str, summary: str, evidence: list[str], hint: str | None = None) -> Json:
    """One finding of verdict.json."""
    return {"id": f"fi-{number:02d}", "rule": rule, "outcome": outcome, "summary": summary, "evidence": evidence, "hint": hint,
            "measured": None, "bound": None, "unit": None, "window": None}  # fmt: skip


def events() -> list[Json]:
    """What the watch and the runner saw."""

    def event(number: int, after_s: float, type_: str, kind: str, name: str, reason: str | None, **more: Any) -> Json:
        return {"id": f"ev-{number:06d}", "time_us": T0 + round(after_s * S), "source": "watch", "type": type_, "kind": kind,
                "namespace": "shop", "name": name, "uid": None, "node": "body", "service": "payments", "reason": reason,
                "detail": {}, **more}  # fmt: skip

    return [
        event(1, 8.0, "INJECTED", "Runner", "kill-one-payments-pod", "pod-kill",
              source="runner", detail={"activity": "kill-one-payments-pod"}),
        event(2, 8.25, "DELETED", "Pod", POD, "Killing"),
        event(3, 9.34, "ADDED", "Pod", "payments-6f9c7d-q8w7e", "Started"),
        event(4, 8.3, "WARNING", "Event", POD, "Killing", detail={"note": "kill-one-payments-pod"}),
    ]  # fmt: skip


def write(reports: Path, change: Callable[[Json], None] | None = None, *, run_id: str = RUN_ID, iterations: int = ITERATIONS,
          spans_each: int = 3, failed: tuple[int, ...] = FAILED) -> RunFolder:  # fmt: skip
    """A whole run folder; `change` edits the documents before they are written (delete a key to leave a file out)."""
    files = deepcopy(documents())
    files["run.json"]["run_id"] = run_id
    if change:
        change(files)
    folder = RunFolder.create(reports, files["run.json"]["experiment"], run_id)
    for name, value in files.items():
        folder.write(name, value)
    if "evidence.json" not in files:
        return folder
    folder.write_lines("events.jsonl", events())
    ledger: list[Json] = []
    with folder.writer("samples.parquet") as samples, folder.writer("traces.parquet") as traces:
        for i in range(iterations):
            at = T0 + i * STEP_US
            bad = i in failed
            lost = i == 160 and bad
            order, trace = f"order-{i:04d}", f"{i:032x}"
            samples.append(
                [
                    {
                        "iteration": i,
                        "journey": "checkout",
                        "step": "checkout",
                        "intended_us": at,
                        "start_us": at,
                        "end_us": at + 10_000 + i % 7 * 100,
                        "latency_us": 10_000,
                        "status": 503 if bad else 201,
                        "error": None,
                        "order_id": None if bad else order,
                        "idempotency_key": f"key-{i:05d}",
                        "trace_id": trace,
                    }
                ]
            )
            traces.append([
                {"trace_id": trace, "span_id": f"{i:08x}{n:08x}", "parent_span_id": None, "service": service,
                 "pod": f"{service}-6f9c7d-x2k4z",
                 "node": "body", "kind": "CLIENT" if n == 1 else "SERVER", "operation": "POST /checkout",
                 "peer": "payments" if n == 1 else None, "start_us": at + n * 1000, "duration_us": 5000, "status_code": 503 if bad else 201,
                 "error": bad, "error_type": "connection_refused" if bad else None, "order_id": order}
                for n, service in list(enumerate(("storefront", "orders", "payments", "shipping", "storefront", "orders")))[:spans_each]
                if not (bad and service == "payments")])  # fmt: skip
            ledger.append(
                {
                    "kind": "order",
                    "id": order,
                    "idempotency_key": f"key-{i:05d}",
                    "state": "pending" if lost else "shipped",
                    "reason": "payment_unknown" if lost else None,
                    "customer": "c",
                    "total_cents": 1000,
                    "items": [{"sku": "sku-001", "quantity": 1}],
                    "created_us": at,
                    "updated_us": at + 1,
                    "trace_id": trace,
                }
            )
            if not lost:
                ledger.append({"kind": "payment", "id": f"pay-{i:04d}", "order_id": order, "state": "charged", "amount_cents": 1000,
                               "idempotency_key": f"key-{i:05d}", "created_us": at + 2})  # fmt: skip
                ledger.append(
                    {
                        "kind": "shipment",
                        "id": f"ship-{i:04d}",
                        "order_id": order,
                        "state": "shipped",
                        "created_us": at + 3,
                    }
                )
    ledger.append({"kind": "end", "next": None, "as_of_us": T0 + 23 * S})
    folder.write_lines("ledger.ndjson", ledger)
    return folder


def refused(files: Json) -> None:
    """A run that preflight did not let begin."""
    for name in ("evidence.json", "invariants.json", "diagnosis.json"):
        del files[name]
    files["run.json"]["windows"] = {}
    hint = "label the namespace aftershock.dev/chaos=allowed"
    files["verdict.json"] |= {
        "verdict": "INCONCLUSIVE", "slos": [], "recovery": {"deadline_s": 15, "recovered_s": None},
        "findings": [finding(1, "preflight", "INCONCLUSIVE", "namespace shop is not labelled for chaos", [], hint)],
    }  # fmt: skip


def passed(files: Json) -> None:
    """A run in which everything held."""
    files["verdict.json"]["verdict"] = "PASS"
    files["verdict.json"]["findings"][2] = finding(3, "slo", "PASS", "held", ["slo.1"])
    files["verdict.json"]["slos"][0] |= {"bound": 0.9, "held": True}


def inconclusive(files: Json) -> None:
    """A fault that was accepted and never seen, under a load that came late, with an observer that was blind for a while."""
    files["evidence.json"]["faults"][0]["steps"] |= {"observed": None, "recovered": None}
    files["evidence.json"]["observers"][0]["gaps"] = [
        {"from_us": T0 + 9 * S, "to_us": T0 + 11 * S, "reason": "410 Gone"}
    ]
    files["evidence.json"]["load"] |= {"started_on_time": 700, "dropped": 180}
    files["evidence.json"]["steady"] |= {"before": None, "after": None}
    files["evidence.json"]["undo"] = {
        "pending": 1,
        "entries": [{"id": 1, "action": "x", "state": "failed", "time_us": None}],
    }
    files["verdict.json"] |= {
        "verdict": "INCONCLUSIVE", "recovery": {"deadline_s": 15, "recovered_s": None},
        "findings": [finding(1, "observed", "INCONCLUSIVE", "pod-kill was accepted but its effect was never observed", ["f1"],
                             "an answer of the API is no proof; see evidence.json")],
    }  # fmt: skip
    files["verdict.json"]["slos"][0] |= {"held": None, "measured": None, "samples": 3}
    files["invariants.json"]["results"][0] |= {"outcome": "INCONCLUSIVE", "checked": 0}
    files["diagnosis.json"] |= {"verdict": "no_root_cause", "ranked": [], "edges": [], "truth": None}
    del files["run.json"]["unenforced"][:]
