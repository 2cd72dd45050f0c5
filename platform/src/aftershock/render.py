"""Runs as rows for people and for machines: the verdict table, the history, two runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from aftershock.folder import RunFolder
from aftershock.verdict import Outcome

PIPED_WIDTH = 160  # columns of a table that nobody sees on a terminal
STYLES = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}


@dataclass(frozen=True)
class Row:
    """One run; `must` is the verdict that it had to have, None where nothing was asked."""

    experiment: str
    run_id: str
    verdict: Outcome
    why: str
    success: float | None  # share of journeys that succeeded in the fault window
    recovered_s: float | None
    cause: str | None
    report: str
    must: Outcome | None = None
    broke: bool = True  # a weak twin must break what it names, not anything

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return self.verdict.exit_code

    @property
    def as_it_must(self) -> bool:
        """True if the verdict is the one asked for, for the reason asked for."""
        return self.must is None or (self.verdict is self.must and self.broke)

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {
            "experiment": self.experiment, "run_id": self.run_id, "verdict": self.verdict.value, "why": self.why,
            "success_ratio_fault": self.success, "recovered_s": self.recovered_s, "root_cause": self.cause, "report": self.report,
            "must": self.must.value if self.must else None, "as_it_must": self.as_it_must,
        }  # fmt: skip


def row(folder: RunFolder, must: Outcome | None = None, must_break: str | None = None) -> Row:
    """The row of a stored run."""
    run, verdict = folder.read("run.json"), folder.read("verdict.json")
    findings = verdict["findings"]
    outcome = Outcome(verdict["verdict"])
    decisive = [f for f in findings if f["outcome"] == outcome.value] if outcome is not Outcome.PASS else []
    shown = next((f for f in decisive if must_break and must_break in f["summary"]), decisive[0] if decisive else None)
    cause = None
    if folder.has("diagnosis.json"):
        ranked = folder.read("diagnosis.json")["ranked"]
        cause = f"{ranked[0]['entity']} ({ranked[0]['indicator']})" if ranked else "none"
    success = next((s["measured"] for s in verdict["slos"] if s["indicator"] == "success_ratio"), None)
    weak = f" (weak: {run['weakness']})" if run["weakness"] else ""
    broke = must_break is None or any(must_break in f["summary"] or f["rule"] == must_break for f in decisive)
    page = folder.path / ("report.html" if folder.has("report.html") else "verdict.json")
    return Row(run["experiment"] + weak, run["run_id"], outcome, shown["summary"] if shown else "every rule held", success,
               verdict["recovery"]["recovered_s"], cause, _near(page), must, broke)  # fmt: skip


def _near(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def table(rows: list[Row], no_color: bool) -> None:
    """Print the verdict table and, below it, the paths of the reports."""
    console = _console(no_color)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name, kind in (("experiment", "left"), ("verdict", "left"), ("served", "right"), ("recovered", "right"),
                       ("root cause, found blind", "left"), ("why", "left")):  # fmt: skip
        shown.add_column(name, justify=kind)  # type: ignore[arg-type]
    for r in rows:
        verdict = r.verdict.value + (", as it must" if r.must is Outcome.FAIL and r.as_it_must else "")
        verdict += "" if r.as_it_must else f" (must {r.must.value})" if r.must else ""
        shown.add_row(
            r.experiment, f"[{STYLES[r.verdict.value]}]{verdict}[/]", "-" if r.success is None else f"{r.success:.1%}",
            "-" if r.recovered_s is None else f"{r.recovered_s:.1f} s", r.cause or "-", _escape(r.why),
        )  # fmt: skip
    console.print(shown)
    console.print()
    for r in rows:
        console.print(r.report, markup=False, soft_wrap=True)


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


def history(reports: Path) -> list[Row]:
    """All runs below a reports folder that have a verdict, oldest first."""
    found = []
    for path in sorted(reports.glob("*/*/verdict.json"), key=lambda p: p.parent.name):
        if not path.parent.is_symlink():
            found.append(row(RunFolder.open(path.parent)))
    return found


def compare(first: RunFolder, second: RunFolder) -> list[dict[str, Any]]:
    """Figures of two runs, each with both values."""
    return side_by_side(_figures(first), _figures(second))


def side_by_side(*figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures by name, each with both values."""
    names = list(dict.fromkeys(name for f in figures for name in f))
    return [{"figure": name, "a": figures[0].get(name), "b": figures[1].get(name)} for name in names]


def _figures(folder: RunFolder) -> dict[str, Any]:
    run, verdict = folder.read("run.json"), folder.read("verdict.json")
    found: dict[str, Any] = {
        "experiment": run["experiment"], "run_id": run["run_id"], "weakness": run["weakness"],
        "cluster": run["cluster"]["context"] if run["cluster"] else None, "verdict": verdict["verdict"],
        "recovered_s": verdict["recovery"]["recovered_s"],
    }  # fmt: skip
    for s in verdict["slos"]:
        found[f"{s['journey']} {s['indicator']} in {s['window']}"] = s["measured"]
    return found


def comparison(compared: list[dict[str, Any]], no_color: bool) -> None:
    """Print `compare`."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "A", "B"):
        shown.add_column(name)
    for line in compared:
        values = [
            ("-" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v)) for v in (line["a"], line["b"])
        ]
        shown.add_row(line["figure"], *values)
    _console(no_color).print(shown)


def _console(no_color: bool) -> Console:
    console = Console(no_color=no_color, highlight=False)
    return console if console.is_terminal else Console(no_color=no_color, highlight=False, width=PIPED_WIDTH)
