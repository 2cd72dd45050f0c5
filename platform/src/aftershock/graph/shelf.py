"""The embedded graph on disk: one file that is written, and full ones beside it that are only read.

The engine writes each checkpoint of a file as new pages, and from the second one on reserves 256 kB for each direction of each kind of
edge: four runs made 100 MB. So the file that is written never gets one: its runs stay in its write-ahead log, which is short. When it
is full it gets its only checkpoint, which packs it, and moves to `<graph>.full/`. What a run costs to write and to look up then does not
grow with the number of runs. Which runs a full file holds stands beside it, one a line; a run that several files hold is that of the
newest, so that replaying one is a single transaction. Many runs at once are made into full files straight away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aftershock.errors import GraphError
from aftershock.graph import writes
from aftershock.graph.ladybug import Ladybug
from aftershock.graph.lock import WriterLock
from aftershock.graph.rows import Rows

RUNS_A_FILE = 24  # 11 MB of log, replayed in half a second when it is opened; packed 7 MB
LOG_BYTES_A_FILE = 32_000_000  # runs with many times as much: more could not be packed
ROWS_A_FILE = 100_000  # of a file that is filled at once: a second of work, 600 MB while it is made, 6 MB on disk
MAKING = ".making"
ALL = 1_000_000


class Shelf:
    """A graph of many runs below one path; see `graph.Graph`."""

    def __init__(
        self,
        path: Path,
        deadline_s: float,
        *,
        read_only: bool,
        runs_a_file: int = RUNS_A_FILE,
        rows_a_file: int = ROWS_A_FILE,
        log_bytes_a_file: int = LOG_BYTES_A_FILE,
    ) -> None:
        self.path, self._deadline_s, self._read_only = path, deadline_s, read_only
        self._runs_a_file, self._rows_a_file, self._log_bytes_a_file = runs_a_file, rows_a_file, log_bytes_a_file
        self._full: dict[Path, frozenset[str]] = {}  # oldest first
        self._opened: dict[Path, Ladybug] = {}
        if read_only and not path.exists() and not self._files():
            raise GraphError(
                f"{path}: there is no graph yet", hint="run an experiment first, or `aftershock graph rebuild`"
            )
        self._lock = None if read_only else WriterLock(path, deadline_s)
        try:
            self._full = {file: frozenset(_listed(file)) for file in self._files()}
            self._current = Ladybug(path, deadline_s, read_only=read_only) if path.exists() or not read_only else None
            self._runs = set(self._current.runs()) if self._current else set()
        except BaseException:
            self._unlock()
            raise

    def _files(self) -> list[Path]:
        return sorted(full_folder(self.path).glob("*.lbug"))

    def write_run(self, rows: Rows) -> None:
        """Put a run in place of what the graph held of it, in one transaction."""
        self.write_runs([rows])

    def write_runs(self, runs: Iterable[Rows]) -> None:
        """Put runs in place of what the graph held of them: enough of them as full files, else as many in one transaction as go into
        the current file. An iterator is read as it is needed."""  # fmt: skip
        for batch in writes.batches(runs, self._rows_a_file):
            fresh = [rows for run, rows in batch.items() if run not in self._runs]
            size = sum(sum(rows.counts()) for rows in fresh)
            if len(fresh) < self._runs_a_file and size < self._rows_a_file // 2:
                self._append(list(batch.values()))
                continue
            self._fill(fresh)
            self._append([rows for run, rows in batch.items() if run in self._runs])

    def _append(self, waiting: Sequence[Rows]) -> None:
        while waiting:
            current = self._writable()
            room = max(1, self._runs_a_file - len(self._runs))
            batch, waiting = waiting[:room], waiting[room:]
            current.write_runs(batch)
            self._runs |= {rows.run_id for rows in batch}

    def _fill(self, runs: Sequence[Rows]) -> None:
        """Make a full file; it appears whole or not at all."""
        self._writing()
        file = self._next_file()
        making = file.with_name(f"{file.name}{MAKING}")
        _sweep(file.parent)  # of a writer that died
        try:
            with Ladybug(making, self._deadline_s, read_only=False) as engine:
                engine.fill(runs)
                engine.close(pack=True)
            self._put_away(making, file, frozenset(rows.run_id for rows in runs))
        finally:
            _sweep(file.parent)

    def remove_run(self, run_id: str) -> None:
        """Take a run away; one in a full file is taken off its list."""
        self._writing()
        for file, runs in self._full.items():
            if run_id in runs:
                self._full[file] = runs - {run_id}
                _list(file, self._full[file])
        if self._current is not None and run_id in self._runs:
            self._current.remove_run(run_id)
            self._runs.discard(run_id)

    def query(self, name: str, **parameters: Any) -> list[dict[str, Any]]:
        """Rows of a named query: from the file that holds its `run`, or, for the history of all runs, from every file."""
        if "run" in parameters:
            engine = self._holding(parameters["run"])
            return engine.query(name, **parameters) if engine is not None else []
        return self._history(name, **parameters)

    def runs(self) -> list[str]:
        """Ids of the runs in all files."""
        return sorted({run for runs in (self._runs, *self._full.values()) for run in runs})

    def rows(self, runs: Sequence[str]) -> Iterator[Rows]:
        """The rows of runs, one file after the other."""
        held: dict[Ladybug, list[str]] = {}
        for run in dict.fromkeys(runs):
            engine = self._holding(run)
            if engine is not None:
                held.setdefault(engine, []).append(run)
        for engine, some in held.items():
            yield from engine.rows(some)

    def _history(self, name: str, *, skip: int, limit: int) -> list[dict[str, Any]]:
        """Newest first over all files. Run ids begin with their time, so only the files of the runs that are shown are opened."""
        shown = sorted({run for runs in (self._runs, *self._full.values()) for run in runs}, reverse=True)[
            skip : skip + limit
        ]
        wanted: dict[Ladybug, set[str]] = {}
        for run in shown:
            engine = self._holding(run)
            if engine is not None:
                wanted.setdefault(engine, set()).add(run)
        found = [
            row
            for engine, runs in wanted.items()
            for row in engine.query(name, skip=0, limit=ALL)
            if row["run"] in runs
        ]
        found.sort(key=lambda row: row["run"])
        found.sort(key=lambda row: row["started_us"] or 0, reverse=True)
        return found

    def _holding(self, run_id: str) -> Ladybug | None:
        if run_id in self._runs:
            return self._current
        return next((self._open(file) for file, runs in reversed(self._full.items()) if run_id in runs), None)

    def _open(self, file: Path) -> Ladybug:
        if file not in self._opened:
            self._opened[file] = Ladybug(file, self._deadline_s, read_only=True)
        return self._opened[file]

    def _writable(self) -> Ladybug:
        """The file to write into; a full one is packed and put away first."""
        current = self._writing()
        log = self.path.with_name(f"{self.path.name}.wal")
        grown = log.exists() and log.stat().st_size >= self._log_bytes_a_file
        if self._runs and (grown or len(self._runs) >= self._runs_a_file):
            current.close(pack=True)
            self._put_away(self.path, self._next_file(), frozenset(self._runs))
            current = self._current = Ladybug(self.path, self._deadline_s, read_only=False)
            self._runs = set()
        return current

    def _writing(self) -> Ladybug:
        if self._read_only or self._current is None:
            raise GraphError(f"{self.path} is open for reading", hint="open it with read_only=False")
        return self._current

    def _next_file(self) -> Path:
        folder = full_folder(self.path)
        folder.mkdir(exist_ok=True)
        number = max((int(file.stem) for file in self._files()), default=0) + 1
        return folder / f"{number:05d}.lbug"

    def _put_away(self, packed: Path, file: Path, runs: frozenset[str]) -> None:
        _list(file, runs)  # a list without its file means nothing, a file without its list would be lost
        packed.replace(file)
        _flush_folder(file.parent)
        self._full[file] = runs

    def close(self) -> None:
        """Close all files and free the lock; a second call does nothing."""
        for engine in (*self._opened.values(), *([self._current] if self._current else ())):
            engine.close()
        self._opened, self._current = {}, None
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def full_folder(path: Path) -> Path:
    """Where the full files of a graph lie."""
    return path.with_name(f"{path.name}.full")


def _sweep(folder: Path) -> None:
    """Remove files that were being made; the caller holds the lock."""
    for left in folder.glob(f"*{MAKING}*"):
        left.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(file: Path) -> list[str]:
    try:
        return file.with_suffix(".runs").read_text(encoding="utf-8").split()
    except OSError as error:
        raise GraphError(f"{file}: what it holds is not known: {error.strerror}",
                         hint="`aftershock graph rebuild` makes it anew from the run folders") from None  # fmt: skip


def _list(file: Path, runs: Iterable[str]) -> None:
    path = file.with_suffix(".runs")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as written:
        written.write("".join(f"{run}\n" for run in sorted(runs)))
        written.flush()
        os.fsync(written.fileno())
    temporary.replace(path)
