"""What a run has to be allowed besides its faults: to look, to hold the lease, to collect spans, to read the ledger.

Preflight asks for each of these, so that nothing is found missing once load has begun. `gitops/rbac/` grants them and nothing else; the
tests on a real cluster take them away one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from aftershock.faults import Need

OPERATOR = "operator"  # the Secret with the ledger's token; no other Secret is read
_APPS, _LEASES, _SLICES = "apps", "coordination.k8s.io", "discovery.k8s.io"


def of_run(namespaces: Iterable[str]) -> Iterator[Need]:
    """Everything that a run in these namespaces does whatever its faults are."""
    yield from watching(None, "", "nodes")
    for namespace in namespaces:
        yield from of_look(namespace)
        for verb in ("create", "update", "delete"):
            yield Need(verb, _LEASES, "leases", namespace)
        yield Need("get", "", "pods", namespace, "proxy")  # metrics
        yield Need("get", "", "services", namespace, "proxy")  # the ledger, and whether spans arrive
        yield Need("get", "", "secrets", namespace, name=OPERATOR)
        for verb in ("create", "patch", "get", "delete"):  # leads spans to the receiver, and away again
            yield Need(verb, _SLICES, "endpointslices", namespace)


def of_look(namespace: str) -> Iterator[Need]:
    """What is read of a namespace: who is there, who gets traffic, whether chaos is allowed and nobody else at it."""
    yield Need("get", "", "namespaces", namespace, name=namespace)
    yield Need("get", "", "services", namespace)
    yield Need("list", "networking.k8s.io", "ingresses", namespace)
    yield Need("get", _LEASES, "leases", namespace)
    for group, resource in (
        ("", "pods"),
        (_APPS, "deployments"),
        (_SLICES, "endpointslices"),
        ("events.k8s.io", "events"),
    ):
        yield from watching(namespace, group, resource)


def watching(namespace: str | None, group: str, resource: str) -> Iterator[Need]:
    """List and watch."""
    yield Need("list", group, resource, namespace)
    yield Need("watch", group, resource, namespace)
