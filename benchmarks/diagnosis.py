"""Score the diagnosis on PetShop (52 cases): python benchmarks/diagnosis.py PETSHOP_FOLDER [--split train|test].

Prints top-1 and top-3 accuracy over the cases of each split. The true cause is read only after the ranking.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

from aftershock.diagnose import csv_folder
from aftershock.diagnose.rank import diagnose


def convert(traffic: Path, issue: Path, out: Path) -> None:
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
    impact = {"entity": target["node"], "metric": f"{target['metric']}_{target['agg']}", "start": begin}
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
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    for split in arguments.split or ["train", "test"]:
        ranks = []
        for traffic in ("low_traffic", "high_traffic"):
            for issue in sorted((arguments.petshop / traffic / split).glob("issue_*")):
                with tempfile.TemporaryDirectory() as scratch:
                    convert(arguments.petshop / traffic, issue, Path(scratch))
                    found = diagnose(csv_folder.read(Path(scratch)))
                truth = json.loads((issue / "target.json").read_text())["root_cause"]["node"]
                names = [r.entity for r in found.ranked]
                ranks.append(names.index(truth) + 1 if truth in names else 99)
                if arguments.verbose and ranks[-1] != 1:
                    print(
                        traffic,
                        issue.name,
                        truth,
                        ranks[-1],
                        found.verdict,
                        [(r.entity, round(r.score, 2)) for r in found.ranked[:3]],
                    )
        first, third = (sum(r <= n for r in ranks) / len(ranks) for n in (1, 3))
        print(f"{split}: {len(ranks)} cases, top-1 {first:.3f}, top-3 {third:.3f}")


if __name__ == "__main__":
    main()
