"""The arithmetic of rollouts: rounding, bounds, sizes, hashes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkube.controllers import rollout
from pocketkube.controllers.rollout import Member, bounds, new_size, proportional, scaled, shrink_old, template_hash


def deployment(
    replicas: int, surge: Any = "25%", unavailable: Any = "25%", kind: str = "RollingUpdate"
) -> dict[str, Any]:
    rolling = {"maxSurge": surge, "maxUnavailable": unavailable}
    return {"metadata": {}, "spec": {"replicas": replicas, "strategy": {"type": kind, "rollingUpdate": rolling}}}


@pytest.mark.parametrize(
    ("value", "total", "up", "expected"),
    [
        (2, 10, True, 2),
        ("25%", 10, True, 3),
        ("25%", 10, False, 2),
        ("0%", 10, True, 0),
        ("100%", 3, False, 3),
        ("1%", 3, True, 1),
    ],
)
def test_percentages_round_as_asked(value: Any, total: int, up: bool, expected: int) -> None:
    assert scaled(value, total, up=up) == expected


@pytest.mark.parametrize("value", ["25", "x%", "", "25 %%"])
def test_what_is_no_percentage_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="invalid"):
        scaled(value, 10, up=True)


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", (3, 2)),
        (2, 1, 0, (1, 0)),
        (1, "25%", "25%", (1, 0)),
        (4, 0, 0, (0, 1)),  # or nothing could move
        (3, "0%", "10%", (0, 1)),
        (2, 0, 5, (0, 2)),
        (0, 0, 0, (0, 0)),
    ],
)
def test_bounds_of_a_rollout(replicas: int, surge: Any, unavailable: Any, expected: tuple[int, int]) -> None:
    assert bounds(deployment(replicas, surge, unavailable)) == expected


def test_templates_are_compared_as_go_writes_them() -> None:
    container = {
        "name": "a",
        "image": "a:1",
        "env": [{"name": "E", "value": ""}],
        "args": [],
        "readinessProbe": {"initialDelaySeconds": 0},
    }
    written = {
        "metadata": {"labels": {"app": "a", "empty": ""}},
        "spec": {"containers": [container], "nodeSelector": {"x": ""}},
    }
    bare = {"name": "a", "image": "a:1", "env": [{"name": "E"}]}
    answered = {"metadata": {"labels": {"app": "a", "empty": "", rollout.HASH_LABEL: "x"}, "creationTimestamp": None},
                "spec": {"containers": [bare], "nodeSelector": {"x": ""}}}  # fmt: skip
    assert rollout.without_hash(written) == rollout.without_hash(answered)
    assert template_hash(written, 0) == template_hash(answered, 0)
    for change in ({"automountServiceAccountToken": False}, {"nodeSelector": {}}, {"terminationGracePeriodSeconds": 0}):
        assert rollout.without_hash(written) != rollout.without_hash({**written, "spec": {**written["spec"], **change}})  # type: ignore[dict-item]


def test_recreate_has_no_bounds_and_takes_all_at_once() -> None:
    d = deployment(5, kind="Recreate")
    assert bounds(d) == (0, 0)
    assert new_size(d, [Member("old", 5, 5)], 0) == 5


sizes = st.integers(0, 12)
limits = st.one_of(st.integers(0, 6), st.integers(0, 100).map(lambda n: f"{n}%"))


@given(sizes, limits, limits, st.lists(st.tuples(sizes, sizes), min_size=1, max_size=3), st.tuples(sizes, sizes))
def test_one_step_keeps_enough_available_and_not_too_many(
    replicas: int, surge: Any, unavailable: Any, old_sizes: list[tuple[int, int]], new_sizes: tuple[int, int]
) -> None:
    d = deployment(replicas, surge, unavailable)
    most, least = replicas + bounds(d)[0], replicas - bounds(d)[1]
    old = [Member(f"old-{n}", size, min(size, available)) for n, (size, available) in enumerate(old_sizes)]
    new = Member("new", new_sizes[0], min(new_sizes))
    total, available = sum(m.replicas for m in [*old, new]), sum(m.available for m in [*old, new])

    grown = new_size(d, [*old, new], new.replicas)
    if new.replicas <= replicas:
        assert grown >= new.replicas
        assert sum(m.replicas for m in old) + grown <= max(most, total)
        assert grown <= replicas

    shrunk = shrink_old(d, old, new)
    assert all(0 <= shrunk[m.name] < m.replicas for m in old if m.name in shrunk)
    # Not ready pods of a set are deleted first, so what stays available is what fits.
    left = new.available + sum(min(m.available, shrunk.get(m.name, m.replicas)) for m in old)
    assert left >= min(least, available)


@given(sizes.filter(bool), limits, limits)
def test_a_rollout_in_which_all_pods_become_available_ends(replicas: int, surge: Any, unavailable: Any) -> None:
    d = deployment(replicas, surge, unavailable)
    old, new = replicas, 0
    for _ in range(200):
        members = [Member("old", old, old), Member("new", new, new)]
        size = min(new_size(d, members, new), replicas)
        if size == new:
            size_old = shrink_old(d, members[:1], members[1]).get("old", old)
            if size_old == old:
                break
            old = size_old
        new = size
    assert (old, new) == (0, replicas)


@given(st.integers(0, 30), limits, st.lists(st.integers(1, 12), min_size=2, max_size=4))
def test_scaling_amid_a_rollout_shares_and_adds_up(replicas: int, surge: Any, sets: list[int]) -> None:
    d = deployment(replicas, surge, 1)
    before = sum(sets)
    result = proportional(d, [(f"rs-{n}", size, before) for n, size in sorted(enumerate(sets), key=lambda i: -i[1])])
    assert all(size >= 0 for size in result.values())
    wanted = replicas + bounds(d)[0] if replicas else 0
    # As upstream, what rounding leaves is taken from the largest set only; when that is empty, the rollout takes the rest.
    assert sum(result.values()) == wanted or (sum(result.values()) > wanted and min(result.values()) == 0)


def test_proportional_example_of_the_documentation() -> None:
    """10 replicas, surge 3, 8 old and 5 new, scaled to 15."""
    assert proportional(deployment(15, 3, 2), [("old", 8, 13), ("new", 5, 13)]) == {"old": 11, "new": 7}


def test_a_template_hash_ignores_its_own_label_and_heeds_all_else() -> None:
    plain = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    labelled = {**plain, "metadata": {"labels": {"app": "a", rollout.HASH_LABEL: "xyz"}}}
    other = {**plain, "spec": {"containers": [{"name": "c", "image": "i:2"}]}}
    assert template_hash(plain, 0) == template_hash(labelled, 0)
    assert len({template_hash(plain, 0), template_hash(other, 0), template_hash(plain, 1)}) == 3
