"""junit.xml: a test suite per run and a test case per finding, in the shape that Jenkins, GitLab and GitHub read.

FAIL is a `failure`, INCONCLUSIVE an `error` (the check could not be made), PASS a bare test case. The shape is Surefire's
(surefire-test-report.xsd), which the Jenkins xUnit plugin accepts too.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aftershock.folder import RunFolder

# What XML 1.0 cannot carry, not even as a reference (section 2.2, Char).
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAGS = {"FAIL": "failure", "INCONCLUSIVE": "error"}


def write(folder: RunFolder) -> Path:
    """Write `junit.xml` and return its path. Raises FolderError without a readable run.json and verdict.json."""
    folder.write_text("junit.xml", merge([folder]).decode("utf-8"))
    return folder.path / "junit.xml"


def merge(folders: Iterable[RunFolder]) -> bytes:
    """One document with a suite per run, in the order given; UTF-8."""
    root = ElementTree.Element("testsuites", {"name": "aftershock"})
    for folder in folders:
        root.append(_suite(folder.read("run.json"), folder.read("verdict.json")))
    for total in ("tests", "failures", "errors", "skipped"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ElementTree.indent(root)
    text: str = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()


def _suite(run: Any, verdict: Any) -> ElementTree.Element:
    findings = verdict["findings"]
    name = run["experiment"] + (f" (weak: {run['weakness']})" if run["weakness"] else "")
    took_s = max(0, (run["ended_us"] or verdict["judged_at_us"]) - run["started_us"]) / 1e6
    suite = ElementTree.Element("testsuite", {
        "name": _clean(name), "tests": str(max(1, len(findings))),
        "failures": str(sum(f["outcome"] == "FAIL" for f in findings)),
        "errors": str(sum(f["outcome"] == "INCONCLUSIVE" for f in findings) or (not findings and 1) or 0),
        "skipped": "0", "time": f"{took_s:.3f}", "timestamp": _timestamp(run["started_us"]), "hostname": "localhost",
    })  # fmt: skip
    properties = ElementTree.SubElement(suite, "properties")
    shown = {"run_id": run["run_id"], "verdict": verdict["verdict"], "seed": run["seed"], "weakness": run["weakness"] or "",
             "cluster": run["cluster"]["context"] if run["cluster"] else "", "git_commit": run["git_commit"] or ""}  # fmt: skip
    for key, value in shown.items():
        ElementTree.SubElement(properties, "property", {"name": key, "value": _clean(str(value))})
    if not findings:  # a suite that tested nothing must not look green
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _clean(name), "name": "verdict", "time": "0.000"}
        )
        ElementTree.SubElement(case, "error", {"type": "verdict", "message": "nothing was judged"})
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding["rule"]] = nth = counts.get(finding["rule"], 0) + 1
        several = sum(f["rule"] == finding["rule"] for f in findings) > 1
        title = f"{finding['rule']}[{nth}]" if several else finding["rule"]
        suite.append(_case(_clean(name), title, finding))
    return suite


def _case(suite: str, title: str, finding: Any) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": suite, "name": title, "time": "0.000"})
    tag = _TAGS.get(finding["outcome"])
    lines = [finding["summary"]]
    if finding["hint"]:
        lines.append(f"hint: {finding['hint']}")
    if finding["evidence"]:
        lines.append(f"evidence: {', '.join(finding['evidence'])}")
    if tag:
        problem = ElementTree.SubElement(case, tag, {"type": finding["rule"], "message": _clean(finding["summary"])})
        problem.text = _clean("\n".join(lines))
    else:
        ElementTree.SubElement(case, "system-out").text = _clean("\n".join(lines))
    return case


def _timestamp(time_us: int) -> str:
    try:
        return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%dT%H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00"


def _clean(text: str) -> str:
    """Text that XML 1.0 can carry: what it cannot becomes a visible escape such as `\\x1b`."""
    return _NO_XML.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
