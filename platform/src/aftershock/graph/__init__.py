"""The graph of all runs: nodes and edges built from run folders alone, so that it can be thrown away and rebuilt.

`open` gives an engine behind one small protocol, `ingest` writes a run, `rebuild` makes the file anew, `query` answers a named question.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from aftershock.errors import AftershockError
from aftershock.folder import RunFolder
from aftershock.graph import views
from aftershock.graph.address import Login, checked, is_server
from aftershock.graph.rows import Rows, build, claims
from aftershock.graph.views import View
from aftershock.settings import settings

if TYPE_CHECKING:
    from aftershock.graph.neo4j import Neo4j

__all__ = ["Graph", "Rows", "View", "build", "default_path", "in_memory", "ingest", "open", "open_server", "rebuild"]

DEADLINE_S = 10.0


class Graph(Protocol):
    """What every engine does; raises GraphError."""

    def write_run(self, rows: Rows) -> None:
        """Put a run in place of what the graph held of it, in one transaction."""

    def write_runs(self, runs: Sequence[Rows]) -> None:
        """Put many runs in place of what the graph held of them: faster than one by one."""

    def remove_run(self, run_id: str) -> None:
        """Take a run away, in one transaction."""

    def query(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a query in `queries/`."""

    def runs(self) -> list[str]:
        """Ids of the runs that the graph holds."""

    def rows(self, runs: Sequence[str]) -> Iterator[Rows]:
        """The rows of runs, as they were written."""

    def close(self) -> None:
        """Free what the engine holds."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def default_path(reports: Path) -> Path:
    """Where the graph of a reports root lies."""
    return reports / "graph.lbug"


def open(url_or_path: str | Path, deadline_s: float = DEADLINE_S, *, read_only: bool = False) -> Graph:
    """Open the graph at a path (`:memory:` for one that is gone afterwards) or on a server.

    The deadline is how long other writers of a file are waited for, or a server that does not answer.
    Raises GraphError if it cannot be had, BadInput for a URL that may not be used.
    """
    from aftershock.graph.ladybug import MEMORY, Ladybug
    from aftershock.graph.shelf import Shelf

    text = str(url_or_path)
    if is_server(text):
        return open_server(text, deadline_s, read_only=read_only)
    if text == MEMORY:
        return Ladybug(None, deadline_s, read_only=read_only)
    return Shelf(Path(text), deadline_s, read_only=read_only)


def open_server(url: str, deadline_s: float = DEADLINE_S, *, read_only: bool = False) -> Neo4j:
    """Open the graph on a server, with user and password from the environment; see `open`."""
    from aftershock.graph.neo4j import Neo4j

    return Neo4j(checked(url), Login.of(settings()), deadline_s, read_only=read_only)


def written_later(url_or_path: str, folder: Path) -> str:
    """What to do when a run that is stored could not be written into its graph."""
    if is_server(url_or_path):
        return f"`aftershock graph sync --from {folder} --graph {checked(url_or_path)}` writes it there later"
    return "`aftershock graph rebuild` makes the graph anew from the run folders"


def rows_of(folder: RunFolder, built: Rows | None = None) -> Rows:
    """All rows of a run, the claims of its postmortem included if it has one; `built` saves reading the folder again."""
    rows = build(folder) if built is None else built
    if folder.has("postmortem.json") and folder.has("facts.json"):
        claims(rows, folder.read("postmortem.json"), folder.read("facts.json"))
    return rows


def ingest(graph: Graph, folder: RunFolder, built: Rows | None = None) -> Rows:
    """Write a run into the graph, whole; returns what was written."""
    rows = rows_of(folder, built)
    graph.write_run(rows)
    return rows


def in_memory(rows: Rows, view: View = "truth") -> Graph:
    """A graph of one run that leaves nothing behind; the `blind` view holds only what its allow-list allows."""
    graph = open(":memory:")
    graph.write_run(views.blind(rows) if view == "blind" else rows)
    return graph


def run_paths(reports: Path) -> list[Path]:
    """Every run folder below a reports root, oldest first, `latest` links left out."""
    found = [path.parent for path in reports.glob("*/*/run.json") if not path.parent.is_symlink()]
    return sorted(found, key=lambda path: path.name)


def run_folders(reports: Path) -> Iterator[RunFolder]:
    """The same, opened."""
    yield from (RunFolder.open(path) for path in run_paths(reports))


def rebuild(reports: Path, path: Path | None = None, deadline_s: float = DEADLINE_S) -> tuple[int, Sequence[str]]:
    """Make the graph anew from the run folders: how many runs it holds, and which folders could not be read and why."""
    from aftershock.graph.lock import WriterLock
    from aftershock.graph.shelf import Shelf, full_folder

    target = path or default_path(reports)
    fresh = target.with_name(f"{target.name}.rebuilding")
    with WriterLock(target, deadline_s):
        _remove(fresh)
        count = 0
        skipped: list[str] = []

        def readable() -> Iterator[Rows]:
            nonlocal count
            for folder in run_folders(reports):
                try:
                    rows = rows_of(folder)
                except AftershockError as error:
                    skipped.append(f"{folder.path}: {error}")
                    continue
                count += 1
                yield rows

        with Shelf(fresh, deadline_s, read_only=False) as graph:
            graph.write_runs(readable())
        _remove(target)
        for suffix in ("", ".wal"):
            if fresh.with_name(fresh.name + suffix).exists():
                fresh.with_name(fresh.name + suffix).replace(target.with_name(target.name + suffix))
        if full_folder(fresh).exists():
            full_folder(fresh).replace(full_folder(target))
        _remove(fresh)
        fresh.with_name(f"{fresh.name}.lock").unlink(missing_ok=True)
    return count, skipped


def _remove(path: Path) -> None:
    from aftershock.graph.shelf import full_folder

    shutil.rmtree(full_folder(path), ignore_errors=True)
    for suffix in ("", ".wal", ".shadow", ".tmp"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
