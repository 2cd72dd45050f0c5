"""The schemas accept the golden run and refuse every single mutilation of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aftershock
from aftershock.errors import FolderError
from aftershock.experiment import INDICATORS
from aftershock.folder import RunFolder, schema_names, validate, validator

from .golden import make

GOLDEN = RunFolder.open(make.GOLDEN)
LINES = {"event": "events.jsonl", "ledger": "ledger.ndjson"}
WRONG = {"array": [1], "object": {"a": 1}, "string": "text", "number": 1.5, "boolean": True, "null": None}
Path_ = tuple[str | int, ...]


def samples_of(name: str) -> list[Any]:
    """Golden values of a schema; of records, one of each kind."""
    if name in LINES:
        return list({record["kind"]: record for record in GOLDEN.lines(LINES[name])}.values())
    return [GOLDEN.read(f"{name}.json")]


def resolve(schema: Any, root: Any, value: Any) -> Any:
    """The part of a schema that speaks about `value`: through references, choices with null, and kinds."""
    if "$ref" in schema:
        return resolve(root["$defs"][schema["$ref"].rsplit("/", 1)[1]], root, value)
    if "anyOf" in schema:
        return {**resolve(schema["anyOf"][0 if value is None else 1], root, value), "nullable": True}
    if "allOf" in schema:
        return root["$defs"][value["kind"]]
    return schema


def walk(schema: Any, root: Any, value: Any, at: Path_ = ()) -> Iterator[tuple[Path_, Any, Any]]:
    """Every place of a value with the schema that rules it; of a list, the first three items."""
    schema = {} if schema is True else resolve(schema, root, value)
    yield at, schema, value
    if isinstance(value, dict):
        for key, inner in value.items():
            rule = schema.get("properties", {}).get(key, schema.get("additionalProperties") or True)
            yield from walk(rule, root, inner, (*at, key))
    elif isinstance(value, list):
        for n, inner in enumerate(value[:3]):
            prefix = schema.get("prefixItems", [])
            yield from walk(prefix[n] if n < len(prefix) else schema.get("items") or True, root, inner, (*at, n))


def places(name: str) -> Iterator[tuple[Any, Path_, Any, Any]]:
    root = validator(name).schema
    for value in samples_of(name):
        for at, schema, inner in walk(root, root, value):
            yield value, at, schema, inner


def changed(value: Any, at: Path_, change: Any) -> Any:
    """A copy in which `change` was done to what lies at `at`."""
    again = copy.deepcopy(value)
    holder = {"root": again}
    steps: Path_ = ("root", *at)
    inner: Any = holder
    for step in steps[:-1]:
        inner = inner[step]
    inner[steps[-1]] = change(inner[steps[-1]])
    return holder["root"]


def accepted(name: str, value: Any) -> bool:
    try:
        validate(name, value, name)
    except FolderError:
        return False
    return True


def without(key: str) -> Any:
    return lambda value: {k: v for k, v in value.items() if k != key}


def test_every_file_of_the_contract_has_a_schema() -> None:
    assert set(schema_names()) == {
        "run", "event", "evidence", "invariants", "verdict", "diagnosis", "facts", "postmortem", "ledger", "journal",
    }  # fmt: skip


@pytest.mark.parametrize("name", schema_names())
def test_it_is_a_schema_and_compiled_once(name: str) -> None:
    assert validator(name) is validator(name)
    validator(name).check_schema(validator(name).schema)


@pytest.mark.parametrize("name", schema_names())
def test_the_golden_file_is_accepted(name: str) -> None:
    found = samples_of(name)
    assert found
    for value in found:
        validate(name, value, name)


@pytest.mark.parametrize("name", schema_names())
def test_no_required_key_may_be_missing(name: str) -> None:
    survived, tried = [], 0
    for value, at, schema, inner in places(name):
        for key in schema.get("required", ()):
            assert key in inner, f"the golden run lacks {key} at {at}"
            tried += 1
            if accepted(name, changed(value, at, without(key))):
                survived.append((*at, key))
    assert survived == []
    assert tried >= 5


@pytest.mark.parametrize("name", sorted(set(schema_names()) - {"journal"}))
def test_every_key_is_required_but_the_named_ones_and_no_other_is_allowed(name: str) -> None:
    optional, open_ = set(), set()
    for value, at, schema, _ in places(name):
        if schema.get("type") == "object" and "properties" in schema:
            optional |= set(schema["properties"]) - set(
                schema["required"] if "required" in schema else schema["properties"]
            )
            if accepted(name, changed(value, at, lambda v: {**v, "surplus": 1})):
                open_.add(at)
    assert optional <= {
        "own", "refused", "stopped", "error", "model_trouble", "clocks", "uncertainty_us", "corrected", "made", "arrived",
        "on", "as", "files", "pods", "path", *(f"{when}_ms_{p}" for when in ("idle", "busy") for p in ("p50", "p95")),
        "idle_answers", "busy_requests",
    }  # fmt: skip
    assert open_ == set()


@pytest.mark.parametrize("name", schema_names())
def test_no_enum_takes_another_word_and_no_type_another_type(name: str) -> None:
    survived = []
    for value, at, schema, _ in places(name):
        if ("enum" in schema or "const" in schema or "pattern" in schema) and accepted(
            name, changed(value, at, lambda _: "Nonsense ")
        ):
            survived.append((at, "word"))
        types = schema.get("type", ())
        for kind, wrong in WRONG.items() if types else ():
            fits = kind in types or (kind == "null" and "nullable" in schema)
            if not fits and accepted(name, changed(value, at, lambda _, wrong=wrong: wrong)):
                survived.append((at, kind))
    assert survived == []


def test_the_error_names_file_path_and_schema() -> None:
    value = changed(GOLDEN.read("evidence.json"), ("faults", 0, "steps", "observed", "events", 0), lambda _: "ev-x")
    with pytest.raises(FolderError) as caught:
        validate("evidence", value, "evidence.json")
    assert str(caught.value).startswith("evidence.json: $.faults[0].steps.observed.events[0]: 'ev-x'")
    assert caught.value.hint == "the contract is schemas/evidence.schema.json"


def test_a_huge_wrong_value_does_not_make_a_huge_message() -> None:
    with pytest.raises(FolderError) as caught:
        validate("run", "x" * 1_000_000, "run.json")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("change", [
    lambda run: run.update(cluster=None, windows={}, topology={"calls": [], "pods": []}, ended_us=None, git_commit=None),
    lambda run: run["windows"].update(fault=None),
    lambda run: run["cluster"].update(own=True),
])  # fmt: skip
def test_a_run_that_stopped_early_is_a_run(change: Any) -> None:
    run = GOLDEN.read("run.json")
    change(run)
    validate("run", run, "run.json")


@pytest.mark.parametrize("kind", ["order", "payment", "shipment", "stock", "end"])
def test_a_ledger_line_is_judged_by_its_kind(kind: str) -> None:
    end = {"kind": "end", "next": None, "as_of_us": 1}
    line = next((r for r in GOLDEN.lines("ledger.ndjson") if r["kind"] == kind), end)
    validate("ledger", line, "ledger.ndjson")
    for other in {"order", "payment", "shipment", "stock", "end"} - {kind}:
        assert not accepted("ledger", {**line, "kind": other})
    assert not accepted("ledger", without("kind")(line))


def test_words_are_those_of_the_code() -> None:
    verdict = validator("verdict").schema
    slo = verdict["properties"]["slos"]["items"]["properties"]
    assert tuple(slo["indicator"]["enum"]) == INDICATORS
    rules = verdict["properties"]["findings"]["items"]["properties"]["rule"]["enum"]
    code = "".join(file.read_text(encoding="utf-8") for file in Path(aftershock.__file__).parent.glob("*.py"))
    assert set(rules) == set(re.findall(r'\b(?:_no|_ok|Finding)\(\s*"(\w+)"', code))
