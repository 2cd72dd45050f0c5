"""`pytest experiments/`: every experiment file is a test, and its weak twin another one that must FAIL.

Installed by the entry point `pytest11`, so it serves other projects too. It stays out of the way: nothing of aftershock is loaded before a
YAML file with an `aftershock` extension is collected. Without `--aftershock-on` a local cluster with the shop is started for the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aftershock.between import Between
    from aftershock.cluster import Cluster
    from aftershock.experiment import Experiment

SUFFIXES = frozenset({".yaml", ".yml"})
_BED = pytest.StashKey[ExitStack]()
_CLUSTER: pytest.StashKey[Cluster] = pytest.StashKey()
_BETWEEN: pytest.StashKey[Between] = pytest.StashKey()


class GateError(Exception):
    """The verdict is not the one that it must be."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the gate."""
    group = parser.getgroup("aftershock", "chaos experiments as tests")
    group.addoption("--aftershock-on", metavar="CLUSTER", default=None,
                    help="pocket, pocket:NAME or a kubeconfig context; default: a local cluster, for this session")  # fmt: skip
    group.addoption(
        "--aftershock-unleash",
        action="store_true",
        help="allow faults on a cluster that pocketkube did not start for you",
    )
    group.addoption("--aftershock-load-on", choices=("runner", "cluster"),
                    help="where the load generator runs: here or in pods of the cluster (the file's runs_on, else runner)")  # fmt: skip
    group.addoption("--aftershock-reports", metavar="DIR", default="reports", help="where runs are kept (reports)")
    group.addoption(
        "--aftershock-model",
        default="none",
        metavar="MODEL",
        help="who picks the postmortems' phrasings: none, embedded or ollama:NAME (none)",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A YAML file that has the extension is a collection of one or two tests."""
    if file_path.suffix not in SUFFIXES or not file_path.is_file():
        return None
    text = file_path.read_text(encoding="utf-8", errors="replace")
    if "extensions:" not in text or "aftershock" not in text:
        return None
    return ExperimentFile.from_parent(parent, path=file_path)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the session's local cluster."""
    stack = config.stash.get(_BED, None)
    if stack is not None:
        stack.close()


class ExperimentFile(pytest.File):
    """One experiment file."""

    def collect(self) -> Iterable[pytest.Item]:
        """The experiment, and its weak twin if it names one."""
        from aftershock import experiment
        from aftershock.errors import BadExperiment

        try:
            tested = experiment.load(self.path)
        except BadExperiment as error:
            raise self.CollectError(f"{error}\nhint: {error.hint}" if error.hint else str(error)) from None
        yield ExperimentItem.from_parent(self, name=tested.name, tested=tested, weak=False)
        if tested.weak_twin:
            yield ExperimentItem.from_parent(self, name=f"{tested.name}[weak]", tested=tested, weak=True)


class ExperimentItem(pytest.Item):
    """One run; the strong one must PASS, the weak one must FAIL by what its file names."""

    def __init__(self, *, tested: Experiment, weak: bool, **more: Any) -> None:
        super().__init__(**more)
        self.tested, self.weak = tested, weak

    def runtest(self) -> None:
        """Run it. Raises GateError with the findings if the verdict is not the one that it must be."""
        from aftershock import render, run
        from aftershock.progress import silent
        from aftershock.settings import settings
        from aftershock.verdict import Outcome

        reports = Path(self.config.getoption("--aftershock-reports"))
        options = run.Options(
            _cluster(self.config), reports, self.config.getoption("--aftershock-unleash"), self.weak,
            settings().graph_url or str(reports / "graph.lbug"), self.config.getoption("--aftershock-model"),
            self.config.getoption("--aftershock-load-on"), _between(self.config),
        )  # fmt: skip
        folder = run.run(self.tested, options, settings(), silent)
        must = Outcome.FAIL if self.weak else Outcome.PASS
        twin = self.tested.weak_twin
        row = render.row(folder, must, twin.must_break if self.weak and twin else None)
        self.user_properties += [("run_id", row.run_id), ("verdict", row.verdict.value), ("report", row.report)]
        if not row.as_it_must:
            raise GateError("\n".join(_explained(row, folder.read("verdict.json"))))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The findings, without a traceback of ours."""
        if isinstance(excinfo.value, GateError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where and what."""
        return self.path, 0, f"experiment: {self.name}"


def _explained(row: Any, verdict: dict[str, Any]) -> Iterator[str]:
    yield f"{row.experiment} is {row.verdict.value}, and must be {row.must.value}"
    for finding in verdict["findings"]:
        if finding["outcome"] != "PASS" or row.must.value == "FAIL":
            yield f"  {finding['outcome']:12} {finding['rule']}: {finding['summary']}"
            if finding["hint"] and finding["outcome"] != "PASS":
                yield f"               hint: {finding['hint']}"
    yield f"  report: {row.report}"


def _cluster(config: pytest.Config) -> str:
    """The cluster to run on; the local one is started once per session."""
    from aftershock import demo, testbed
    from aftershock.progress import silent
    from aftershock.settings import settings

    if given := config.getoption("--aftershock-on"):
        return str(given)
    if _BED not in config.stash:
        stack = ExitStack()
        bed = testbed.Testbed.of(demo.project_folder(), "pytest")
        config.stash[_CLUSTER] = stack.enter_context(testbed.running(bed, settings(), silent))
        config.stash[_BED] = stack
    return testbed.on(config.stash[_CLUSTER])


def _between(config: pytest.Config) -> Between:
    """What knows of the session's earlier experiments."""
    from aftershock.between import Between

    if _BETWEEN not in config.stash:
        config.stash[_BETWEEN] = Between()
    return config.stash[_BETWEEN]
