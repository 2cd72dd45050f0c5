"""The golden run folder: made anew it is the same, it keeps every contract, and its parts agree with each other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from aftershock import experiment, judge
from aftershock.folder import RunFolder

from .golden import make

FOLDER = RunFolder.open(make.GOLDEN)
ANEW = "if the change is meant, run `python -m tests.aftershock.golden.make` in platform/"


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make.make(tmp_path_factory.mktemp("golden"))


def names(folder: RunFolder) -> set[str]:
    return {path.name for path in folder.path.iterdir()}


def test_it_is_the_same_when_made_anew(again: RunFolder) -> None:
    assert names(again) == names(FOLDER), ANEW
    for name in sorted(names(FOLDER)):
        if name.endswith(".parquet"):  # the writer's version is in the bytes
            assert again.table(name).equals(FOLDER.table(name)), f"{name}: {ANEW}"
        else:
            assert again.read_text(name) == FOLDER.read_text(name), f"{name}: {ANEW}"


def test_it_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.path.iterdir()) < 1_500_000


def test_its_experiment_is_one() -> None:
    tested = experiment.parse(Path("payments-pod-kill.yaml"), FOLDER.read_text("experiment.yaml"), stored=True)
    assert tested.title == FOLDER.read("run.json")["title"]


def test_judging_it_again_gives_its_verdict(again: RunFolder) -> None:
    stored = FOLDER.read("verdict.json")
    assert judge.judge_folder(again, now_us=stored["judged_at_us"]).outcome.value == stored["verdict"] == "PASS"
    assert again.read("verdict.json") == stored


def test_customers_and_ledger_agree() -> None:
    samples = FOLDER.table("samples.parquet").to_pylist()
    ledger = list(FOLDER.lines("ledger.ndjson"))
    orders = {o["idempotency_key"]: o for o in ledger if o["kind"] == "order"}
    asked = [s for s in samples if s["step"] == "checkout"]
    assert len(samples) == 3 * len(asked) == 3 * len(orders)
    assert Counter(s["status"] for s in asked) == {201: 878, 503: 2}
    for sample in asked:
        order = orders[sample["idempotency_key"]]
        assert sample["order_id"] in (None, order["id"])
        assert (sample["order_id"] is None) == (sample["status"] != 201)
    charged = Counter(p["order_id"] for p in ledger if p["kind"] == "payment")
    shipped = Counter(s["order_id"] for s in ledger if s["kind"] == "shipment")
    assert charged == shipped == Counter(o["id"] for o in orders.values())
    sold = Counter[str]()
    for order in orders.values():
        for item in order["items"]:
            sold[item["sku"]] += item["quantity"]
    assert {s["sku"]: s["initial"] - s["available"] for s in ledger if s["kind"] == "stock"} == dict(sold)


def test_spans_are_trees_whose_children_lie_inside_their_parents() -> None:
    spans = {s["span_id"]: s for s in FOLDER.table("traces.parquet").to_pylist()}
    assert {s["service"] for s in spans.values()} == {"storefront", "catalog", "cart", "orders", "payments", "shipping"}
    for span in spans.values():
        if span["parent_span_id"] is None:
            assert span["service"] == "storefront"
            continue
        parent = spans[span["parent_span_id"]]
        assert parent["trace_id"] == span["trace_id"]
        assert parent["start_us"] <= span["start_us"]
        if span["kind"] != "CONSUMER":  # the outbox continues a trace whose request has long been answered
            assert span["start_us"] + span["duration_us"] <= parent["start_us"] + parent["duration_us"]


def test_evidence_names_events_that_exist_and_events_are_in_order() -> None:
    events = list(FOLDER.lines("events.jsonl"))
    assert [e["time_us"] for e in events] == sorted(e["time_us"] for e in events)
    known = {e["id"] for e in events}
    for fault in FOLDER.read("evidence.json")["faults"]:
        for step in fault["steps"].values():
            assert known.issuperset(step["events"])


def test_every_sentence_cites_facts_that_exist() -> None:
    known = {f["id"] for f in FOLDER.read("facts.json")}
    for text in FOLDER.read("postmortem.json")["language"].values():
        for section in text["sections"]:
            for sentence in section["sentences"]:
                assert sentence["facts"]
                assert known.issuperset(sentence["facts"])
