"""A diagnosis as a document: of a run folder, or of any folder of CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aftershock.diagnose import blind, csv_folder, truth
from aftershock.diagnose.case import Case, Diagnosis
from aftershock.diagnose.rank import diagnose
from aftershock.folder import RunFolder


def answer(path: Path) -> dict[str, Any]:
    """The document for a run folder (with `truth`, looked up after the ranking) or a case folder. Raises FolderError."""
    case = case_of_any(path)
    found = diagnose(case)
    return document(found, case, truth_of(path, found))


def write(folder: RunFolder) -> dict[str, Any]:
    """Diagnose a run blind and write its diagnosis.json."""
    made = answer(folder.path)
    folder.write("diagnosis.json", made)
    return made


def case_of_any(path: Path) -> Case:
    """What may be known of a run folder (it has run.json) or of a folder of CSV files. Raises FolderError."""
    return blind.case_of(RunFolder.open(path)) if (path / "run.json").is_file() else csv_folder.read(path)


def truth_of(path: Path, found: Diagnosis) -> dict[str, Any] | None:
    """Where the known fault of a run came out in the ranking; None where none is known."""
    if not (path / "run.json").is_file():
        return None
    return truth.rank_of(found, truth.culprits(RunFolder.open(path)))


def document(diagnosis: Diagnosis, case: Case, truth: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A diagnosis in the shape of diagnosis.json."""
    impact = case.impact
    return {
        "verdict": diagnosis.verdict,
        "onset": diagnosis.onset,
        "ranked": [
            {"entity": r.entity, "indicator": r.indicator, "score": r.score, "path": list(r.path)}
            for r in diagnosis.ranked
        ],
        "edges": [
            {"cause": e.cause, "effect": e.effect, "outcome": "accepted" if e.accepted else "rejected",
             "structure": e.structure, "deviation": e.deviation, "order": e.order, "why": e.why}
            for e in diagnosis.edges
        ],
        "observed": {
            "entities": list(case.entities),
            "impact": {"entity": impact.entity, "metric": impact.metric, "start": impact.start},
        },
        "truth": None if truth is None else dict(truth),
    }  # fmt: skip
