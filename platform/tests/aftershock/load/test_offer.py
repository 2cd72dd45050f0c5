"""What a run knows of its way and its clocks afterwards, from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftershock.folder import RunFolder
from aftershock.load import offer
from aftershock.load.offer import Offered
from tests.aftershock.observe.test_skew import BEGIN_US, calls

WINDOWS = {"baseline": {"from_us": BEGIN_US, "to_us": BEGIN_US + 2_000_000}}
HERE = Offered(
    "http://127.0.0.1:1", {"on": "runner", "path": {"kind": "node-port", "text": "NodePort", "honest": True}}
)


def folder(path: Path, **ahead_us: int) -> RunFolder:
    """A run of 200 journeys on two nodes with these clocks."""
    made = RunFolder(path)
    spans, samples = calls(**ahead_us)
    fixed: dict[str, Any] = {"service": "s", "operation": "GET /", "error": False}
    with made.writer("traces.parquet") as writer:
        writer.append([dict(zip(spans, row, strict=True)) | fixed for row in zip(*spans.values(), strict=True)])
    fixed = {"journey": "browse", "step": "products"}
    with made.writer("samples.parquet") as writer:
        writer.append([dict(zip(samples, row, strict=True)) | fixed | {"iteration": n}
                       for n, row in enumerate(zip(*samples.values(), strict=True))])  # fmt: skip
    return made


@pytest.mark.parametrize("rows_max", [offer.ROWS_MAX, 150])
def test_spans_of_a_wrong_clock_are_brought_onto_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_max: int
) -> None:
    run = folder(tmp_path, memory=5_000_000)
    found, clocks = offer.compared(run, WINDOWS, HERE, None, [], rows_max=rows_max)
    assert {c["node"]: c["corrected"] for c in clocks} == {"body": False, "memory": True}
    right = sorted(calls()[0]["start_us"])
    starts = sorted(run.table("traces.parquet").to_pydict()["start_us"])
    assert len(starts) == len(right)
    assert all(abs(a - b) < 10_000 for a, b in zip(starts, right, strict=True))
    assert found.described["path"]["busy_requests"] > 0
    assert found.described["path"]["text"] == "NodePort"


def test_right_clocks_leave_the_file_alone(tmp_path: Path) -> None:
    run = folder(tmp_path)
    before = (tmp_path / "traces.parquet").read_bytes()
    _, clocks = offer.compared(run, WINDOWS, HERE, None, [{"of": "pod x"}])
    assert [c["of"] for c in clocks] == ["pod x", "node body", "node memory"]
    assert (tmp_path / "traces.parquet").read_bytes() == before


def test_a_run_without_traces_knows_what_it_knew(tmp_path: Path) -> None:
    assert offer.compared(RunFolder(tmp_path), WINDOWS, HERE, None, []) == (HERE, [])
    assert offer.compared(RunFolder(tmp_path), {}, Offered(), None, []) == (Offered(), [])
