"""Score the diagnosis on PetShop (52 cases): benchmarks/diagnosis.py PETSHOP_FOLDER [--split ..] [--start seen|first|unknown].

Prints top-1 and top-3 accuracy over the cases of each split and over all, and how many are called a root cause. `--start` says what a
case tells of its start: the time at which the violation was seen, the first row of the recording, or nothing. The true cause is read
only after the ranking. Tune on `train` only.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path

from aftershock.diagnose import csv_folder
from aftershock.diagnose.rank import diagnose


def convert(traffic: Path, issue: Path, out: Path, start: str) -> None:
    """One PetShop case as a folder of the shape that `aftershock diagnose` reads; normal operation comes first in time."""
    target = json.loads((issue / "target.json").read_text())["target"]
    normal, faulty = table(traffic / "noissue/metrics.csv"), table(issue / "metrics.csv")
    begin = min(t for t, *_ in faulty)
    late = max(t for t, *_ in normal)
    moved = [(t - late + begin - 300.0, e, m, v) for t, e, m, v in normal]
    with (out / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("time", "entity", "metric", "value"))
        writer.writerows(sorted(moved + faulty))
    with (traffic / "graph.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    calls = {
        (row[0], name) for row in rows[1:] for name, value in zip(rows[0][1:], row[1:], strict=True) if float(value)
    }
    with (out / "calls.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("caller", "callee"))
        writer.writerows(sorted(calls))
    starts = {"seen": target["timestamp"], "first": begin, "unknown": None}
    impact = {"entity": target["node"], "metric": f"{target['metric']}_{target['agg']}", "start": starts[start]}
    (out / "impact.json").write_text(json.dumps(impact))


def table(path: Path) -> list[tuple[float, str, str, float]]:
    """(time, entity, metric, value) from PetShop's three header rows."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    heads = list(zip(rows[0], rows[1], rows[2], strict=True))
    return [
        (float(row[0]), entity, f"{metric}_{statistic}", float(value))
        for row in rows[4:] if row and row[0]
        for (entity, metric, statistic), value in zip(heads[1:], row[1:], strict=True) if value
    ]  # fmt: skip


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("petshop", type=Path)
    parser.add_argument("--split", choices=("train", "test"), action="append")
    parser.add_argument("--start", choices=("seen", "first", "unknown"), default="seen")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    every: list[tuple[int, str, float]] = []
    for split in arguments.split or ["train", "test"]:
        found = [
            score(arguments.petshop / traffic, issue, arguments.start, arguments.verbose)
            for traffic in ("low_traffic", "high_traffic")
            for issue in sorted((arguments.petshop / traffic / split).glob("issue_*"))
        ]
        print(summary(split, found))
        every += found
    print(summary("all", every))


def score(traffic: Path, issue: Path, start: str, verbose: bool) -> tuple[int, str, float]:
    """Rank of the true cause (99 if absent), the verdict, and the seconds that reading and ranking took."""
    with tempfile.TemporaryDirectory() as scratch:
        convert(traffic, issue, Path(scratch), start)
        began = time.perf_counter()
        found = diagnose(csv_folder.read(Path(scratch)))
        took_s = time.perf_counter() - began
    truth = json.loads((issue / "target.json").read_text())["root_cause"]["node"]
    names = [r.entity for r in found.ranked]
    rank = names.index(truth) + 1 if truth in names else 99
    if verbose and rank != 1:
        print(
            traffic.name,
            issue.name,
            truth,
            rank,
            found.verdict,
            [(r.entity, round(r.score, 2)) for r in found.ranked[:3]],
        )
    return rank, found.verdict, took_s


def summary(name: str, found: list[tuple[int, str, float]]) -> str:
    """One line of figures."""
    first, third = (sum(rank <= n for rank, _, _ in found) / len(found) for n in (1, 3))
    sure = sum(verdict == "root_cause" for _, verdict, _ in found)
    slowest = max(took_s for _, _, took_s in found)
    return (
        f"{name}: {len(found)} cases, top-1 {first:.3f}, top-3 {third:.3f}, root_cause {sure}, slowest {slowest:.2f} s"
    )


if __name__ == "__main__":
    main()
