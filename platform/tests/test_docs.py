"""The documents say what the code does: links, commands, examples, tables and names are checked against it."""

from __future__ import annotations

import ast
import re
import shlex
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from aftershock import actions, demo, experiment, faults, preflight, probes, pytest_plugin, session
from aftershock import cli as aftershock_cli
from aftershock.errors import BadInput
from aftershock.evidence import RULES
from aftershock.experiment import Slo
from aftershock.load import plan
from aftershock.observe import watch
from aftershock.slo import MIN_ITERATIONS, Measurement
from aftershock.verdict import (
    LATE_RATIO_MAX,
    ActivityResult,
    Fault,
    Finding,
    Gap,
    InvariantResult,
    LoadFacts,
    Observed,
    Outcome,
    judge,
)
from pocketkube import addresses, clusters, flow, images, kubelet
from pocketkube import cli as pocketkube_cli
from shop import peer

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = PROJECT / "platform/src"
PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md")])
SHELL = ("sh", "bash", "console")
FOREIGN = ("python3", "kubectl", "export", "source", ".", "pip", "git")  # commands of others, read and not checked

pages = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(PROJECT)))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^ *```([a-z]*)[^\n]*\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(language, text) for language, text in found]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> list[str]:
    """Texts in backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def headings(page: Path) -> list[str]:
    return re.findall(r"^#{1,6} +(.+?) *$", prose(page), re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def section(page: Path, heading: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    text = page.read_text(encoding="utf-8")
    match = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert match, f"{page.name} has no heading {heading!r}"
    return match.group(2)


def table(text: str) -> list[list[str]]:
    """The rows of the first table, without its head; backticks around a cell are taken off."""
    lines = re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE)[0].splitlines()
    rows = [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return [[re.sub(r"^`(.*)`$", r"\1", cell) for cell in row] for row in rows]


@cache
def source_text() -> str:
    """All that is code or configuration in the project, as one text; of the tests what a user has a part in."""
    files: list[Path] = [PROJECT / "Makefile", PROJECT / "pyproject.toml", PROJECT / ".ci/run"]
    files += [PROJECT / f"platform/tests/{name}" for name in ("k8s/conftest.py", "aftershock/graph/own.py")]
    for folder in (SOURCES, PROJECT / "experiments", PROJECT / "scenarios", PROJECT / "gitops", PROJECT / "benchmarks"):
        files += [p for p in folder.rglob("*") if p.is_file() and p.suffix in TEXTS]
    return "\n".join(p.read_text(encoding="utf-8") for p in files)


@cache
def source_words() -> frozenset[str]:
    """Every name that stands in it."""
    return frozenset(re.findall(r"\w+", source_text()))


TEXTS = frozenset({".py", ".yaml", ".json", ".js", ".j2", ".css", ".cypher"})


# ---- links, names, what must not stand anywhere


def test_the_pages_are_found() -> None:
    names = {str(p.relative_to(PROJECT)) for p in PAGES}
    assert {"README.md", "README.ko.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/experiments.md", "docs/verdicts.md",
            "docs/pocketkube.md", "docs/ci.md", "docs/security.md", "docs/contracts.md"} <= names  # fmt: skip


HOSTS = re.compile(r"\b(?:(?:pypi|pythonhosted|docker|ghcr|quay|gcr|npmjs)\.(?:org|io|com)|registry\.[a-z0-9]+\.io)\b")
MACHINE = re.compile(r"(?<![\w.~$/}])/(?:work|home|root|Users|tmp|opt|mnt|srv)/[\w.-]+")
VARIABLE = re.compile(r"(?<![\w<])\$?([A-Z][A-Z0-9]*_[A-Z0-9_]*[A-Z0-9])\b")


def dead_links(page: Path, root: Path = PROJECT) -> list[str]:
    """Relative links that lead nowhere, out of the project, or to a heading that is not there."""
    text = re.sub(r"`[^`\n]+`", "", prose(page))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"\b(?:src|srcset|href)=\"([^\"]+)\"", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        known = file.exists() and file.is_relative_to(root)
        if not known or (anchor and anchor not in {slug(h) for h in headings(file)}):
            dead.append(target)
    return dead


def unknown_variables(page: Path) -> list[str]:
    """Environment variables in backticks that no code knows."""
    named = {name for span in spans(page) for name in VARIABLE.findall(span)}
    return sorted(named - source_words())


def test_a_page_that_is_wrong_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "wrong.md"
    page.write_text("# A Heading\n[x](gone.md) [y](#nowhere) [z](#a-heading) `AFTERSHOCK_NEVER` `NO_COLOR`\n"
                    "quay" ".io/some/image, /home/somebody/x, ~/.kube/config\n", encoding="utf-8")  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert dead_links(page, tmp_path) == ["gone.md", "#nowhere"]
    assert unknown_variables(page) == ["AFTERSHOCK_NEVER"]
    assert len(HOSTS.findall(text)) == 1
    assert MACHINE.findall(text) == ["/home/somebody"]
    invented = ["aftershock/invented.py", "judge_folder", "invent_folder()", "aftershock/run.py"]
    assert nonexistent(invented) == ["aftershock/invented.py", "invent_folder()"]


@pages
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert not dead_links(page)


@pages
def test_no_machine_and_no_registry_is_named(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not HOSTS.findall(text)
    assert not MACHINE.findall(text)


@pages
def test_environment_variables_exist(page: Path) -> None:
    unknown = unknown_variables(page)
    if page.name == "contracts.md":  # it names variables by patterns
        unknown = [name for name in unknown if not name.startswith(("X_", "NAME_"))]
    assert not unknown


@pages
def test_files_named_in_backticks_exist(page: Path) -> None:
    known = re.compile(
        r"(?:platform|docs|experiments|scenarios|gitops|benchmarks|\.ci|\.github)/[\w./-]+\.(?:py|md|ya?ml|js|json|svg)"
    )
    for span in spans(page):
        if known.fullmatch(span) and "NAME" not in span and not span.startswith(".github/"):
            assert (PROJECT / span).is_file(), f"{page.name}: {span}"


def test_the_picture_is_one_file_that_loads_nothing() -> None:
    text = (PROJECT / "docs/flow.svg").read_text(encoding="utf-8")
    assert "<title" in text
    assert "<desc" in text
    assert not re.findall(r"(?:href|src)=|url\((?!#)|<script|@import", text)


# ---- commands


class Recorder:
    """Takes the options that the pytest plugin adds."""

    def __init__(self) -> None:
        self.options: set[str] = set()

    def getgroup(self, *_: str) -> Recorder:
        return self

    def addoption(self, name: str, **_: Any) -> None:
        self.options.add(name)


def targets() -> set[str]:
    """Targets of the Makefile."""
    return set(re.findall(r"^([a-z][\w-]*):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def commands(text: str) -> Iterator[list[str]]:
    """Command lines of a shell block, comments and prompts taken off, and those in `$(...)` besides."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        line = line.strip().removeprefix("$ ")
        for inner in re.findall(r"\$\(([^)]*)\)", line):
            yield shlex.split(inner)
        for part in re.split(r"\s(?:&&|\|\||;|\|)\s", re.sub(r"\$\([^)]*\)", "IT", line)):
            words = shlex.split(part, comments=True)
            if words:
                yield words


def complaint(words: list[str]) -> str | None:
    """Why a command line would not be understood; None if it would, or if it is somebody else's."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program = words[0].rsplit("/", 1)[-1] if words else ""
    try:
        match program:
            case "aftershock":
                aftershock_cli.parser().parse_args(words[1:])
            case "pocketkube":
                pocketkube_cli._parser().parse_args(words[1:])
            case "make":
                unknown = [w for w in words[1:] if "=" not in w and w not in targets()]
                return f"no target {', '.join(unknown)}" if unknown or len(words) < 2 else None
            case "pytest":
                recorder = Recorder()
                pytest_plugin.pytest_addoption(recorder)  # type: ignore[arg-type]
                given = {w.split("=")[0] for w in words if w.startswith("--aftershock")}
                return f"no option {given - recorder.options}" if given - recorder.options else None
            case _ if program not in FOREIGN and words:
                return f"{program} is no program that is known here"
    except BadInput as error:
        return str(error)
    except SystemExit as end:
        return f"ends with {end.code}" if end.code else None
    return None


def test_commands_that_are_wrong_are_noticed() -> None:
    for line in ("aftershock fly", "aftershock run", "aftershock run x.yaml --fast", "pocketkube sideways", "make coffee", "make",
                 "pytest experiments/ --aftershock-never", "invented --help"):  # fmt: skip
        assert complaint(shlex.split(line)), line
    for line in (
        "aftershock run experiments/control.yaml --json",
        "pocketkube up --nodes a,b",
        "make demo",
        "make PYTHON=python3 test",
    ):
        assert complaint(shlex.split(line)) is None, line


@pages
def test_commands_in_blocks_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page):
        if block.language in SHELL:
            for words in commands(block.text):
                assert complaint(words) is None, f"{page.name}: {' '.join(words)}: {complaint(words)}"


@pages
def test_commands_in_sentences_are_understood(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`aftershock undo` with its arguments; a lone `aftershock run` names the command only."""
    for span in spans(page):
        words = span.split()
        if len(words) < 2 or words[0] not in ("aftershock", "pocketkube", "make") or re.search(r"[|\[…]|\.\.\.", span):
            continue
        if len(words) == 2 and words[0] != "make":
            shown = [*words, "--help"]
            assert complaint(shown) is None, f"{page.name}: {span}"
        else:
            assert complaint(shlex.split(span)) is None, f"{page.name}: {span}: {complaint(shlex.split(span))}"


def test_steps_of_the_workflow_are_understood() -> None:
    examples = [b for b in blocks(PROJECT / "docs/ci.md") if b.language == "yaml" and "jobs:" in b.text]
    assert examples
    for block in examples:
        for job in yaml.safe_load(block.text)["jobs"].values():
            for step in job["steps"]:
                for words in commands(step.get("run", "")):
                    assert complaint(words) is None, words


# ---- docs/experiments.md

EXPERIMENTS = PROJECT / "docs/experiments.md"


def described(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, bounds and default of every key below a pydantic model."""
    for name, field in model.model_fields.items():
        kind, below = _kind(field.annotation)
        key = f"{prefix}{name}{'[]' if kind.startswith('list') and below else ''}"
        default = "no default" if field.is_required() else "none" if field.default is None else str(field.default)
        yield key, kind, _bounds(field.annotation, field.metadata), default
        if below is not None:
            yield from described(below, f"{key}.")


def _kind(annotation: Any) -> tuple[str, type[BaseModel] | None]:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(args[0])
    if origin in (typing.Union, types.UnionType):
        return _kind(next(a for a in args if a is not type(None)))
    if origin is typing.Literal:
        return "text", None
    if origin is list:
        kind, below = _kind(args[0])
        return f"list of {kind}s" if below else f"list of {kind}", below
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping", annotation
    return {str: "text", int: "whole number", float: "number"}[annotation], None


def _bounds(annotation: Any, metadata: list[Any]) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _bounds(args[0], [*metadata, *args[1:]])
    if origin in (typing.Union, types.UnionType):
        return _bounds(next(a for a in args if a is not type(None)), metadata)
    if origin is list:
        least = [f"at least {m.min_length}" for m in _flat(metadata) if hasattr(m, "min_length")]
        return "; ".join(filter(None, [*least, _bounds(args[0], [])]))
    if origin is typing.Literal:
        return ", ".join(args)
    told = []
    for m in _flat(metadata):
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            if getattr(m, attribute, None) is not None:
                told.append(f"{sign} {getattr(m, attribute)}")
        if getattr(m, "pattern", None):
            told.append(m.pattern)
    return ", ".join(told)


def _flat(metadata: list[Any]) -> Iterator[Any]:
    for entry in metadata:
        yield from getattr(entry, "metadata", None) or [entry]


def test_the_key_table_is_that_of_the_models() -> None:
    rows = [
        (key, kind, bounds, default)
        for key, kind, _, bounds, default, _ in table(section(EXPERIMENTS, "Every key of the entry"))
    ]
    assert rows == list(described(experiment._ExtensionModel))


def test_the_units_follow_the_names() -> None:
    for key, _, unit, *_ in table(section(EXPERIMENTS, "Every key of the entry")):
        if key.endswith("_per_s"):
            assert unit == "journeys a second", key
        elif key.endswith(("_s", "seconds_max")):
            assert unit == "s", key


def test_the_top_level_keys_are_those_that_are_known() -> None:
    assert {row[0] for row in table(section(EXPERIMENTS, "Every key at the top"))} == experiment._TOP_KEYS


def test_the_arguments_that_must_be_given_are_listed() -> None:
    rows = {
        row[0]: tuple(a.strip("` ") for a in row[1].split(","))
        for row in table(section(EXPERIMENTS, "Arguments without a default"))
    }
    assert rows == {
        name: tuple(c.replace("|", " or ") for c in choices) for name, choices in experiment._TARGET_ARGUMENTS.items()
    }


def test_the_table_of_faults_is_that_of_the_code() -> None:
    rows = {row[0]: (row[1], row[2], row[3]) for row in table(section(EXPERIMENTS, "Actions that are known"))}
    assert rows == {
        name: (
            kind.action,
            "heals" if kind.heals else "journal" if kind.undoable else "rollbacks",
            "yes" if kind.action in RULES else "watch events of the targets only",
        )
        for name, kind in faults.KNOWN.items()
    }


def test_own_actions_and_probes_are_listed_with_their_arguments() -> None:
    rows = {row[0]: row[1] for row in table(section(EXPERIMENTS, "Actions and probes of aftershock"))}
    for module in (actions, probes):
        for name in module.__all__:
            code = getattr(module, name).__code__
            given = [a for a in code.co_varnames[: code.co_argcount] if a not in ("configuration", "secrets")]
            assert re.findall(r"\w+", rows.pop(f"{module.__name__}.{name}")) == given, name
    assert not rows


def test_examples_of_experiments_are_accepted() -> None:
    whole = [b.text for b in blocks(EXPERIMENTS) if b.language == "yaml" and "extensions:" in b.text]
    assert whole
    for number, text in enumerate(whole):
        tested = experiment.parse(PROJECT / f"experiments/example-{number}.yaml", text)
        assert tested.actions or tested.expect == "none"
    for block in blocks(EXPERIMENTS):
        if block.language == "yaml":
            assert yaml.safe_load(block.text)


def test_every_experiment_with_a_fault_has_a_weak_twin() -> None:
    """The README says so."""
    for path in (PROJECT / "experiments").glob("*.yaml"):
        tested = experiment.load(path)
        assert (tested.weak_twin is not None) == (tested.expect != "none"), path.name


def test_the_weaknesses_are_listed() -> None:
    rows = {row[0] for row in table(section(EXPERIMENTS, "Weak twins"))}
    assert rows == {p.parent.name for p in (PROJECT / "gitops/apps/weak").glob("*/kustomization.yaml")}


# ---- docs/verdicts.md

VERDICTS = PROJECT / "docs/verdicts.md"
SLO = Slo("slo.1", "checkout", "success_ratio", "fault", 0.99, None)
BASELINE = replace(SLO, window="baseline")
GOOD = Observed(
    expect="fault",
    activities=[ActivityResult("the catalogue answers", "before", True, None, True), ActivityResult("kill-one", "method", True)],
    faults=[Fault("f1", "pod-kill", 1, True, True, None)],
    steady_before=True, steady_after=True, load=LoadFacts(True, 660, 660, 0, None),
    slos=[Measurement(SLO, 0.996, 240, True)], usual=[Measurement(BASELINE, 1.0, 180, True)],
    silent=[], gaps=[], recovered_s=0.8, recovery_deadline_s=15,
    undo_pending=0, undo_observed=True,
    invariants=[InvariantResult("no_lost_order", Outcome.PASS, 590, 0, "holds for all 590 checked")],
    invariants_wanted=["no_lost_order"],
)  # fmt: skip
BLIND = replace(GOOD, steady_before=False)
MISSED = [ActivityResult("the catalogue answers", "before", True, None, False)]
TIMED_OUT = [ActivityResult("kill-one", "method", False, "did not end within 8 s (it may have been done all the same)")]
LOST = "2 violation(s), 590 checked; the first: acknowledged, but not in the ledger"
BROKEN = [InvariantResult("no_lost_order", Outcome.FAIL, 590, 2, LOST)]
LOW = [Measurement(SLO, 0.7051, 217, False)]
FEW = [Measurement(SLO, None, 12, None)]
CASES: dict[str, list[Observed]] = {
    "targets": [GOOD, replace(GOOD, faults=[replace(GOOD.faults[0], targets=0)]), replace(GOOD, faults=[])],
    "control": [replace(GOOD, expect="none", faults=[])],
    "activities": [
        GOOD,
        replace(GOOD, activities=TIMED_OUT),
        replace(GOOD, activities=[]),
        replace(GOOD, stopped=("another run took the lease: nightly on buildbox", None)),
    ],
    "steady_before": [
        GOOD,
        replace(BLIND, activities=MISSED),
        replace(GOOD, usual=[Measurement(BASELINE, 0.9875, 160, False)]),
        replace(GOOD, usual=[Measurement(BASELINE, None, 12, None)]),
    ],
    "load": [
        GOOD,
        replace(GOOD, load=LoadFacts(False, 0, 0, 0, "the scenario sent no request")),
        replace(GOOD, load=LoadFacts(True, 660, 600, 60, None)),
    ],
    "observed": [
        GOOD,
        replace(GOOD, faults=[replace(GOOD.faults[0], observed=False)]),
        replace(GOOD, faults=[replace(GOOD.faults[0], accepted=False, observed=False, refused="403 forbidden")]),
        replace(GOOD, expect="refused", faults=[Fault("f1", "node-drain", 2, False, False, "429 Cannot evict pod")]),
        replace(GOOD, expect="refused", faults=[Fault("f1", "node-drain", 2, True, True, None)]),
    ],
    "observers": [
        GOOD,
        replace(GOOD, silent=["watch"]),
        replace(GOOD, gaps=[Gap("watch", "the API server did not answer")]),
    ],
    "slo": [GOOD, replace(GOOD, slos=LOW), replace(BLIND, slos=LOW), replace(GOOD, slos=LOW, blind=frozenset({"fault"})),
            replace(GOOD, slos=FEW)],
    "recovery": [
        GOOD,
        replace(GOOD, recovered_s=21.4),
        replace(GOOD, recovered_s=None),
        replace(GOOD, steady_after=False),
        replace(GOOD, steady_after=None),
        replace(BLIND, recovered_s=None),
    ],
    "undo": [GOOD, replace(GOOD, undo_pending=1), replace(GOOD, undo_observed=False)],
    "invariants": [
        GOOD,
        replace(GOOD, invariants=BROKEN),
        replace(BLIND, invariants=BROKEN),
        replace(GOOD, invariants=[]),
    ],
}  # fmt: skip


def _said(rule: str, cases: list[Observed]) -> list[tuple[str, str]]:
    found = [f for seen in cases for f in judge(seen).findings if f.rule == rule]
    return [(f.outcome.value, f.summary) for f in found]


@pytest.mark.parametrize("rule", CASES)
def test_examples_of_findings_are_what_the_judge_says(rule: str) -> None:
    rows = [(row[0], row[1]) for row in table(section(VERDICTS, f"`{rule}`"))]
    assert rows == _said(rule, CASES[rule])


def test_the_leash_says_what_the_page_says() -> None:
    leash = preflight.Leashed("production").refusal()
    assert isinstance(leash, Finding)
    assert ["INCONCLUSIVE", leash.summary] in [row[:2] for row in table(section(VERDICTS, "`preflight`"))]


def test_every_rule_has_a_section() -> None:
    used: set[str] = set()
    for name in ("verdict", "preflight", "session"):
        for node in ast.walk(ast.parse((SOURCES / f"aftershock/{name}.py").read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("_no", "_ok", "Finding")
            ):
                used |= {a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    told = {match for h in headings(VERDICTS) if (match := h.strip("`")) != h}
    assert used == told


def test_exit_codes_are_those_of_the_code() -> None:
    rows = {row[0]: row[1] for row in table(section(VERDICTS, "Exit codes"))}
    for outcome in Outcome:
        assert rows[str(outcome.exit_code)] == outcome.value
    assert {str(aftershock_cli.BAD_INPUT), str(aftershock_cli.CRASH), str(aftershock_cli.INTERRUPTED)} <= set(rows)


def test_figures_are_those_of_the_code() -> None:
    weaknesses = len(list((PROJECT / "gitops/apps/weak").glob("*/kustomization.yaml")))
    said = {
        "docs/verdicts.md": (
            f"at least {1 - LATE_RATIO_MAX:.0%} of the scheduled arrivals".replace("%", " %"), f"within {plan.ON_TIME_S:g} s of their time",
            f"blind for longer than {watch.GAP_S:g} s, or no answer for longer than {watch.SILENT_S:g} s",
            f"until {MIN_ITERATIONS} journeys in a row", f"up to {session.SETTLE_S:g} s to finish",
        ),
        "docs/experiments.md": (f"fewer than {MIN_ITERATIONS} journeys", f"after {plan.TIMEOUT_S:g} s", f"up after {peer.IMPATIENT_S:g} s"),
        "docs/pocketkube.md": (
            f"{len(addresses.PODS)} pods and 254 Services a cluster, {kubelet.PODS_MOST} pods a node",
            f"({flow.RTO_S * 1000:g} ms, doubled",
            "four nodes: " + ", ".join(clusters.NODES),
        ),
        "docs/security.md": (f"port {' or '.join(map(str, addresses.API_PORTS))}, A between {addresses.FIRST} and {addresses.LAST}",),
        "CHANGELOG.md": (f"and {weaknesses} weaknesses",),
        "README.md": (f"runs {('zero', 'one', 'two', 'three', 'four', 'five')[len(demo.ACTS)]} experiments",),
    }  # fmt: skip
    for name, sentences in said.items():
        text = " ".join((PROJECT / name).read_text(encoding="utf-8").split())
        for sentence in sentences:
            assert sentence in text, f"{name}: {sentence}"


# ---- docs/pocketkube.md

POCKETKUBE = PROJECT / "docs/pocketkube.md"


def test_the_table_of_kinds_is_that_of_the_server() -> None:
    served = yaml.safe_load((SOURCES / "pocketkube/api/verbs.yaml").read_text(encoding="utf-8"))["resources"]
    rows = [tuple(row) for row in table(section(POCKETKUBE, "What is served"))]
    assert rows == [
        (r["kind"], f"{r['group']}/{r['version']}".lstrip("/"), ", ".join(r.get("subresources") or {}), "yes" if r["enforced"] else "no")
        for r in served
    ]  # fmt: skip


@pytest.mark.parametrize(("heading", "fate"), [("Accepted, not enforced", "unenforced"), ("Refused", "refused")])
def test_the_fates_of_fields_are_those_of_admission(heading: str, fate: str) -> None:
    known = yaml.safe_load((SOURCES / "pocketkube/admission/fields.yaml").read_text(encoding="utf-8"))
    wanted = {(kind, name) for kind, below in known.items() if isinstance(below, dict)
              for name, type_ in below.items() if str(type_).startswith(fate)}  # fmt: skip
    rows = table(section(POCKETKUBE, heading))
    assert {(kind, name) for kind, cell in rows for name in re.findall(r"\w+", cell)} == wanted


def test_the_example_of_images_is_accepted(tmp_path: Path) -> None:
    for block in blocks(POCKETKUBE):
        if block.language == "yaml":
            path = tmp_path / "images.yaml"
            path.write_text(block.text, encoding="utf-8")
            assert images.read(path).find("postgres:18")


# ---- ARCHITECTURE.md and the two README

ARCHITECTURE = PROJECT / "ARCHITECTURE.md"


def test_every_module_is_in_the_architecture() -> None:
    named = set(spans(ARCHITECTURE))
    missing = []
    for path in sorted(SOURCES.rglob("*")):
        relative = str(path.relative_to(SOURCES))
        if path.suffix not in TEXTS or "__pycache__" in path.parts:
            continue
        bare = path.name == "__init__.py" and len(path.read_text(encoding="utf-8").splitlines()) < 5
        if bare or path.parent.name in ("schemas", "queries"):
            relative = f"{path.parent.relative_to(SOURCES)}/"
        if relative not in named:
            missing.append(relative)
    assert not sorted(set(missing))


def nonexistent(texts: list[str]) -> list[str]:
    """Paths and names that are nowhere in the project."""
    wrong = []
    for text in texts:
        if re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+/?", text) and "NAME" not in text:
            known = (PROJECT / text, SOURCES / text)
            if not any(p.exists() for p in known) and text not in source_text():
                wrong.append(text)
        elif re.fullmatch(r"[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)*(?:\(\))?", text):
            wrong += [text for part in text.removesuffix("()").split(".") if part not in source_words()]
    return wrong


def test_every_name_in_the_architecture_exists() -> None:
    assert not nonexistent(spans(ARCHITECTURE))


def test_the_korean_readme_has_the_same_shape() -> None:
    english, korean = PROJECT / "README.md", PROJECT / "README.ko.md"
    level = [re.findall(r"^(#{1,6}) ", prose(p), re.MULTILINE) for p in (english, korean)]
    assert level[0] == level[1]
    assert blocks(english) == blocks(korean)
    assert re.findall(r"\]\((?!README)([^)\s]+)\)", prose(english)) == re.findall(
        r"\]\((?!README)([^)\s]+)\)", prose(korean)
    )


def test_the_readme_shows_both_commands() -> None:
    lines = [line for block in blocks(PROJECT / "README.md") for line in block.text.splitlines()]
    assert any(line.startswith("make demo") for line in lines)
    assert any(line.startswith("make test") for line in lines)
