"""Actions that give a Deployment a new version: the same one again, or another image; used as `module: aftershock.actions`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aftershock import undo
from aftershock.cluster import Cluster
from aftershock.errors import BadInput, ClusterError, DeadlineExceeded

Json = dict[str, Any]
ROLLED = "aftershock.dev/rolled"  # an annotation of the pod template: another value is another version
PATCH = "application/strategic-merge-patch+json"
_POLL_S = 0.2


def roll(cluster: Cluster, ns: str, name: str, run_id: str, timeout_s: float) -> Json:
    """Replace every pod of a Deployment by its own rules, and wait until all are of the new version and ready.

    Raises NotFound, ClusterError, DeadlineExceeded saying how far it came.
    """
    begun = time.monotonic()
    live = cluster.request("PATCH", path(ns, name), body=rolled(run_id), content_type=PATCH)
    generation = live["metadata"].get("generation")
    while missing := undo.behind(live):
        if time.monotonic() - begun > timeout_s:
            raise DeadlineExceeded(f"the rollout of {name} is not complete within {timeout_s:g} s: {missing}",
                                   hint=f"kubectl rollout status deployment/{name} -n {ns}")  # fmt: skip
        time.sleep(_POLL_S)
        live = cluster.request("GET", path(ns, name))
    return {"deployment": name, "generation": generation, "seconds": round(time.monotonic() - begun, 3)}


def set_image(cluster: Cluster, ns: str, name: str, image: str, container: str | None) -> Json:
    """Give a Deployment another image and return at once: whether its pods ever run with it is for others to see.

    Raises NotFound, ClusterError, BadInput if the container is not to be told.
    """
    live = cluster.request("GET", path(ns, name))
    body = imaged(live, image, container)
    was = image_of(live, container)
    if was == image:
        raise ClusterError(f"Deployment {name} runs {image} already", hint="ask for another image than the one it has")
    done = cluster.request("PATCH", path(ns, name), body=body, content_type=PATCH)
    return {"deployment": name, "generation": done["metadata"].get("generation"), "image": image, "was": was}


def path(ns: str, name: str) -> str:
    """Where a Deployment is."""
    return f"/apis/apps/v1/namespaces/{ns}/deployments/{name}"


def rolled(run_id: str) -> Json:
    """The patch that makes a new version of the same thing."""
    return {"spec": {"template": {"metadata": {"annotations": {ROLLED: run_id}}}}}


def imaged(live: Mapping[str, Any], image: str, container: str | None) -> Json:
    """The patch that gives one container another image. Raises BadInput."""
    return {
        "spec": {"template": {"spec": {"containers": [{"name": _container(live, container)["name"], "image": image}]}}}
    }


def image_of(live: Mapping[str, Any], container: str | None) -> str:
    """The image that a container of a Deployment has. Raises BadInput."""
    return str(_container(live, container).get("image"))


def _container(live: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    there = live["spec"]["template"]["spec"].get("containers") or []
    found = [c for c in there if name is None or c.get("name") == name]
    if len(found) != 1:
        names = ", ".join(str(c.get("name")) for c in there) or "none"
        raise BadInput(
            f"Deployment {live['metadata']['name']} has the containers {names}", hint="name one as `container`"
        )
    chosen: Mapping[str, Any] = found[0]
    return chosen
