"""One pod of ours, asked from home through the API server's pods/proxy; and how the pods of a crew are waited for."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aftershock.cluster import Cluster
from aftershock.errors import ClusterError, ClusterUnreachable, DeadlineExceeded, NotFound
from aftershock.events import now_us
from aftershock.observe.clock import Comparison, Exchange
from aftershock.outpost.objects import Crew

ASK_S = 2.0
POLL_S = 0.1
UNSCHEDULED_S = 10.0
COMPARE_TRIES = 12
NO_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})


class ImageMissing(ClusterError):
    """The nodes do not have the runner's image."""


@dataclass(frozen=True)
class Piece:
    """Part of a spool."""

    size: int  # of the spool now
    dropped: int
    ended: Mapping[str, Any] | None
    data: bytes


class Post:
    """One pod; `clock` compares its clock with ours, with every answer."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, uid: str, node: str | None, port: int) -> None:
        self.name, self.node, self.uid = name, node, uid
        self.clock = Comparison()
        self._cluster, self._pod = cluster, f"/api/v1/namespaces/{namespace}/pods/{name}"
        self._proxy = f"/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy"

    def ask(self, what: str, timeout_s: float = ASK_S, **query: int) -> bytes:
        """The body of a GET. Raises ClusterUnreachable if no API server answers, ClusterError if the pod does not."""
        status, content = self._cluster.raw("GET", f"{self._proxy}/{what}", query=query, timeout_s=timeout_s)
        if status != 200:
            raise ClusterError(f"pod {self.name} answered {what} with {status}: {content[:200].decode('utf-8', 'replace')}",
                               status=status)  # fmt: skip
        return content

    def compare(self, tries: int = COMPARE_TRIES) -> None:
        """Compare clocks with small questions. Raises ClusterError."""
        for _ in range(tries):
            sent_us = now_us()
            told = json.loads(self.ask("clock"))
            self._compared(sent_us, told, now_us())

    def fetch(self, start: int) -> Piece:
        """What the spool has from an offset on, as much as comes at once. Raises ClusterError."""
        sent_us = now_us()
        head, _, data = self.ask("spool", **{"from": start}).partition(b"\n")
        back_us = now_us()
        try:
            told = json.loads(head)
            if told["from"] != start:
                raise ValueError(f"offset {told['from']} instead of {start}")
            piece = Piece(told["size"], told["dropped"], told["ended"], data)
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"pod {self.name} sent no piece of its spool: {error}") from None
        self._compared(sent_us, told, back_us)
        return piece

    def gone(self) -> str | None:
        """Why this pod can do its work no more; None if it seems to be at work. Raises ClusterUnreachable, ClusterError."""
        try:
            pod = self._cluster.request("GET", self._pod, timeout_s=ASK_S)
        except NotFound:
            return f"pod {self.name} was deleted"
        meta, status = pod["metadata"], pod.get("status") or {}
        if meta.get("uid") != self.uid:
            return f"pod {self.name} was deleted and made again"
        disruption: Mapping[str, Any] = next(
            (c for c in status.get("conditions") or [] if c.get("type") == "DisruptionTarget"), {}
        )
        why = status.get("reason") or disruption.get("reason")
        if meta.get("deletionTimestamp"):
            return f"pod {self.name} is being deleted{f': {why}' if why else ''}"
        if status.get("phase") == "Failed":
            return (
                f"pod {self.name} failed: {why or _termination(status) or status.get('message') or 'no reason given'}"
            )
        if any(c.get("restartCount") for c in status.get("containerStatuses") or []):
            return f"pod {self.name} was started again: {_termination(status)}"
        return None

    def _compared(self, sent_us: int, told: Mapping[str, Any], back_us: int) -> None:
        self.clock.take(Exchange(sent_us, int(told["received_us"]), int(told["sent_us"]), back_us))


def posted(cluster: Cluster, crew: Crew, deadline_s: float) -> list[Post]:
    """Wait until every pod of a crew answers as this run's own.

    Raises ImageMissing with what to load, ClusterError for a pod that cannot run, DeadlineExceeded with what was seen last.
    """
    begun = time.monotonic()
    found: dict[str, Post] = {}
    while True:
        seen = f"{crew.role}: no pod yet"
        try:
            pods = cluster.list(f"/api/v1/namespaces/{crew.namespace}/pods", crew.selector)
            for pod in pods:
                name = pod["metadata"]["name"]
                if name in found:
                    continue
                seen = _waiting(pod, crew, time.monotonic() - begun) or f"pod {name} does not answer yet"
                if (pod.get("status") or {}).get("phase") == "Running" and (post := _asked(cluster, crew, pod)):
                    found[name] = post
        except ClusterUnreachable as error:
            seen = str(error)
        if len(found) == crew.count:
            return [found[name] for name in sorted(found)]
        if time.monotonic() - begun > deadline_s:
            raise DeadlineExceeded(
                f"{len(found)} of {crew.count} {crew.component} pods answer within {deadline_s:g} s; {seen}",
                hint=f"kubectl -n {crew.namespace} describe pods -l {crew.selector}",
            )
        time.sleep(POLL_S)


def _asked(cluster: Cluster, crew: Crew, pod: Mapping[str, Any]) -> Post | None:
    meta = pod["metadata"]
    post = Post(
        cluster, crew.namespace, meta["name"], meta.get("uid", ""), (pod.get("spec") or {}).get("nodeName"), crew.port
    )
    try:
        return post if post.ask("healthz", 1.0) == crew.run_id.encode() else None
    except ClusterError:
        return None


def _waiting(pod: Mapping[str, Any], crew: Crew, waited_s: float) -> str | None:
    """What a pod waits for. Raises ImageMissing or ClusterError if in vain."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    for container in status.get("containerStatuses") or []:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in NO_IMAGE:
            raise ImageMissing(
                f"the cluster has no image {crew.image} ({waiting['reason']})",
                hint=f"`make image` builds it; load {crew.image} into every node, or push it and set AFTERSHOCK_RUNNER_IMAGE",
            )
        if waiting.get("reason") in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            raise ClusterError(f"pod {name} cannot start: {waiting['reason']}: {waiting.get('message', '')}")
    if status.get("phase") == "Failed":
        raise ClusterError(f"pod {name} failed: {status.get('reason') or _termination(status) or 'no reason given'}")
    scheduled: Mapping[str, Any] = next(
        (c for c in status.get("conditions") or [] if c.get("type") == "PodScheduled"), {}
    )
    if scheduled.get("status") == "False":
        if waited_s > UNSCHEDULED_S:
            raise ClusterError(f"pod {name} finds no node: {scheduled.get('message', '')}")
        return f"pod {name} has no node yet: {scheduled.get('message', '')}"
    return None


def _termination(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses") or []:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if ended := state.get("terminated"):
                return f"{ended.get('reason') or 'ended'} (exit code {ended.get('exitCode')})"
    return ""
