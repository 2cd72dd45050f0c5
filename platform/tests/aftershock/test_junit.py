"""junit.xml: every finding is a test case, nothing judged is never green, and any text is XML."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aftershock import junit
from aftershock.errors import FolderError
from aftershock.folder import RunFolder

from .golden import make

GOLDEN = RunFolder.open(make.GOLDEN)
# Attributes and children of the common Jenkins / Surefire shape, in their order.
ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors", "skipped", "time"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname"},
    "properties": set(), "property": {"name", "value"}, "testcase": {"classname", "name", "time"},
    "failure": {"type", "message"}, "error": {"type", "message"}, "system-out": set(),
}  # fmt: skip
CHILDREN = {
    "testsuites": ("testsuite",), "testsuite": ("properties", "testcase"), "properties": ("property",), "property": (),
    "testcase": ("failure", "error", "system-out"), "failure": (), "error": (), "system-out": (),
}  # fmt: skip


def shaped(document: bytes) -> ElementTree.Element:
    """Parse a document and check its shape and its sums."""
    root = ElementTree.fromstring(document)
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag]
        order = [CHILDREN[element.tag].index(child.tag) for child in element]
        assert order == sorted(order)
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases) > 0
        assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(suite.attrib["errors"]) == len(suite.findall("testcase/error"))
        assert len({case.attrib["name"] for case in cases}) == len(cases)
        assert float(suite.attrib["time"]) >= 0
    for total in ("tests", "failures", "errors", "skipped"):
        assert int(root.attrib[total]) == sum(int(suite.attrib[total]) for suite in root)
    return root


def folder(tmp_path: Path, outcomes: list[str], summary: str = "said", **run: Any) -> RunFolder:
    shutil.copy(make.GOLDEN / "run.json", tmp_path)
    made = RunFolder(tmp_path)
    made.write("run.json", {**made.read("run.json"), **run})
    findings = [
        {"id": f"fi-{n:02d}", "rule": "slo", "outcome": outcome, "summary": summary, "evidence": [f"slo.{n}"], "hint": "look",
         "measured": None, "bound": None, "unit": None, "window": None}
        for n, outcome in enumerate(outcomes, 1)
    ]  # fmt: skip
    worst = next((o for o in ("FAIL", "INCONCLUSIVE", "PASS") if o in outcomes), "INCONCLUSIVE")
    made.write("verdict.json", {"verdict": worst, "findings": findings, "slos": [], "recovery": {"deadline_s": 1, "recovered_s": None},
                                "judged_at_us": make.STARTED_US + 1})  # fmt: skip
    return made


def test_the_golden_run_is_green() -> None:
    suite = shaped(junit.merge([GOLDEN]))[0]
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("0", "0")
    assert suite.attrib["timestamp"] == "2026-01-15T10:00:00"
    assert suite.attrib["time"] == "27.000"
    said = {p.attrib["name"]: p.attrib["value"] for p in suite.iter("property")}
    assert said["run_id"] == make.RUN_ID
    assert said["verdict"] == "PASS"
    names = [case.attrib["name"] for case in suite.iter("testcase")]
    assert len(names) == len(GOLDEN.read("verdict.json")["findings"])
    assert {"targets", "slo[1]", "slo[4]", "invariants[2]", "undo"} <= set(names)


@pytest.mark.parametrize(("outcomes", "failures", "errors"), [
    (["PASS", "FAIL"], 1, 0), (["INCONCLUSIVE", "PASS"], 0, 1), (["FAIL", "INCONCLUSIVE", "INCONCLUSIVE"], 1, 2),
    (["PASS"], 0, 0), ([], 0, 1),
])  # fmt: skip
def test_fail_is_a_failure_and_inconclusive_an_error(
    tmp_path: Path, outcomes: list[str], failures: int, errors: int
) -> None:
    root = shaped(junit.merge([folder(tmp_path, outcomes)]))
    assert (int(root.attrib["failures"]), int(root.attrib["errors"])) == (failures, errors)


def test_a_failure_carries_summary_hint_and_evidence(tmp_path: Path) -> None:
    root = shaped(junit.merge([folder(tmp_path, ["FAIL"], summary='p95 < 400 & "held"', weakness="slow")]))
    failure = next(root.iter("failure"))
    assert failure.attrib == {"type": "slo", "message": 'p95 < 400 & "held"'}
    assert failure.text == 'p95 < 400 & "held"\nhint: look\nevidence: slo.1'
    assert root[0].attrib["name"] == "payments-pod-kill (weak: slow)"


def test_many_runs_make_one_document(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    root = shaped(junit.merge([GOLDEN, folder(tmp_path / "a", ["FAIL", "PASS"]), GOLDEN]))
    assert [suite.attrib["name"] for suite in root] == ["payments-pod-kill"] * 3
    assert root.attrib["failures"] == "1"
    assert shaped(junit.merge([])).attrib["tests"] == "0"


def test_write_puts_it_into_the_folder(tmp_path: Path) -> None:
    made = folder(tmp_path, ["PASS"])
    assert junit.write(made) == tmp_path / "junit.xml"
    shaped((tmp_path / "junit.xml").read_bytes())


def test_without_a_verdict_there_is_no_document(tmp_path: Path) -> None:
    shutil.copy(make.GOLDEN / "run.json", tmp_path)
    with pytest.raises(FolderError):
        junit.write(RunFolder(tmp_path))


def test_control_characters_become_visible(tmp_path: Path) -> None:
    root = shaped(
        junit.merge([folder(tmp_path, ["FAIL"], summary="\x1b[31mred\x00 \ufffe ]]> é 주문 \U0001f600", title="\x07")])
    )
    assert next(root.iter("failure")).attrib["message"] == "\\x1b[31mred\\x00 \\xfffe ]]> é 주문 \U0001f600"


@settings(max_examples=25)
@given(st.text(min_size=1))
def test_any_text_is_xml(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    shaped(
        junit.merge(
            [
                folder(
                    tmp_path_factory.getbasetemp(),
                    ["PASS", "FAIL", "INCONCLUSIVE"],
                    summary=text,
                    experiment=text,
                    weakness=text,
                )
            ]
        )
    )


@pytest.mark.parametrize(("started_us", "ended_us"), [(make.STARTED_US, None), (make.STARTED_US, 0), (10**18, None)])
def test_odd_clocks_make_no_odd_document(tmp_path: Path, started_us: int, ended_us: int | None) -> None:
    shaped(junit.merge([folder(tmp_path, ["PASS"], started_us=started_us, ended_us=ended_us)]))
