"""Case folders: what is read, and what is wrong with them by file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aftershock.diagnose import csv_folder
from aftershock.diagnose.rank import diagnose
from aftershock.errors import FolderError


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def rows() -> str:
    lines = ["time,entity,metric,value"]
    for n in range(20):
        late = n >= 10
        lines += [f"{n},web,latency,{100 + n % 3 + 200 * late}", f"{n},db,latency,{20 + n % 2 + 195 * late}"]
        lines += [f"{n},web,requests,50", f"{n},db,requests,50", f"{n},db,cpu,"]
    return "\n".join(lines) + "\n"


def test_a_whole_case(tmp_path: Path) -> None:
    impact = json.dumps({"entity": "web", "metric": "latency", "start": 10})
    case = csv_folder.read(folder(tmp_path, metrics_csv=rows(), calls_csv="caller,callee\nweb,db\n", impact_json=impact,
                                  events_csv="time,entity,event\n10.5,db,restart\n"))  # fmt: skip
    assert case.calls == {("web", "db")}
    assert ("db", "cpu") not in case.series, "an empty value is no value"
    found = diagnose(case)
    assert found.ranked[0].entity == "db"
    assert found.ranked[0].path == ("web", "db")


def test_spans_give_calls_and_series(tmp_path: Path) -> None:
    lines = ["trace,span,parent,service,operation,start,duration,error"]
    for n in range(40):
        slow = 0.3 if n >= 20 else 0.01
        lines += [f"t{n},a{n},,web,GET,{n},{0.02 + slow},0", f"t{n},b{n},a{n},db,SELECT,{n},{slow},0"]
    case = csv_folder.read(folder(tmp_path, metrics_csv="time,entity,metric,value\n0,node,cpu,1\n", traces_csv="\n".join(lines) + "\n",
                                  impact_json='{"entity": "web", "metric": null, "start": 20}'))  # fmt: skip
    assert case.calls == {("web", "db")}
    assert diagnose(case).ranked[0].entity == "db"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no such file"),
        ({"metrics_csv": "time,entity,value\n"}, "no column metric"),
        ({"metrics_csv": "time,entity,metric,value\n1,a,b\n"}, "metrics.csv:2: has too few"),
        ({"metrics_csv": "time,entity,metric,value\nx,a,b,1\n"}, "metrics.csv:2: 'x' is not a number"),
        ({"metrics_csv": "time,entity,metric,value\n"}, "holds no values"),
        ({"metrics_csv": rows(), "impact_json": "[]"}, "is not an impact"),
        ({"metrics_csv": rows(), "impact_json": '{"start": "soon"}'}, "is not an impact"),
        ({"metrics_csv": rows(), "calls_csv": "a,b\n"}, "no column caller"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(FolderError, match=says):
        csv_folder.read(folder(tmp_path, **files))
