"""Everything after "store raw": judge, diagnose blind, write the postmortem and check it, report, and put the run into the graph.

Each step reads the run folder and nothing else, so all of it can be done again with no cluster (`aftershock postmortem RUN`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aftershock import facts, graph, judge, junit, models, postmortem, report, verify
from aftershock.diagnose import answer
from aftershock.errors import BadInput, FolderError, GraphError
from aftershock.folder import RunFolder
from aftershock.progress import Teller


def conclude(folder: RunFolder, graph_url: str, model: str, tell: Teller) -> None:
    """Make all derived files of a run that was stored; the verdict is reached before a model is loaded.

    A run that was refused has its verdict already and nothing to diagnose.

    Raises FolderError when a raw file is missing, GraphError when all but the graph was written.
    """
    if folder.has("evidence.json"):
        tell("judging", 0.0)
        judge.judge_folder(folder)
    wording = models.open(model)  # loads in a process of its own while the rest is made
    try:
        if folder.has("evidence.json"):
            tell("diagnosing blind", 0.1)
            answer.write(folder)
        tell("writing the postmortem", 0.3)
        rows = graph.build(folder)
        ledger = facts.of_rows(rows)
        models.warn(wording, tell)
        postmortem.write(folder, wording, ledger, progress=lambda text, done: tell(text, 0.3 + 0.5 * done))
    finally:
        if wording is not None:
            wording.close()
    checked = verify.verify(folder, ledger)
    if not checked.ok:
        failure = checked.failures[0] if checked.failures else "it makes no claim at all"
        raise FolderError(f"the postmortem is not supported by its facts: {failure}",
                          hint="this is a fault of aftershock; --model none writes without a model")  # fmt: skip
    tell("writing the report", 0.8)
    report.write(folder)
    junit.write(folder)
    tell("writing the graph", 0.9)
    try:
        with graph.open(graph_url) as store:
            graph.ingest(store, folder, rows)
    except (GraphError, BadInput) as error:  # a password file that has changed meanwhile is bad input
        raise GraphError(f"{folder.path} is complete, but the graph was not written: {error}",
                         hint=graph.written_later(graph_url, folder.path)) from None  # fmt: skip


def diagnose_any(reports: Path, text: str) -> dict[str, Any]:
    """Diagnose a run (by path, experiment or id) or a folder of CSV files."""
    path = Path(text)
    if not (path / "metrics.csv").is_file():
        path = RunFolder.find(reports, text).path
    return answer.answer(path)


def describe_diagnosis(name: str, document: dict[str, Any]) -> str:
    """A diagnosis for people."""
    lines = [f"{name}: {document['verdict']}"]
    for number, ranked in enumerate(document["ranked"][:5], 1):
        lines.append(
            f"  {number}. {ranked['entity']} ({ranked['indicator']}, {ranked['score']:.2f}): {' -> '.join(ranked['path'])}"
        )
    return "\n".join(lines)
