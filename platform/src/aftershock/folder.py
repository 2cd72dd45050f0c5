"""The run folder: `reports/<experiment>/<run_id>/`, the only thing that later steps read.

Every file is written whole or not at all (temporary name, flush to disk, rename) and checked against `schemas/` both ways. Journals that
grow while a run lasts (`events.jsonl`) are the exception: their last line may be torn and is then no record.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from aftershock.errors import FolderError

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMAS = Path(__file__).parent / "schemas"
RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}")
JSON_BYTES_MAX = 256_000_000
ROW_GROUP_ROWS = 5_000
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_LINES = {"events.jsonl": "event", "ledger.ndjson": "ledger"}
_TABLES = {"samples.parquet": "samples", "metrics.parquet": "metrics", "traces.parquet": "traces"}
# What a row must have to mean anything; the other columns are null where not known.
_NEVER_NULL = {
    "samples": ("iteration", "journey", "intended_us", "end_us"),
    "metrics": ("time_us", "name", "value"),
    "traces": ("trace_id", "span_id", "service", "start_us", "duration_us"),
}


def new_run_id(now_s: float | None = None) -> str:
    """`<UTC YYYYmmddTHHMMSSZ>-<6 hex>`."""
    moment = datetime.fromtimestamp(time.time() if now_s is None else now_s, UTC)
    return f"{moment:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


@cache
def schema_names() -> tuple[str, ...]:
    """Names of all schemas, `run`, `event`, ..."""
    return tuple(sorted(path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json")))


@cache
def validator(name: str) -> Draft202012Validator:
    """The compiled schema `name`; raises FolderError if there is none."""
    path = SCHEMAS / f"{name}.schema.json"
    if not path.is_file():
        raise FolderError(f"{name}: there is no such schema", hint=f"schemas: {', '.join(schema_names())}")
    return Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))


@lru_cache(maxsize=64)
def _of_kind(name: str, kind: str) -> Draft202012Validator:
    """The part of a schema of records for one kind: choosing it here is thrice as fast as letting the schema choose."""
    whole = validator(name)
    schema: Any = whole.schema
    part = schema["$defs"].get(kind) if "allOf" in schema else None
    return whole if part is None else Draft202012Validator(part)


def validate(name: str, value: Any, where: str) -> None:
    """Check a value against schema `name`. Raises FolderError with `where`, the JSON path and what is wrong there."""
    kind = value.get("kind") if name in _LINES.values() and isinstance(value, dict) else None
    checker = _of_kind(name, kind) if isinstance(kind, str) and len(kind) < 40 else validator(name)
    if checker.is_valid(value):
        return
    error = best_match(checker.iter_errors(value))
    message = error.message if len(error.message) <= 300 else f"{error.message[:200]} ... {error.message[-90:]}"
    raise FolderError(f"{where}: {error.json_path}: {message}", hint=f"the contract is schemas/{name}.schema.json")


@cache
def columns(name: str) -> tuple[tuple[str, str], ...]:
    """Names and types of the columns of `samples`, `metrics` or `traces`."""
    return tuple((c, t) for c, t in json.loads((SCHEMAS / "columns.json").read_text(encoding="utf-8"))[name])


@cache
def _arrow_schema(name: str) -> pa.Schema:
    import pyarrow as pa

    types = {
        "int64": pa.int64(),
        "int16": pa.int16(),
        "string": pa.string(),
        "double": pa.float64(),
        "bool": pa.bool_(),
    }
    return pa.schema([pa.field(c, types[t], nullable=c not in _NEVER_NULL[name]) for c, t in columns(name)])


def in_memory(columns: Mapping[str, tuple[type, Sequence[Any]]]) -> pa.Table:
    """Typed columns (str, int, float or bool; None is null) as an Arrow table. Raises FolderError for a value of another type."""
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    arrays = {}
    for name, (kind, values) in columns.items():
        try:
            arrays[name] = pa.array(values, types[kind])
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise FolderError(f"column {name}: {error}") from None
    return pa.table(arrays)


class RunFolder:
    """One run's files by name; a name that is no plain file name is a FolderError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @classmethod
    def create(cls, reports: Path, experiment: str, run_id: str) -> RunFolder:
        """Make `reports/<experiment>/<run_id>/` and point `latest` to it. Raises FolderError if it exists or cannot be made."""
        if not RUN_ID.fullmatch(run_id):
            raise FolderError(f"{run_id!r} is no run id", hint="run ids look like 20260115T100000Z-3fa9c1")
        path = reports / _plain(experiment) / run_id
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise FolderError(f"{path} exists", hint="a run folder is written once; start another run") from None
        except OSError as error:
            raise FolderError(
                f"{path}: cannot be made: {error.strerror}", hint="choose another --reports folder"
            ) from None
        link = path.with_name(f".latest-{run_id}")
        link.unlink(missing_ok=True)
        link.symlink_to(run_id)
        link.replace(path.with_name("latest"))
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder (or `latest` link). Raises FolderError with a hint if it is none."""
        if not path.is_dir():
            raise FolderError(f"{path}: no such run folder", hint="`aftershock history` lists the runs")
        if not (path / "run.json").is_file():
            raise FolderError(f"{path}: has no run.json, so it is no run folder",
                              hint="give reports/<experiment>/<run id> or reports/<experiment>/latest")  # fmt: skip
        return cls(path.resolve())

    @classmethod
    def latest(cls, reports: Path, experiment: str) -> RunFolder:
        """The newest run of an experiment. Raises FolderError if it has none."""
        found = _runs(reports / _plain(experiment))
        if not found:
            known = sorted(p.name for p in reports.iterdir() if _runs(p)) if reports.is_dir() else []
            raise FolderError(f"no run of {experiment} below {reports}",
                              hint=f"experiments with runs: {', '.join(known) or 'none'}")  # fmt: skip
        return cls.open(found[-1])

    @classmethod
    def find(cls, reports: Path, text: str) -> RunFolder:
        """The run that `text` means: a path, an experiment (its newest run), a run id or its unique beginning or end.

        Raises FolderError with a hint if none or several match.
        """
        if "/" in text or text in (".", ".."):
            return cls.open(Path(text))
        if (reports / text).is_dir() and _PLAIN.fullmatch(text):
            return cls.latest(reports, text)
        runs = (
            [run for experiment in sorted(reports.iterdir()) for run in _runs(experiment)] if reports.is_dir() else []
        )
        exact = [run for run in runs if run.name == text]
        found = exact or [
            run for run in runs if len(text) >= 4 and (run.name.startswith(text) or run.name.endswith(text))
        ]
        if len(found) == 1:
            return cls.open(found[0])
        if not found and Path(text).is_dir():
            return cls.open(Path(text))
        if found:
            names = ", ".join(f"{run.parent.name}/{run.name}" for run in found[:5])
            raise FolderError(f"{text} means {len(found)} runs", hint=f"one of: {names}")
        raise FolderError(f"{text}: no run, experiment or folder of that name below {reports}",
                          hint="`aftershock history` lists the runs")  # fmt: skip

    def has(self, name: str) -> bool:
        """True if the file is there."""
        return self._at(name).is_file()

    def read(self, name: str) -> Any:
        """A JSON file, checked against its schema. Raises FolderError naming the file and the JSON path."""
        value = _parse(self.read_text(name), name)
        validate(name.removesuffix(".json"), value, name)
        return value

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file, checked against its schema first, whole or not at all."""
        if not name.endswith(".json"):
            raise FolderError(f"{name}: write() is for .json files")
        try:
            text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
            value = json.loads(text)  # what a reader will get: tuples are lists there, enums strings, keys strings
        except (TypeError, ValueError) as error:
            raise FolderError(f"{name}: is not JSON: {error}") from None
        validate(name.removesuffix(".json"), value, name)
        self.write_text(name, text + "\n")

    def read_text(self, name: str) -> str:
        """A text file. Raises FolderError if it is absent, unreadable or too large."""
        path = self._at(name)
        try:
            if path.stat().st_size > JSON_BYTES_MAX:
                raise FolderError(f"{name}: larger than {JSON_BYTES_MAX // 1_000_000} MB")
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise self._absent(name) from None
        except (OSError, UnicodeDecodeError) as error:
            raise FolderError(f"{name}: cannot be read: {error}") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all; lone surrogates become `?`."""
        with _replacing(self._at(name)) as file:
            file.write(text.encode("utf-8", "replace"))

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The records of events.jsonl or ledger.ndjson, each checked. Raises FolderError naming the line."""
        schema = _schema_of_lines(name)
        torn_allowed = name.endswith(".jsonl")
        try:
            with self._at(name).open("rb") as file:
                for number, line in enumerate(file, 1):
                    if torn_allowed and not line.endswith(b"\n"):
                        return  # its process died while writing it
                    where = f"{name}:{number}"
                    record = _parse(line.decode("utf-8", "replace"), where)
                    validate(schema, record, where)
                    yield record
        except FileNotFoundError:
            raise self._absent(name) from None

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Write records one a line, each checked, whole or not at all; returns how many."""
        schema, count = _schema_of_lines(name), 0
        with _replacing(self._at(name)) as file:
            for count, record in enumerate(records, 1):
                validate(schema, record, f"{name}:{count}")
                file.write(
                    json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
                        "utf-8", "replace"
                    )
                    + b"\n"
                )
        return count

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file, whole or some of its columns. Raises FolderError if it is absent or has other columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = _arrow_schema(_table_of(name))
        unknown = [column for column in columns or () if column not in wanted.names]
        if unknown:
            raise FolderError(f"{name}: has no column {unknown[0]}", hint=f"columns: {', '.join(wanted.names)}")
        path = self._at(name)
        if not path.is_file():
            raise self._absent(name)
        try:
            with pq.ParquetFile(path) as file:
                found = file.schema_arrow
                wrong = [f.name for f in wanted if f.name not in found.names or found.field(f.name).type != f.type]
                if wrong or len(found.names) != len(wanted.names):
                    raise FolderError(f"{name}: its columns are not those of the contract: {', '.join(wrong or found.names)}",
                                      hint="schemas/columns.json lists them")  # fmt: skip
                return file.read(columns=None if columns is None else list(columns), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise FolderError(f"{name}: is no readable Parquet file: {error}") from None

    def writer(self, name: str) -> TableWriter:
        """A context manager that streams rows to a Parquet file; the file appears when it is left without an error."""
        return TableWriter(self._at(name), _table_of(name))

    def _at(self, name: str) -> Path:
        return self.path / _plain(name)

    def _absent(self, name: str) -> FolderError:
        return FolderError(
            f"{self.path}: has no {name}", hint="the run stopped before it was written; see verdict.json"
        )


class TableWriter:
    """Streams rows to one Parquet file with at most one row group in memory; not for several threads at once."""

    def __init__(self, path: Path, table: str) -> None:
        import pyarrow.parquet as pq

        self.rows = 0
        self._path, self._table, self._schema = path, table, _arrow_schema(table)
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
        self._names = frozenset(self._schema.names)
        self._pending: list[Mapping[str, Any]] = []
        self._open = True
        try:
            self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        except OSError as error:
            raise FolderError(f"{path}: cannot be written: {error}") from None

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows; a missing key is null. Raises FolderError for an unknown column, a wrong type or a null where none may be."""
        for row in rows:
            if not self._names.issuperset(row):
                unknown = sorted(set(row) - self._names)[0]
                raise FolderError(
                    f"{self._path.name}: there is no column {unknown}", hint="schemas/columns.json lists them"
                )
        self._pending.extend(rows)
        while len(self._pending) >= ROW_GROUP_ROWS:
            self._flush(self._pending[:ROW_GROUP_ROWS])
            del self._pending[:ROW_GROUP_ROWS]

    def close(self) -> None:
        """Write what is pending and give the file its name; a second call does nothing."""
        if not self._open:
            return
        try:
            if self._pending:
                self._flush(self._pending)
            self._open = False
            self._writer.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self._path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Forget everything that was appended; no file appears."""
        if self._open:
            self._open = False
            self._writer.close()
        self._pending = []
        self._temporary.unlink(missing_ok=True)

    def _flush(self, rows: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow as pa

        arrays = []
        for field in self._schema:
            try:
                array = pa.array([row.get(field.name) for row in rows], field.type)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise FolderError(f"{self._path.name}: column {field.name}: {error}") from None
            if array.null_count and not field.nullable:
                raise FolderError(f"{self._path.name}: column {field.name} is null in {array.null_count} row(s)",
                                  hint=f"a row of {self._table} means nothing without it")  # fmt: skip
            arrays.append(array)
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self.rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _plain(name: str) -> str:
    if not _PLAIN.fullmatch(name):
        raise FolderError(f"{name!r} is no plain name", hint="letters, digits, dot, dash and underscore only")
    return name


def _runs(experiment: Path) -> list[Path]:
    """Run folders of one experiment, oldest first (their names begin with the time)."""
    if not experiment.is_dir():
        return []
    return sorted(p for p in experiment.iterdir() if RUN_ID.fullmatch(p.name) and (p / "run.json").is_file())


def _schema_of_lines(name: str) -> str:
    if name not in _LINES:
        raise FolderError(f"{name}: is no file of records", hint=f"those are {' and '.join(_LINES)}")
    return _LINES[name]


def _table_of(name: str) -> str:
    if name not in _TABLES:
        raise FolderError(f"{name}: is no table", hint=f"tables: {', '.join(_TABLES)}")
    return _TABLES[name]


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{where}: is not JSON: {error}") from None


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FolderError(
            f"{path}: cannot be written: {error.strerror or error}", hint="is the disk full or read-only?"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
