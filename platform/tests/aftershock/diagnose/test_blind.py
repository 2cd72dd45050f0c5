"""Nothing of what was broken gets into a diagnosis: not by any file, field, event or import."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import aftershock.diagnose
from aftershock.diagnose import answer, blind
from aftershock.diagnose.rank import diagnose
from aftershock.folder import RunFolder

from ..golden.make import GOLDEN

PACKAGE = Path(aftershock.diagnose.__file__).parent
ALLOWED = {"run.json", "traces.parquet", "samples.parquet", "events.jsonl"}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "copy"))


def answered(path: Path) -> bytes:
    case = blind.case_of(RunFolder.open(path))
    return json.dumps(answer.document(diagnose(case), case)).encode()


def test_the_golden_run_is_diagnosed_right(copy: Path) -> None:
    found = answer.write(RunFolder.open(copy))
    assert found["verdict"] == "root_cause"
    assert found["ranked"][0]["entity"] == "payments"
    assert found["ranked"][0]["path"] == ["storefront", "orders", "payments"]
    assert found["truth"] == {"entity": "payments", "rank": 1}
    assert RunFolder.open(copy).read("diagnosis.json") == found, "and it is what was written, to the schema"


def test_whatever_tells_of_the_experiment_changes_no_byte(copy: Path) -> None:
    before = answered(copy)
    for path in copy.iterdir():
        if path.name not in ALLOWED:
            path.unlink()
    run = json.loads((copy / "run.json").read_text())
    run.update(
        experiment="catalog-pod-kill",
        title="Catalog loses both pods",
        expect="none",
        weakness="catalog-lies",
        seed=99,
        run_id="20260202T020202Z-ffffff",
        git_commit=None,
        versions={},
        images={},
        unenforced=["Deployment/catalog"],
    )
    run["load"].update(scenario="scenarios/catalog.js", target_url="http://catalog:7070")
    for name in ("fault", "recovery"):
        run["windows"][name] = {"from_us": 1, "to_us": 2}
    run["topology"]["calls"] = [["catalog", "body2"]]
    (copy / "run.json").write_text(json.dumps(run))
    assert answered(copy) == before


def line(**fields: Any) -> dict[str, Any]:
    return {
        "id": "ev-000099",
        "time_us": 1768471211050000,
        "source": "watch",
        "type": "MODIFIED",
        "kind": "Pod",
        "namespace": "shop",
        "name": "x",
        "uid": None,
        "node": None,
        "service": None,
        "reason": None,
        "detail": {},
        **fields,
    }


@pytest.mark.parametrize(
    "told",
    [
        line(
            source="runner", type="INJECTED", kind="Runner", name="kill-catalog", service="catalog", reason="pod-kill"
        ),
        line(source="runner", type="UNDONE", kind="Node", name="body2", node="body2", detail={"unschedulable": True}),
        line(source="runner", type="DELETED", kind="Pod", name="catalog-1", service="catalog", node="body2"),
        line(source="evidence", type="DELETED", kind="Deployment", name="catalog", service="catalog"),
        line(
            type="ADDED",
            kind="NetworkChaos",
            name="aftershock-1-delay",
            service="catalog",
            reason="delay",
            detail={
                "spec": {"action": "delay", "selector": {"labelSelectors": {"app": "catalog"}}},
                "conditions": {"AllInjected": "True"},
            },
        ),
        line(type="DELETED", kind="NetworkChaos", name="catalog", service="catalog"),
        line(
            type="WARNING",
            kind="Event",
            name="catalog-1",
            service="catalog",
            node="body2",
            reason="Killing",
            detail={"note": "catalog was killed"},
        ),
        line(type="GAP", kind="Runner", name="watch", service="catalog", detail={"why": "catalog"}),
        line(kind="EndpointSlice", name="catalog-x", service="catalog", detail={"ready": []}),
    ],
)
def test_events_that_tell_are_invisible(told: dict[str, Any], copy: Path) -> None:
    before = answered(copy)
    with (copy / "events.jsonl").open("a") as file:
        file.write(json.dumps(told) + "\n")
    assert answered(copy) == before


def test_reasons_notes_and_ids_of_visible_events_change_no_byte(copy: Path) -> None:
    before = answered(copy)
    lines = [json.loads(text) for text in (copy / "events.jsonl").read_text().splitlines()]
    for number, event in enumerate(lines):
        event.update(id=f"ev-{900000 + number}", reason="ChaosInCatalog")
        event["detail"] = {k: v for k, v in event["detail"].items() if k != "note"} | {
            "message": "catalog was injected",
            "disruption": {"reason": "catalog", "message": "catalog"},
            "owner": "Chaos/catalog",
        }
    (copy / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in lines))
    assert answered(copy) == before


def test_a_visible_event_does_change_the_answer(copy: Path) -> None:
    """The tests above could fail."""
    before = answered(copy)
    with (copy / "events.jsonl").open("a") as file:
        file.write(json.dumps(line(type="DELETED", name="catalog-1", uid="u", service="catalog", node="body2")) + "\n")
    assert answered(copy) != before


class Recorded(RunFolder):
    """A run folder that remembers what was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.read_names: set[str] = set()

    def read_text(self, name: str) -> str:
        self.read_names.add(name)
        return super().read_text(name)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        self.read_names.add(name)
        return super().table(name, columns)

    def lines(self, name: str) -> Any:
        self.read_names.add(name)
        return super().lines(name)


def test_only_allowed_files_are_opened(copy: Path) -> None:
    folder = Recorded(copy)
    diagnose(blind.case_of(folder))
    assert folder.read_names == ALLOWED


def test_only_the_answer_knows_the_truth() -> None:
    """`truth` is imported by no module that a ranking goes through."""
    knowing = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or ""
            if "truth" in names or module.endswith(".truth"):
                knowing.add(path.name)
    assert knowing == {"answer.py"}
