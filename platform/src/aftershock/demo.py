"""`aftershock demo`: a local cluster, the shop, four experiments; each must come out as it must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aftershock import experiment, render, testbed
from aftershock import run as runs
from aftershock.errors import BadInput
from aftershock.progress import Terminal
from aftershock.settings import Settings
from aftershock.verdict import Outcome


@dataclass(frozen=True)
class Act:
    """One of the four."""

    file: str
    weak: bool
    must: Outcome


ACTS = (
    Act("payments-pod-kill", False, Outcome.PASS),
    Act("body2-drain", False, Outcome.PASS),
    Act("payments-latency", False, Outcome.PASS),
    Act("payments-pod-kill", True, Outcome.FAIL),
)


def run(
    reports: Path, graph: str, model: str, only: Sequence[str] | None, settings: Settings, terminal: Terminal
) -> list[render.Row]:
    """Run the acts and return their rows. Raises BadInput for a name that is not among them."""
    project = project_folder()
    names = {a.file + ("-weak" if a.weak else "") for a in ACTS}
    if unknown := sorted(set(only or ()) - names):
        raise BadInput(f"{', '.join(unknown)} is not in the demo", hint=f"one of: {', '.join(sorted(names))}")
    acts = [a for a in ACTS if not only or a.file + ("-weak" if a.weak else "") in only]
    rows = []
    terminal.headline("local cluster")
    with testbed.running(testbed.Testbed.of(project, "demo"), settings, terminal) as cluster:
        for number, act in enumerate(acts, 1):
            tested = experiment.load(project / "experiments" / f"{act.file}.yaml")
            terminal.headline(f"{number}/{len(acts)} {act.file}" + (" (weak)" if act.weak else ""))
            options = runs.Options(testbed.on(cluster), reports, False, act.weak, graph, model)
            folder = runs.run(tested, options, settings, terminal)
            twin = tested.weak_twin
            row = render.row(folder, act.must, twin.must_break if act.weak and twin else None)
            rows.append(row)
            terminal.say(f"{row.experiment}: {row.verdict.value}, {row.why}")
        terminal.headline("local cluster")
        terminal("ending it", None)
    return rows


def project_folder() -> Path:
    """The project that this package is installed from, or the one around the working directory. Raises BadInput."""
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for folder in (start, *start.parents):
            if (folder / "gitops/apps/pocket/kustomization.yaml").is_file() and (folder / "experiments").is_dir():
                return folder
    raise BadInput("there is no project here: no folder with gitops/apps/pocket and experiments",
                   hint="run it inside a checkout of aftershock")  # fmt: skip
