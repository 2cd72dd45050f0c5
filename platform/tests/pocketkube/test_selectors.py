"""Selectors as Kubernetes writes them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube import selectors
from pocketkube.errors import BadRequest

HAS = {"metadata": {"name": "p", "labels": {"app": "cart", "tier": "back", "k8s.io/x": ""}}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True), (None, True), ("app=cart", True), ("app==cart", True), ("app=shop", False), ("app!=shop", True), ("missing!=x", True),
        ("app in (cart,shop)", True), ("app in (shop)", False), ("app notin (shop, pay)", True), ("missing notin (x)", True),
        ("app", True), ("missing", False), ("!missing", True), ("! app", False), ("app=cart,tier=back", True),
        ("app=cart,tier=front", False),
        ("k8s.io/x=", True), ("k8s.io/x", True), ("app in (cart),tier=back,!gone", True),
    ],
)  # fmt: skip
def test_labels(text: str | None, expected: bool) -> None:
    assert selectors.labels(text)(HAS) is expected


@pytest.mark.parametrize("text", ["app in cart", "=x", "app in (a", "a b", "a=b c=d"])
def test_label_selectors_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        selectors.labels(text)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (selectors.labels, selectors.fields):
        try:
            assert parse(text)(HAS) in (True, False)
        except BadRequest:
            pass


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (None, False), ({}, True), ({"matchLabels": {"app": "cart"}}, True), ({"matchLabels": {"app": "x"}}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["cart"]}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["cart"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"app": "cart"}, "matchExpressions": [{"key": "gone", "operator": "Exists"}]}, False),
    ],
)  # fmt: skip
def test_label_selector_objects(selector: Any, expected: bool) -> None:
    assert selectors.of(selector)(HAS) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spec.nodeName=body", True), ("spec.nodeName!=body", False), ("status.phase=", True), ("spec.unschedulable=false", True),
        ("spec.unschedulable=true", False), ("metadata.name=p,spec.nodeName==body", True), ("metadata.name=q", False),
    ],
)  # fmt: skip
def test_fields(text: str, expected: bool) -> None:
    assert selectors.fields(text)({"metadata": {"name": "p"}, "spec": {"nodeName": "body"}}) is expected


def test_field_selectors_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(BadRequest):
        selectors.fields("spec.nodeName")
