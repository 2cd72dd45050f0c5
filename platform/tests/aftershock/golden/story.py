"""What was concluded from the golden run: diagnosis, facts and postmortem, computed from its own figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aftershock.folder import RunFolder

from .scene import FAULT_US, KILLED_US, READY_US, VICTIM

Row = dict[str, Any]
MODEL = "SmolLM2-135M-Instruct-Q4_1"


def diagnosis(onset_s: float) -> Row:
    """diagnosis.json: payments, found by the way its callers deviate."""
    return {
        "verdict": "root_cause", "onset": onset_s,
        "ranked": [
            {"entity": "payments", "indicator": "errors", "score": 0.91, "path": ["storefront", "orders", "payments"]},
            {"entity": "orders", "indicator": "latency", "score": 0.34, "path": ["storefront", "orders"]},
            {"entity": "postgres", "indicator": "latency", "score": 0.07, "path": ["storefront", "orders", "postgres"]},
        ],
        "edges": [
            {"cause": "payments", "effect": "orders", "outcome": "accepted", "structure": True, "deviation": True, "order": True,
             "why": "orders calls payments; its calls were refused 9 ms before its own latency rose"},
            {"cause": "orders", "effect": "storefront", "outcome": "accepted", "structure": True, "deviation": True, "order": True,
             "why": "storefront calls orders and slowed down after it"},
            {"cause": "postgres", "effect": "orders", "outcome": "rejected", "structure": True, "deviation": False, "order": False,
             "why": "the latency of postgres stayed within 1.1 of its baseline"},
            {"cause": "cart", "effect": "orders", "outcome": "rejected", "structure": True, "deviation": False, "order": False,
             "why": "cart did not deviate"},
            {"cause": "shipping", "effect": "storefront", "outcome": "rejected", "structure": False, "deviation": False, "order": False,
             "why": "storefront does not call shipping"},
        ],
        "observed": {"entities": ["cart", "catalog", "orders", "payments", "postgres", "shipping", "storefront"],
                     "impact": {"entity": "storefront", "metric": "latency_ms_p95", "start": onset_s}},
        "truth": {"entity": "payments", "rank": 1},
    }  # fmt: skip


def facts(folder: RunFolder) -> list[Row]:
    """facts.json, from the files that are already in the folder."""
    run, verdict, invariants = (folder.read(f"{name}.json") for name in ("run", "verdict", "invariants"))
    served = next(e for e in folder.lines("events.jsonl") if e["time_us"] == READY_US and e["kind"] == "EndpointSlice")
    rows: list[Row] = []

    def add(subject: str, predicate: str, file: str, ref: str, *, object_: str | None = None, value: float | None = None,
            unit: str | None = None, time_us: int | None = None, query: str | None = None) -> None:  # fmt: skip
        rows.append({"id": f"F{len(rows) + 1:03d}", "subject": subject, "predicate": predicate, "object": object_, "value": value,
                     "unit": unit, "time_us": time_us, "provenance": {"file": file, "ref": ref, "query": query}})  # fmt: skip

    add("run", "verdict", "verdict.json", "verdict", object_=verdict["verdict"], query="run_verdict")
    add("run", "experiment", "run.json", "experiment", object_=run["experiment"], query="run_verdict")
    add("run", "rate", "run.json", "load.rate_per_s", value=run["load"]["rate_per_s"], unit="1/s", query="run_load")
    add("f1", "action", "evidence.json", "faults[0].action", object_="pod-kill", query="fault_chain")
    add("f1", "target", "evidence.json", "faults[0].targets[0]", object_=VICTIM.name, query="fault_chain")
    add("f1", "node", "evidence.json", "faults[0].targets[0]", object_=VICTIM.node, query="fault_chain")
    add("f1", "observed", "evidence.json", "faults[0].steps.observed", time_us=KILLED_US + 3_700, query="fault_chain")
    add("payments", "replacement ready after", "events.jsonl", served["id"], value=round((READY_US - FAULT_US) / 1e6, 2), unit="s",
        time_us=READY_US, query="pod_replacement")  # fmt: skip
    for slo in verdict["slos"]:
        unit = {"success_ratio": "ratio", "outage_s_max": "s"}.get(slo["indicator"], "ms")
        add(slo["id"], f"{slo['journey']} {slo['indicator']} in {slo['window']}", "verdict.json", slo["id"],
            value=slo["measured"], unit=unit, query="slo_measured")  # fmt: skip
    for result in invariants["results"]:
        add(f"invariant.{result['name']}", "violations", "invariants.json", result["name"], value=len(result["violations"]),
            unit="orders", query="invariants")  # fmt: skip
    add("diagnosis", "root cause", "diagnosis.json", "ranked[0]", object_="payments", value=0.91, query="hypotheses")
    return rows


def postmortem(known: Sequence[Row]) -> Row:
    """postmortem.json in both languages; every sentence cites its facts."""
    by = {(f["subject"], f["predicate"]): f for f in known}

    def of(subject: str, predicate: str) -> Row:
        return next(f for (s, p), f in by.items() if s == subject and p.startswith(predicate))

    verdict, rate, target, node = of("run", "verdict"), of("run", "rate"), of("f1", "target"), of("f1", "node")
    action, seen, back = of("f1", "action"), of("f1", "observed"), of("payments", "replacement")
    ratio, p95, outage, lost = (
        of("slo.1", "checkout"),
        of("slo.2", "checkout"),
        of("slo.3", "checkout"),
        of("invariant.no_lost_order", ""),
    )
    cause = of("diagnosis", "root cause")

    def line(text: str, *cited: Row, origin: str = "template") -> Row:
        return {"text": text, "facts": [f["id"] for f in cited], "origin": origin}

    def body(title: str, headings: Sequence[str], lines: Sequence[Sequence[Row]]) -> Row:
        ids = ("summary", "impact", "timeline", "cause")
        count = sum(map(len, lines))
        by_model = sum(s["origin"] == "model" for section in lines for s in section)
        return {
            "title": title,
            "header": {"model": MODEL, "model_digest": "sha256:5f1c2e8a9b7d", "sentences_by_model": by_model, "sentences_rejected": 1,
                       "sentences_total": count},
            "sections": [{"id": i, "heading": h, "sentences": list(s)} for i, h, s in zip(ids, headings, lines, strict=True)],
        }  # fmt: skip

    percent = f"{ratio['value']:.2%}"
    english = body("Postmortem: Checkout survives the loss of one payments pod", ("Summary", "Impact", "Timeline", "Root cause"), (
        (line(f"The verdict of this run is {verdict['object']}.", verdict),
         line(f"One pod, {target['object']} on node {node['object']}, was killed under a load of {rate['value']:g} checkouts per second.",
              action, target, node, rate)),
        (line(f"During the fault {percent} of the checkouts succeeded.", ratio),
         line(f"The 95th percentile of their latency was {p95['value']:.0f} ms.", p95, origin="model"),
         line(f"The longest time without a success after a failure was {outage['value']:.2f} s.", outage),
         line(f"{lost['value']} acknowledged orders were lost.", lost)),
        (line("The loss of the pod was seen in the watch stream.", seen),
         line(f"Its replacement served {back['value']:.2f} s after the injection.", back)),
        (line(f"From the observations alone, {cause['object']} ranks first as the root cause.", cause, origin="model"),),
    ))  # fmt: skip
    korean = body("포스트모템: 결제 파드 하나를 잃어도 주문은 계속된다", ("요약", "영향", "경과", "근본 원인"), (
        (line(f"이번 실행의 판정은 {verdict['object']}이다.", verdict),
         line(f"초당 {rate['value']:g}건의 주문 부하에서 노드 {node['object']}의 파드 {target['object']} 하나가 종료되었다.",
              action, target, node, rate)),
        (line(f"장애 구간에서 주문의 {percent}가 성공했다.", ratio),
         line(f"지연 시간의 95번째 백분위수는 {p95['value']:.0f} ms였다.", p95),
         line(f"실패 이후 성공이 없었던 가장 긴 시간은 {outage['value']:.2f}초였다.", outage),
         line(f"승인된 주문 가운데 {lost['value']}건이 유실되었다.", lost)),
        (line("파드의 소멸은 watch 스트림에서 관측되었다.", seen),
         line(f"대체 파드는 주입 후 {back['value']:.2f}초에 요청을 처리하기 시작했다.", back)),
        (line(f"관측만으로 {cause['object']}가 근본 원인 1순위로 꼽혔다.", cause),),
    ))  # fmt: skip
    total = sum(len(s["sentences"]) for text in (english, korean) for s in text["sections"])
    return {"language": {"en": english, "ko": korean}, "claims": {"total": total, "supported": total}}


def markdown(text: Row) -> str:
    """One language of a postmortem as Markdown."""
    lines = [f"# {text['title']}", ""]
    for section in text["sections"]:
        lines += [f"## {section['heading']}", ""]
        lines += [f"{s['text']} [{', '.join(s['facts'])}]" for s in section["sentences"]]
        lines.append("")
    return "\n".join(lines)
