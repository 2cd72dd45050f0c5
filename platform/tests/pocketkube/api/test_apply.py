"""Server-side apply: what a manager owns, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest

from pocketkube.api.apply import apply
from pocketkube.errors import Conflict
from pocketkube.storage import Object


def wanted(spec: Any, **labels: str) -> Object:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "labels": labels}, "spec": spec}


def env(*names: str) -> dict[str, Any]:
    return {"template": {"spec": {"containers": [{"name": "m", "env": [{"name": n, "value": n} for n in names]}]}}}


def names(obj: Object) -> list[str]:
    return [e["name"] for e in obj["spec"]["template"]["spec"]["containers"][0]["env"]]


def test_what_is_no_longer_stated_goes_and_what_others_own_stays() -> None:
    live = apply(None, wanted({"replicas": 2, "paused": True}, app="a"), "one", False)
    live = apply(live, wanted({"paused": True}, team="b"), "two", False)
    live = apply(live, wanted({"replicas": 2}), "one", False)
    assert live["spec"] == {"replicas": 2, "paused": True}
    assert live["metadata"]["labels"] == {"team": "b"}
    live = apply(live, wanted({}), "two", False)
    assert "paused" not in live["spec"]


def test_list_items_go_whole_and_take_the_stated_order() -> None:
    live = apply(None, wanted(env("A", "B")), "one", False)
    live = apply(live, wanted(env("C", "B")), "one", False)
    assert names(live) == ["C", "B"]
    live = apply(live, wanted(env("B")), "two", False)
    live = apply(live, wanted(env("C")), "one", False)
    assert set(names(live)) == {"B", "C"}


def test_another_managers_value_is_a_conflict_unless_forced() -> None:
    live = apply(None, wanted({"replicas": 2}, app="a"), "one", False)
    assert apply(live, wanted({"replicas": 2}), "two", False)["spec"]["replicas"] == 2
    with pytest.raises(Conflict, match=r'1 conflict: conflict with "one": \.spec\.replicas') as told:
        apply(live, wanted({"replicas": 3}), "two", False)
    assert told.value.details["causes"][0]["field"] == ".spec.replicas"
    with pytest.raises(
        Conflict, match=r'2 conflicts: conflicts with "one":\n- \.metadata\.labels\.app\n- \.spec\.replicas'
    ):
        apply(live, wanted({"replicas": 3}, app="b"), "two", False)
    forced = apply(live, wanted({"replicas": 3}), "two", True)
    assert forced["spec"]["replicas"] == 3
    with pytest.raises(Conflict, match='"two"'):
        apply(forced, wanted({"replicas": 2}), "one", False)


def test_applying_the_same_again_changes_nothing() -> None:
    live = apply(None, wanted(env("A", "B"), app="a"), "one", False)
    assert apply(live, wanted(env("A", "B"), app="a"), "one", False) == live
