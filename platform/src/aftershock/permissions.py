"""What a run has to be allowed besides its faults: to look, to hold the lease, to collect spans, to read the ledger.

Preflight asks for each of these, so that nothing is found missing once load has begun. `gitops/rbac/` grants them and nothing else; the
tests on a real cluster take them away one at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from aftershock import weakness
from aftershock.errors import ClusterError
from aftershock.experiment import Experiment
from aftershock.faults import Need
from aftershock.observe.watch import KINDS

if TYPE_CHECKING:
    from aftershock.cluster import Cluster

OPERATOR = "operator"  # the Secret with the ledger's token; no other Secret is read
SPANS = "otel-collector-aftershock"  # the EndpointSlice of the Service that takes spans
_LEASES, _SLICES = "coordination.k8s.io", "discovery.k8s.io"


def of_run(cluster: Cluster, namespaces: Collection[str]) -> Iterator[Need]:
    """Everything that a run in these namespaces does whatever its faults are. Raises ClusterError."""
    for api_version, kind in KINDS:
        if (resource := cluster.served(api_version, kind)) is None:
            continue
        for namespace in namespaces if resource.namespaced else (None,):
            for verb in ("list", "watch"):
                yield Need(verb, api_version.rpartition("/")[0], resource.plural, namespace)
    for namespace in namespaces:
        yield from of_look(cluster, namespace)
        for verb in ("create", "update", "delete"):
            yield Need(verb, _LEASES, "leases", namespace)
        yield Need("get", "", "pods", namespace, "proxy")  # metrics
        yield Need("get", "", "services", namespace, "proxy")  # the ledger, and whether spans arrive
        yield Need("get", "", "secrets", namespace, name=OPERATOR)
        yield Need("create", _SLICES, "endpointslices", namespace)
        for verb in ("patch", "get", "delete"):  # leads spans to the receiver, and away again
            yield Need(verb, _SLICES, "endpointslices", namespace, name=SPANS)


def of_look(cluster: Cluster, namespace: str) -> Iterator[Need]:
    """What is read of a namespace besides: whether chaos is allowed, who else is at it, how customers get in."""
    yield Need("get", "", "namespaces", namespace, name=namespace)
    yield Need("get", _LEASES, "leases", namespace)
    yield Need("get", "", "services", namespace)
    if cluster.served("networking.k8s.io/v1", "Ingress"):
        yield Need("list", "networking.k8s.io", "ingresses", namespace)


def of_weakness(cluster: Cluster, experiment: Experiment, name: str) -> Iterator[Need]:
    """What switching a weakness on and off again takes. Raises BadInput, ClusterError."""
    for patch in weakness.patches(weakness.folder_of(experiment.path), name):
        version, kind = str(patch["apiVersion"]), str(patch["kind"])
        if (resource := cluster.served(version, kind)) is None:
            raise ClusterError(f"weakness {name}: the cluster does not serve {version} {kind}")
        for verb in ("get", "patch"):
            yield Need(verb, version.rpartition("/")[0], resource.plural, patch["metadata"].get("namespace"))


def of_load(cluster: Cluster, namespaces: Collection[str]) -> Iterator[Need]:
    """What load from inside the cluster takes in these namespaces: its pods, what they read, and asking them. Raises ClusterError."""
    jobs = [("batch", "jobs")] if cluster.served("batch/v1", "Job") else []
    for namespace in namespaces:
        for group, resource in (("", "pods"), ("", "configmaps"), *jobs):
            for verb in ("create", "get", "delete"):
                yield Need(verb, group, resource, namespace)
