"""Which pod moves so that a node that was emptied has some again."""

from __future__ import annotations

import pytest

from aftershock import testbed

ROLES = {"body": "body", "body2": "body", "memory": "memory", "brain": None}


@pytest.mark.parametrize(
    ("nodes", "onto", "moved"),
    [
        (["body", "body2"], [], None),
        (["body", "body2"], ["body2"], None),
        (["body", "body"], [], "pod-0"),
        (["body"], ["body2"], None),  # the only one stays
        ([], ["body2"], None),
        (["body", "memory"], [], None),
        (["body", "memory"], ["body2"], "pod-1"),  # it is away from its kind
        (["body", "body", "memory"], ["body2"], "pod-2"),
        (["body", "body", "brain", "brain", "brain"], ["body2"], "pod-2"),
        (["body2", "body", "body"], ["body2"], None),
        (["body", "body", "memory"], ["memory"], None),
    ],
)
def test_the_pod_that_moves(nodes: list[str], onto: list[str], moved: str | None) -> None:
    pods = [{"metadata": {"name": f"pod-{n}"}, "spec": {"nodeName": node}} for n, node in enumerate(nodes)]
    assert testbed._misplaced(pods, onto, ROLES) == moved
