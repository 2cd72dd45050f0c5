"""Runs from run folders or an embedded graph into the graph of a team: each whole and once, so that it can be done again at any time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aftershock import graph
from aftershock.errors import AftershockError, BadInput, GraphError, GraphUnreachable
from aftershock.folder import RunFolder
from aftershock.graph.digest import digest
from aftershock.graph.rows import Rows
from aftershock.graph.shelf import full_folder
from aftershock.progress import Teller

STATES = ("new", "unchanged", "replaced", "failed")
RUNS_AT_ONCE = 20  # are read before they are written


class Target(Protocol):
    """A graph that knows what it holds."""

    def digests(self) -> dict[str, str]: ...

    def write_run(self, rows: Rows) -> None: ...

    def write_runs(self, runs: list[Rows]) -> None: ...


@dataclass(frozen=True)
class Synced:
    """What became of one run; a folder that cannot be read has no run id and is named by its path."""

    run: str
    state: str  # one of STATES
    error: AftershockError | None = None


@dataclass(frozen=True)
class Source:
    """Where runs come from: their names, and the rows or the failure of each one."""

    names: list[str]
    read: Callable[[], Iterator[tuple[str, Rows | AftershockError]]]
    close: Callable[[], None]


def source(path: Path, deadline_s: float = graph.DEADLINE_S) -> Source:
    """One run folder, all below a folder of reports, or the file of an embedded graph. Raises BadInput for anything else."""
    if (path / "run.json").is_file():
        return _folders([path])
    if found := [
        *sorted(one.parent for one in path.glob("*/run.json") if not one.parent.is_symlink()),
        *graph.run_paths(path),
    ]:
        return _folders(found)
    if path.is_file() or full_folder(path).is_dir():
        held = graph.open(path, deadline_s, read_only=True)
        runs = held.runs()
        return Source(runs, lambda: ((rows.run_id, rows) for rows in held.rows(runs)), held.close)
    raise BadInput(
        f"{path}: there are no runs", hint="name a reports folder, a run folder, or the file of an embedded graph"
    )


def _folders(paths: list[Path]) -> Source:
    def read() -> Iterator[tuple[str, Rows | AftershockError]]:
        for path in paths:
            try:
                yield str(path), graph.rows_of(RunFolder.open(path))
            except AftershockError as error:
                yield str(path), error

    return Source([str(path) for path in paths], read, lambda: None)


def sync(runs: Source, target: Target, tell: Teller, *, again: bool = False) -> list[Synced]:
    """Write what the target lacks or holds otherwise; `again` writes also what it holds already.

    A run that cannot be read or written does not keep the others back; a target that is gone ends it, and every run left has failed.
    """
    done: list[Synced] = []
    left = dict.fromkeys(runs.names)
    waiting: dict[str, Rows] = {}
    held = target.digests()

    def write() -> None:
        for name, rows, error in _written(waiting, target):
            done.append(Synced(rows.run_id, "failed" if error else "replaced" if rows.run_id in held else "new", error))
            left.pop(name, None)
        waiting.clear()

    try:
        for number, (name, found) in enumerate(runs.read()):
            tell(f"runs {number} of {len(runs.names)}", number / max(1, len(runs.names)))
            if isinstance(found, Rows) and (again or held.get(found.run_id) != digest(found)):
                waiting[name] = found
                if len(waiting) >= RUNS_AT_ONCE:
                    write()
                continue
            left.pop(name, None)
            done.append(Synced(found.run_id, "unchanged") if isinstance(found, Rows) else Synced(name, "failed", found))
        write()
    except GraphUnreachable as gone:
        done += [Synced(name, "failed", gone) for name in left]
    return done


def _written(waiting: Mapping[str, Rows], target: Target) -> Iterator[tuple[str, Rows, GraphError | None]]:
    """Write all at once, or, where that fails, one by one, to know which one it is."""
    try:
        target.write_runs(list(waiting.values()))
    except GraphUnreachable:
        raise
    except GraphError:
        for name, rows in waiting.items():
            try:
                target.write_run(rows)
            except GraphUnreachable:
                raise
            except GraphError as error:
                yield name, rows, error
            else:
                yield name, rows, None
    else:
        yield from ((name, rows, None) for name, rows in waiting.items())


def counted(done: Sequence[Synced]) -> dict[str, int]:
    """Runs by state."""
    counts = Counter(one.state for one in done)
    return {state: counts[state] for state in STATES}


def document(done: Sequence[Synced]) -> dict[str, Any]:
    """For --json."""
    failed = [{"run": one.run, "error": str(one.error), "hint": one.error.hint} for one in done if one.error]
    return {**counted(done), "runs": {one.run: one.state for one in done}, "errors": failed}
