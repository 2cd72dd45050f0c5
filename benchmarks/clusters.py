"""The experiments on two clusters side by side: benchmarks/clusters.py REPORTS... [--last N] [--write docs/clusters.md].

Reads run folders (`aftershock run`, or `pytest experiments/ --aftershock-reports`), judges nothing anew, and prints a table: for each
experiment and its weak twin the verdict and its reason on each kind of cluster, and the median of the last N runs (3) of the recovery,
of how many journeys failed in the fault window, and of their 95th percentile. `--write` puts the table between the two marks of a page.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aftershock import experiment, judge
from aftershock.folder import RunFolder
from aftershock.slo import percentile

PROJECT = Path(__file__).parents[1]
KINDS = ("pocket", "kubernetes")
BEGIN, END = "<!-- runs: made by benchmarks/clusters.py -->", "<!-- end of runs -->"
REFUSED = "preflight"


@dataclass(frozen=True)
class Run:
    """One run, as far as the table tells it; None where there was nothing to measure."""

    experiment: str
    weakness: str | None
    kind: str
    started_us: int
    verdict: str
    reason: str
    back_s: (
        float | None
    )  # from the injection until what was hit is there again; for a crowd until there are enough pods
    failed: float | None  # share of journeys in the fault window
    p95_ms: float | None


def read(folder: RunFolder) -> Run:
    """One run folder. Raises FolderError."""
    run, verdict = folder.read("run.json"), folder.read("verdict.json")
    windows = run.get("windows") or {}
    back = failed = p95 = None
    if folder.has("evidence.json"):
        for fault in folder.read("evidence.json")["faults"]:
            steps = fault["steps"]
            recovered = steps["recovered"]
            if recovered and recovered["unit"] == "s" and steps["undone"] is None:
                back = max(back or 0.0, recovered["value"])
        back = verdict["recovery"]["recovered_s"] if back is None else back
    if window := windows.get("fault"):
        inside = [
            j
            for j in judge.journeys_of(folder)
            if window["from_us"] <= j.intended_us < window["to_us"] and j.journey == "checkout"
        ]
        if inside:
            failed = sum(not j.ok for j in inside) / len(inside)
            p95 = percentile([j.latency_ms for j in inside], 95)
    return Run(run["experiment"], run["weakness"], run["cluster"]["kind"], run["started_us"], verdict["verdict"],
               reason(verdict, run["weakness"], run["experiment"]), back, failed, p95)  # fmt: skip


def reason(verdict: Mapping[str, Any], weakness: str | None, name: str) -> str:
    """Why, in the words that are the same on every cluster: the rules that did not hold, or that the twin broke what it must."""
    findings = [f for f in verdict["findings"] if f["outcome"] == verdict["verdict"] != "PASS"]
    if not findings:
        return "every rule held"
    if weakness and verdict["verdict"] == "FAIL":
        twin = experiment.load(PROJECT / f"experiments/{name}.yaml").weak_twin
        must = twin.must_break if twin else ""
        if any(f["rule"] == must or must in f["summary"] for f in findings):
            return f"{must} broke"
    if findings[0]["rule"] == REFUSED:
        return str(findings[0]["summary"]).partition(": it does not")[0]
    return ", ".join(dict.fromkeys(f["rule"] if f["rule"] != "slo" else f["summary"].split(" ")[1] for f in findings))


def median(values: Iterable[float | None]) -> float | None:
    """Of what was measured."""
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def cell(runs: Sequence[Run]) -> list[str]:
    """Verdict with its reason, seconds, errors, p95 of the runs of one experiment on one kind of cluster."""
    if not runs:
        return ["", "", "", ""]
    verdicts = [f"{r.verdict}: {r.reason}" for r in runs]
    told = "; ".join(
        f"{text} ({verdicts.count(text)})" if len(set(verdicts)) > 1 else text for text in dict.fromkeys(verdicts)
    )
    back, failed, p95 = median(r.back_s for r in runs), median(r.failed for r in runs), median(r.p95_ms for r in runs)
    return [told, "" if back is None else f"{back:.1f}", "" if failed is None else f"{failed:.1%}".replace("%", " %"),
            "" if p95 is None else f"{p95:.0f}"]  # fmt: skip


def table(runs: Sequence[Run], last: int) -> list[str]:
    """Markdown."""
    grouped: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda r: r.started_us):
        grouped[run.experiment, run.weakness or "", run.kind].append(run)
    lines = [
        "| experiment | on | runs | verdict: reason | recovered, s | checkouts failed | p95, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, weakness in sorted({key[:2] for key in grouped}):
        for kind in KINDS:
            chosen = grouped[name, weakness, kind][-last:]
            shown = f"`{name}`" + (f", weak: `{weakness}`" if weakness else "")
            where = "pocketkube" if kind == "pocket" else "Kubernetes"
            lines.append(
                f"| {shown if kind == KINDS[0] else ''} | {where} | {len(chosen)} | " + " | ".join(cell(chosen)) + " |"
            )
    return lines


def folders(roots: Sequence[Path]) -> Iterable[RunFolder]:
    """Every run folder below these."""
    for root in roots:
        for file in sorted(root.glob("*/*/run.json")):
            if not file.parent.is_symlink() and (file.parent / "verdict.json").is_file():
                yield RunFolder(file.parent)


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--last", type=int, default=3, metavar="N", help="runs of each that count (3)")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    runs = [read(folder) for folder in folders(chosen.reports)]
    if chosen.json:
        print(json.dumps([r.__dict__ for r in runs], indent=1))
        return
    text = "\n".join(table(runs, chosen.last))
    if chosen.write is None:
        print(text)
        return
    page = chosen.write.read_text(encoding="utf-8")
    made, count = re.subn(f"(?s){re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n{text}\n{END}", page)
    assert count == 1, f"{chosen.write} has no place for it: {BEGIN} ... {END}"
    chosen.write.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
