"""The small parser: agrees with prometheus_client on everything that it keeps, and refuses what the format does not allow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aftershock.observe.exposition import BUCKET, BadExposition, samples

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT, st.floats(0, 1e9)), max_size=6))
def test_agrees_with_the_reference_parser(series: list[tuple[str, str, float]]) -> None:
    registry = CollectorRegistry()
    counter = Counter("orders", 'with } and " in help', ["state", "why"], registry=registry)
    Counter("other", "not kept", registry=registry).inc()
    for state, why, value in series:
        counter.labels(state, why).inc(value)
    text = generate_latest(registry).decode()
    expected = {
        (s.name, json.dumps(dict(s.labels), sort_keys=True, ensure_ascii=False), s.value)
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name == "orders_total"
    }
    assert set(samples(text)) == expected


def test_buckets_are_summed_per_service_and_the_rest_keeps_its_labels() -> None:
    registry = CollectorRegistry()
    histogram = Histogram(
        "http_request_duration_seconds", "t", ["service", "route"], buckets=(0.1, 1), registry=registry
    )
    for route, took in (("/a", 0.05), ("/b", 0.5), ("/b", 3)):
        histogram.labels("orders", route).observe(took)
    found = {(name, labels): value for name, labels, value in samples(generate_latest(registry).decode())}
    buckets = {json.loads(labels)["le"]: value for (name, labels), value in found.items() if name == BUCKET}
    assert buckets == {"0.1": 1, "1.0": 2, "+Inf": 3}
    counts = {labels: v for (name, labels), v in found.items() if name == "http_request_duration_seconds_count"}
    assert counts == {'{"route": "/a", "service": "orders"}': 1, '{"route": "/b", "service": "orders"}': 2}
    assert not any(name.endswith("_created") for name, _ in found)


@pytest.mark.parametrize(
    "line",
    [
        "orders_total",
        "orders_total{} ",
        "orders_total zwei",
        'orders_total{state="a" 1',
        "orders_total{state=a} 1",
        'orders_total{state="a" why="b"} 1',
        'orders_total{state="a",state="b"} 1',
        'orders_total{state="a\\x"} 1',
        "orders_total 1 2 3",
    ],
)
def test_what_is_malformed_is_refused(line: str) -> None:
    with pytest.raises(BadExposition):
        samples(f"other 1\n{line}\n")


def test_more_than_can_be_kept_is_refused() -> None:
    with pytest.raises(BadExposition, match="more than"):
        samples("".join(f'orders_total{{state="{n}"}} 1\n' for n in range(6_000)))


@given(st.text(max_size=60))
def test_never_anything_but_its_own_error(text: str) -> None:
    try:
        samples("orders_total" + text)
    except BadExposition:
        return
