"""docs/graph.md: its picture shows the schema, and each of its questions gives on a real server what the rows say without any Cypher."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from aftershock import graph
from aftershock.graph import schema
from aftershock.graph.rows import Rows
from tests.aftershock import runs
from tests.aftershock.graph import server

DOCS = Path(__file__).parents[4] / "docs"
PAGE = (DOCS / "graph.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^### \d+\. ([^\n]+)\n.*?^```cypher\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
Json = dict[str, Any]
Expected = Callable[[Rows], list[Json]]


def nodes(rows: Rows, label: str) -> list[Json]:
    return [dict(row) for row in rows.nodes.get(label, {}).values()]


def run_of(rows: Rows) -> Json:
    (run,) = nodes(rows, "Run")
    return run


def joined(rows: Rows, start: str, type_: str, end: str) -> Iterator[tuple[Json, Json, Json]]:
    for (a, b), edge in rows.edges.get((type_, start, end), {}).items():
        yield dict(rows.nodes[start][a]), dict(edge), dict(rows.nodes[end][b])


def all_of(rows: Rows, type_: str) -> Iterator[tuple[Json, Json, Json]]:
    for kind, start, end in rows.edges:
        if kind == type_:
            yield from joined(rows, start, kind, end)


def not_passed(rows: Rows) -> list[Json]:
    run = run_of(rows)
    return [{"experiment": run["experiment"], "verdict": run["verdict"], "rule": f["rule"], "why": f["summary"]}
            for f in nodes(rows, "Finding") if f["outcome"] == run["verdict"] != "PASS"]  # fmt: skip


def outcomes(rows: Rows) -> list[Json]:
    run = run_of(rows)
    return [
        {"experiment": run["experiment"], "weakness": run.get("weakness", "none"), "verdict": run["verdict"], "runs": 1}
    ]


def hit(rows: Rows) -> list[Json]:
    action = {target["id"]: fault["action"] for fault, _, target in joined(rows, "Fault", "HIT", "Target")}
    return [
        {"action": action[t["id"]], "kind": t["kind"], "target": t["name"], "node": t.get("node")}
        for t, _, _ in all_of(rows, "IS")
    ]


def ways(rows: Rows) -> list[Json]:
    after: dict[str, list[str]] = {}
    for cause, _, effect in all_of(rows, "CAUSED"):
        after.setdefault(cause["name"], []).append(effect["name"])
    effects = {name for names in after.values() for name in names}

    def from_(name: str) -> Iterator[list[str]]:
        if name not in after:
            yield [name]
        for effect in after.get(name, ()):
            yield from ([name, *rest] for rest in from_(effect))

    return [{"way": way} for name in sorted(set(after) - effects) for way in from_(name)]


def suspected(rows: Rows) -> list[Json]:
    targets = [t for _, _, t in joined(rows, "Fault", "HIT", "Target")]
    hit = {t.get(name) for t in targets for name in ("service", "name", "node")}
    return [{"suspected": h["entity"], "indicator": h.get("indicator"), "score": h.get("score"), "found": h["entity"] in hit}
            for h in nodes(rows, "Hypothesis") if h["rank"] == 1 and targets]  # fmt: skip


def failed_orders(rows: Rows) -> list[Json]:
    paid = {o["id"]: p["state"] for o, _, p in joined(rows, "Order", "PAID_BY", "Payment")}
    shipped = {o["id"]: s["state"] for o, _, s in joined(rows, "Order", "SHIPPED_BY", "Shipment")}
    return [{"order_id": o["name"], "state": o["state"], "payment": paid.get(o["id"]), "shipment": shipped.get(o["id"])}
            for o, _, w in joined(rows, "Order", "PLACED_IN", "Window") if w["name"] == "fault" and o["failed"]]  # fmt: skip


def failing_pods(rows: Rows) -> list[Json]:
    node = {p["id"]: n["name"] for p, _, n in joined(rows, "Pod", "RUNS_ON", "Node")}
    counted = Counter(
        p["id"]
        for o, h, p in joined(rows, "Order", "HANDLED_BY", "Pod")
        if o["failed"] and h["error"] and p["id"] in node
    )
    pods = rows.nodes.get("Pod", {})
    return [
        {"node": node[pod], "service": pods[pod].get("service"), "pod": pods[pod]["name"], "orders": n}
        for pod, n in counted.items()
    ]


def margins(rows: Rows) -> list[Json]:
    run = run_of(rows)
    return [{"experiment": run["experiment"], "weakness": run.get("weakness", "none"), "journey": s["journey"], "indicator": s["indicator"],
             "window": s["window"], "bound": s["bound"], "least": s["measured"], "most": s["measured"], "runs": 1}
            for s in nodes(rows, "Slo") if "measured" in s]  # fmt: skip


def happened(rows: Rows) -> list[Json]:
    window = next((w for w in nodes(rows, "Window") if w["name"] == "fault"), None)
    return [{"after_s": (e["time_us"] - window["from_us"]) / 1e6, "type": e["type"], "reason": e.get("reason"), "what": what["name"]}
            for e, _, what in all_of(rows, "ABOUT") if window and window["from_us"] <= e["time_us"] < window["to_us"]]  # fmt: skip


def sentences(rows: Rows) -> list[Json]:
    grounds: dict[str, set[str]] = {}
    for claim, _, ground in all_of(rows, "CITES"):
        grounds.setdefault(claim["id"], set()).add(f"{ground['file']}#{ground['ref']}")
    return [{"number": c["seq"], "section": c["section"], "sentence": c["text"], "grounds": sorted(grounds[c["id"]])}
            for c in nodes(rows, "Claim") if c["language"] == "en" and c["id"] in grounds]  # fmt: skip


ANSWERS: Sequence[Expected] = (
    not_passed, outcomes, hit, ways, suspected, failed_orders, failing_pods, margins, happened, sentences,
)  # fmt: skip


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[server.Place, list[Rows]]]:
    """The golden run and small ones of each outcome, each of an experiment of its own, so that other people's runs do not count in."""
    reports = tmp_path_factory.mktemp("reports")
    with server.place() as place:
        folders = [place.write(reports, change) for change in (None, runs.passed, runs.inconclusive, runs.refused)]
        rows = [place.golden(), *(graph.rows_of(folder) for folder in folders)]
        for number, one in enumerate(rows):
            run_of_it = one.nodes["Run"][one.id("Run", "run")]
            run_of_it["experiment"] = f"{place.experiment}-{number}"
        place.graph.write_runs(rows)
        yield place, rows


