"""Makes the golden run folder: `cd platform && python -m tests.aftershock.golden.make`. Seeded, so that every run gives the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from aftershock import judge, junit, report
from aftershock.folder import RunFolder

from . import cluster, story
from .scene import (
    CALLS,
    END_US,
    FAULT_US,
    ITERATIONS,
    KILLED_US,
    LOAD_US,
    NODES,
    PODS,
    RATE_PER_S,
    READY_US,
    RECOVERY_US,
    RUN_ID,
    SECOND,
    SEED,
    STARTED_US,
    VICTIM,
    WINDOWS,
)
from .traffic import Customers, Traffic

HERE = Path(__file__).parent
GOLDEN = HERE / "payments-pod-kill"
Row = dict[str, Any]


def make(path: Path) -> RunFolder:
    """Write every file of the run into the empty folder `path`."""
    folder = RunFolder(path)
    document = yaml.safe_load((HERE / "payments-pod-kill.yaml").read_text(encoding="utf-8"))
    traffic = Customers(SEED).play()
    events, proof = cluster.events()
    metrics = cluster.metrics(traffic.spans)
    folder.write_text("experiment.yaml", (HERE / "payments-pod-kill.yaml").read_text(encoding="utf-8"))
    folder.write("run.json", run(document))
    for name, rows in (("samples", traffic.samples), ("metrics", metrics), ("traces", traffic.spans)):
        with folder.writer(f"{name}.parquet") as writer:
            writer.append(rows)
    folder.write_lines("events.jsonl", events)
    folder.write_lines("ledger.ndjson", traffic.ledger())
    counts = {
        "watch": sum(e["source"] == "watch" for e in events),
        "metrics": len(metrics),
        "spans": len(traffic.spans),
    }
    folder.write("evidence.json", evidence(proof, counts, traffic))
    folder.write("journal.json", journal(document))
    folder.write("invariants.json", invariants(traffic))
    judge.judge_folder(folder, now_us=END_US + 3 * SECOND)
    folder.write("diagnosis.json", story.diagnosis((FAULT_US + 25_000) / 1e6))
    known = story.facts(folder)
    folder.write("facts.json", known)
    text = story.postmortem(known)
    folder.write("postmortem.json", text)
    folder.write_text("postmortem.md", story.markdown(text["language"]["en"]))
    folder.write_text("postmortem.ko.md", story.markdown(text["language"]["ko"]))
    report.write(folder)
    junit.write(folder)
    return folder


def run(document: Row) -> Row:
    """run.json."""
    return {
        "run_id": RUN_ID, "experiment": "payments-pod-kill", "title": document["title"],
        "started_us": STARTED_US, "ended_us": END_US + 2 * SECOND,
        "seed": SEED, "expect": "fault", "weakness": None,
        "cluster": {"kind": "pocket", "context": "pocket:golden", "server_version": "v1.34.0+pocket", "fingerprint": "9f2c" * 16,
                    "nodes": list(NODES)},
        "git_commit": "402249d0c7a51b6f3e8d9a4c2b1f0e7d6c5b4a39",
        "versions": {"aftershock": "0.1.0", "python": "3.11.2", "chaostoolkit": "1.19.0",
                     "chaostoolkit-kubernetes": "0.39.0", "k6": "1.1.0"},
        "images": {"aftershock/shop:dev": "sha256:" + "1d0e" * 16, "postgres:18": None},
        "clock": {"offset_us": 0, "source": "one machine"},
        "load": {"tool": "k6", "scenario": "scenarios/checkout.js", "rate_per_s": RATE_PER_S, "target_url": "http://127.41.255.10:7070"},
        "windows": WINDOWS,
        "topology": {"calls": [list(c) for c in CALLS], "pods": [p.row for p in PODS]},
        "unenforced": ["Deployment/payments: spec.template.spec.containers[0].securityContext.readOnlyRootFilesystem",
                       "StatefulSet/postgres: spec.template.spec.containers[0].resources.limits.memory"],
    }  # fmt: skip


def step(
    time_us: int, source: str, summary: str, events: list[str], value: float | None = None, unit: str | None = None
) -> Row:
    """One step of the evidence chain."""
    return {"time_us": time_us, "source": source, "summary": summary, "events": events, "value": value, "unit": unit}


def evidence(proof: dict[str, list[str]], counts: dict[str, int], traffic: Traffic) -> Row:
    """evidence.json."""
    target = {
        "kind": "Pod",
        "namespace": "shop",
        "name": VICTIM.name,
        "uid": VICTIM.uid,
        "node": VICTIM.node,
        "service": "payments",
    }
    starts = [s["start_us"] - s["intended_us"] for s in traffic.samples if s["step"] == "products"]
    return {
        "faults": [{
            "id": "f1", "activity": "kill-one-payments-pod", "action": "pod-kill", "targets": [target],
            "steps": {
                "requested": step(FAULT_US + 2_100, "runner", f"delete {VICTIM.name}", proof["requested"]),
                "accepted": step(FAULT_US + 8_400, "api", "DELETE answered 200", proof["accepted"]),
                "observed": step(KILLED_US + 3_700, "watch", f"uid {VICTIM.uid[:8]} is gone, endpoints 2 to 1", proof["observed"]),
                "undone": step(RECOVERY_US + 6_000, "watch", "a replacement with another uid is Ready: 2 of 2", proof["undone"],
                               round((READY_US - FAULT_US) / 1e6, 2), "s"),
                "recovered": step(RECOVERY_US + 131_000, "probe", "payments-serves holds again", proof["recovered"]),
            }}],
        "activities": [
            activity("payments-serves", "probe", "before", FAULT_US - 900_000, 21_400, True, True),
            activity("kill-one-payments-pod", "action", "method", FAULT_US + 2_100, 7_300, [VICTIM.name], None),
            activity("payments-serves", "probe", "after", RECOVERY_US + 110_000, 20_800, True, True),
        ],
        "observers": [
            {"name": "watch", "from_us": STARTED_US + 210_000, "to_us": END_US + 400_000, "records": counts["watch"], "gaps": []},
            {"name": "metrics", "from_us": LOAD_US, "to_us": END_US + 400_000, "records": counts["metrics"],
             "gaps": [{"from_us": KILLED_US, "to_us": FAULT_US + 740_000, "reason": f"{VICTIM.name}: connection refused"}]},
            {"name": "spans", "from_us": LOAD_US - SECOND, "to_us": END_US + 400_000, "records": counts["spans"], "gaps": []},
        ],
        "steady": {"before": True, "after": True, "why": "payments-serves held before and after"},
        "load": {"offered": True, "scheduled": ITERATIONS, "started_on_time": ITERATIONS, "late_max_us": max(starts), "dropped": 0,
                 "exit_code": 0, "error": None},
        "undo": {"pending": 0, "entries": [{"id": 1, "action": "pod-kill: see that the replacement serves", "state": "done",
                                            "time_us": RECOVERY_US + 6_000}]},
    }  # fmt: skip


def activity(name: str, kind: str, phase: str, time_us: int, took_us: int, output: Any, met: bool | None) -> Row:
    """An activity that succeeded."""
    return {"name": name, "kind": kind, "phase": phase, "status": "succeeded", "time_us": time_us, "duration_us": took_us, "output": output,
            "error": None, "tolerance_met": met}  # fmt: skip


def journal(document: Row) -> Row:
    """journal.json, as Chaos Toolkit writes it."""
    probe, action = document["steady-state-hypothesis"]["probes"][0], document["method"][0]

    def ran(what: Row, second: str, output: Any, took_s: float) -> Row:
        return {"activity": what, "output": output, "start": f"2026-01-15T10:00:{second}", "status": "succeeded",
                "end": f"2026-01-15T10:00:{second}", "duration": took_s}  # fmt: skip

    def state(second: str) -> Row:
        return {"steady_state_met": True, "probes": [{**ran(probe, second, True, 0.021), "tolerance_met": True}]}

    return {
        "chaoslib-version": "1.44.0", "platform": "Linux", "node": "golden", "experiment": document, "start": "2026-01-15T10:00:03.000000",
        "status": "completed", "deviated": False,
        "steady_states": {"before": state("10.100000"), "after": state("19.110000"), "during": []},
        "run": [ran(action, "11.002100", [VICTIM.name], 0.0073)], "rollbacks": [], "end": "2026-01-15T10:00:25.000000", "duration": 22.0,
    }  # fmt: skip


def invariants(traffic: Traffic) -> Row:
    """invariants.json: counted from the ledger and from what customers were told."""
    told = sum(s["step"] == "checkout" and s["status"] == 201 for s in traffic.samples)
    results = (
        ("no_lost_order", told, f"all {told} acknowledged orders exist"),
        ("no_doubled_order", len(traffic.samples) // 3, "one order per idempotency key, one charge per order"),
        ("stock_never_negative", len(traffic.stock), "stock balances for 20 products"),
        ("paid_iff_shipped", len(traffic.orders), f"{len(traffic.orders)} orders are paid and shipped once"),
    )
    return {
        "checked_at_us": END_US + SECOND, "settled": True,
        "results": [{"name": n, "outcome": "PASS", "checked": c, "violations": [], "summary": s} for n, c, s in results],
    }  # fmt: skip


def main() -> None:
    """Make the folder anew."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir()
    folder = make(GOLDEN)
    size = sum(p.stat().st_size for p in GOLDEN.iterdir())
    print(f"{GOLDEN.name}: {folder.read('verdict.json')['verdict']}, {size / 1000:.0f} kB")
    print(json.dumps([[s["id"], s["measured"]] for s in folder.read("verdict.json")["slos"]]))


if __name__ == "__main__":
    main()
