"""Patches against what RFC 6902, RFC 7396 and kubectl expect."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube import patch
from pocketkube.errors import BadRequest
from pocketkube.storage import clone

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("target", "change", "expected"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, change: Any, expected: Any) -> None:
    assert patch.merge(target, change) == expected


@given(JSON, JSON)
def test_merge_patch_is_idempotent_and_changes_no_input(target: Any, change: Any) -> None:
    before = clone(target), clone(change)
    once = patch.merge(target, change)
    assert patch.merge(once, change) == once
    assert (target, change) == before


@pytest.mark.parametrize(
    ("operations", "expected"),
    [  # RFC 6902, appendix A
        ([{"op": "add", "path": "/baz", "value": "qux"}], {"foo": ["bar"], "baz": "qux"}),
        ([{"op": "add", "path": "/foo/0", "value": "x"}], {"foo": ["x", "bar"]}),
        ([{"op": "add", "path": "/foo/-", "value": "x"}], {"foo": ["bar", "x"]}),
        ([{"op": "remove", "path": "/foo/0"}], {"foo": []}),
        ([{"op": "replace", "path": "/foo/0", "value": 1}], {"foo": [1]}),
        ([{"op": "copy", "from": "/foo", "path": "/x~1y"}], {"foo": ["bar"], "x/y": ["bar"]}),
        ([{"op": "move", "from": "/foo/0", "path": "/z"}], {"foo": [], "z": "bar"}),
        ([{"op": "test", "path": "/foo/0", "value": "bar"}], {"foo": ["bar"]}),
    ],
)
def test_json_patch(operations: list[Any], expected: Any) -> None:
    target = {"foo": ["bar"]}
    assert patch.json_patch(target, operations) == expected
    assert target == {"foo": ["bar"]}


@pytest.mark.parametrize(
    "operations",
    [
        {"op": "add"},
        [{"op": "test", "path": "/foo/0", "value": "no"}],
        [{"op": "replace", "path": "/missing", "value": 1}],
        [{"op": "remove", "path": "/foo/7"}],
        [{"op": "add", "path": "/foo/9", "value": 1}],
        [{"op": "wish", "path": "/foo/0"}],
        [{"op": "add", "path": "foo", "value": 1}],
        [{"path": "/foo"}],
    ],
)
def test_json_patch_that_cannot_be_done_is_refused(operations: Any) -> None:
    with pytest.raises(BadRequest):
        patch.json_patch({"foo": ["bar"]}, operations)


POD = {
    "spec": {
        "containers": [{"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]}]
    }
}


@pytest.mark.parametrize(
    ("change", "at", "expected"),
    [
        ({"containers": [{"name": "a", "image": "a:2"}]}, "image", "a:2"),
        ({"containers": [{"name": "a", "env": [{"name": "X", "value": "9"}]}]}, "env",
         [{"name": "X", "value": "9"}, {"name": "Y", "value": "2"}]),
        ({"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}]}]}, "env", [{"name": "Y", "value": "2"}]),
        ({"containers": [{"name": "a", "env": [{"$patch": "replace"}, {"name": "Z", "value": "3"}]}]}, "env",
         [{"name": "Z", "value": "3"}]),
        ({"containers": [{"name": "a", "$setElementOrder/env": [{"name": "W"}, {"name": "Y"}, {"name": "X"}],
                          "env": [{"name": "W", "value": "0"}]}]}, "env",
         [{"name": "W", "value": "0"}, {"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]),
        ({"containers": [{"name": "a", "args": ["x"]}]}, "args", ["x"]),
    ],
)  # fmt: skip
def test_strategic_merge_of_a_pod(change: Any, at: str, expected: Any) -> None:
    before = clone(POD)
    assert patch.strategic(POD, {"spec": change})["spec"]["containers"][0][at] == expected
    assert before == POD


def test_strategic_merge_of_maps_and_primitive_lists() -> None:
    target = {
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
        "metadata": {"finalizers": ["a", "b"]},
    }
    change = {
        "strategy": {"$retainKeys": ["type"], "type": "Recreate"},
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]},
    }
    assert patch.strategic(target, change) == {"strategy": {"type": "Recreate"}, "metadata": {"finalizers": ["b"]}}
    assert patch.strategic({"s": {"a": 1, "b": 2}}, {"s": {"$patch": "replace", "c": 3}}) == {"s": {"c": 3}}
    assert patch.strategic({"s": {"a": 1}}, {"s": {"$patch": "delete"}}) == {}


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True, min_size=1))
def test_merged_lists_hold_each_key_once_in_the_wanted_order(has: list[str], wanted: list[str]) -> None:
    target = {"env": [{"name": n, "value": "old"} for n in has]}
    change = {"env": [{"name": n, "value": "new"} for n in wanted]}
    merged = patch.strategic(target, change, ordered=True)["env"]
    names = [e["name"] for e in merged]
    assert sorted(names) == sorted({*has, *wanted})
    assert [n for n in names if n in wanted] == wanted
    assert {e["name"] for e in merged if e["value"] == "new"} == set(wanted)
