"""Runs as a graph tells them, where a team keeps those of many machines: the rows of the history, the figures of a comparison."""

from __future__ import annotations

from typing import Any

from aftershock.errors import BadInput
from aftershock.graph import Graph
from aftershock.progress import Teller
from aftershock.render import Row
from aftershock.verdict import Outcome

RUNS_MAX = 200  # newest runs in a history
FOUND_MAX = 100_000  # runs among which one is looked for by its name


def history(graph: Graph, tell: Teller) -> list[Row]:
    """The newest runs that have a verdict, oldest of them first."""
    found = sorted(
        graph.query("history", skip=0, limit=RUNS_MAX), key=lambda row: str(row["run"])
    )  # ids begin with the time
    rows = []
    for number, row in enumerate(found):
        tell("reading the graph", number / len(found))
        if row["verdict"] is not None:
            rows.append(_row(graph, row))
    return rows


def _row(graph: Graph, row: dict[str, Any]) -> Row:
    run, outcome = row["run"], Outcome(row["verdict"])
    findings = graph.query("findings", run=run) if outcome is not Outcome.PASS else []
    why = next((f["summary"] for f in findings if f["outcome"] == outcome.value), "every rule held")
    success = next((s["measured"] for s in graph.query("slos", run=run) if s["indicator"] == "success_ratio"), None)
    ranked = graph.query("hypotheses", run=run)
    cause = f"{ranked[0]['entity']} ({ranked[0]['indicator']})" if ranked else None
    if cause is None and graph.query("observations", run=run, kind="diagnosis"):
        cause = "none"
    weak = f" (weak: {row['weakness']})" if row["weakness"] else ""
    return Row(f"{row['experiment']}{weak}", run, outcome, why, success, _recovered_s(graph, run), cause, run)


def _recovered_s(graph: Graph, run: str) -> float | None:
    return next(
        (o["value"] for o in graph.query("observations", run=run, kind="recovery") if o["metric"] == "recovered"), None
    )


def figures(graph: Graph, run: str) -> dict[str, Any]:
    """What a comparison shows of one run."""
    known = graph.query("run", run=run)[0]
    found = {
        "experiment": known["experiment"], "run_id": run, "weakness": known["weakness"], "cluster": known["cluster_context"],
        "verdict": known["verdict"], "recovered_s": _recovered_s(graph, run),
    }  # fmt: skip
    for slo in graph.query("slos", run=run):
        found[f"{slo['journey']} {slo['indicator']} in {slo['window']}"] = slo["measured"]
    return found


def find(graph: Graph, text: str) -> str:
    """The run that `text` means: an experiment (its newest run), a run id or its unique beginning or end. Raises BadInput."""
    runs = graph.query("history", skip=0, limit=FOUND_MAX)  # newest first
    for row in runs:
        if text in (row["run"], row["experiment"]):
            return str(row["run"])
    found = [
        row["run"] for row in runs if len(text) >= 4 and (row["run"].startswith(text) or row["run"].endswith(text))
    ]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise BadInput(f"{text} means {len(found)} runs of the graph", hint=f"one of: {', '.join(found[:5])}")
    raise BadInput(
        f"{text}: no run or experiment of that name in the graph",
        hint="`aftershock history --graph URL` lists its runs",
    )