def plain(rows: Sequence[Json]) -> list[Json]:
    """Without what Browser draws, and in one order."""
    shown = [
        {key: sorted(value) if key == "grounds" else value for key, value in row.items() if key != "path"}
        for row in rows
    ]
    return sorted(shown, key=repr)


@pytest.mark.servers
@pytest.mark.parametrize("number", range(10), ids=[f"question-{number}" for number in range(1, 11)])
def test_each_question_is_answered_rightly(number: int, held: tuple[server.Place, list[Rows]]) -> None:
    place, all_rows = held
    found = place.graph.ask(QUESTIONS[number][1], {})
    expected = []
    for rows in all_rows:
        ours = ANSWERS[number](rows)
        expected += [row if "experiment" in row and "runs" in row else {"run": rows.run_id, **row} for row in ours]
    runs_here = {rows.run_id for rows in all_rows}
    mine = [
        row
        for row in found
        if row.get("run") in runs_here or str(row.get("experiment", "")).startswith(f"{place.experiment}-")
    ]
    assert plain(mine) == plain(expected)
    assert mine
    for row in mine:
        assert row.get("path", [1])


def test_there_are_ten_questions() -> None:
    assert len(QUESTIONS) == len(ANSWERS) == 10
    assert PAGE.count("```cypher") == 10
    for question, cypher in QUESTIONS:
        assert question.endswith("?")
        for word in re.findall(r"\(\w*:`?(\w+)", cypher):
            assert word in schema.NODES
        for word in re.findall(r"\[:(\w+)", cypher):
            assert word in schema.EDGES


def test_the_picture_is_the_schema_and_loads_nothing() -> None:
    picture = (DOCS / "graph.svg").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", picture))))
    assert words >= set(schema.NODES)
    assert words >= set(schema.EDGES)
    assert {word for word in words if word.isupper()} == set(schema.EDGES)
    assert "graph.svg" in PAGE
    assert not re.search(r"(href|src|url)\s*[=(]\s*[\"']?(https?:|//)", picture)
