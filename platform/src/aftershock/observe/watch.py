"""Watches of the experiment's namespaces: one thread per kind, all into the event log, initial state included.

A stream that ends is taken up where it ended, so nothing is lost; a resourceVersion that is too old is answered by a new list and the
difference to what was known. What counts as a gap is the time in which nothing could have been seen: a stream that was broken for more
than `GAP_S`, an API server that answered nothing for more than `SILENT_S`, or a history that the server lost, since then what came and
went in between is in no list.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aftershock.answers import Object, Watch
from aftershock.cluster import Cluster, Resource
from aftershock.errors import ClusterError, ClusterUnreachable, FolderError, Forbidden, ObserverError
from aftershock.events import EventLog, now_us
from aftershock.observe.observer import ObserverGap, ObserverReport, merged
from aftershock.observe.summary import SUMMARIES, Summary

KINDS = (("v1", "Pod"), ("v1", "Node"), ("discovery.k8s.io/v1", "EndpointSlice"), ("apps/v1", "Deployment"),
         ("apps/v1", "StatefulSet"), ("policy/v1", "PodDisruptionBudget"), ("autoscaling/v2", "HorizontalPodAutoscaler"),
         ("events.k8s.io/v1", "Event"), ("chaos-mesh.org/v1alpha1", "NetworkChaos"))  # fmt: skip
OPTIONAL = frozenset({"NetworkChaos", "HorizontalPodAutoscaler"})  # only where the cluster serves them
GAP_S, SILENT_S = 1.0, 2.0
PULSE_S = 0.5
STREAM_S = 20.0  # each watch is renewed this often, so that a dead connection is noticed
BACKOFF_S, BACKOFF_MAX_S = 0.1, 0.5
LINES_MAX = 50_000  # per kind
STOP_S = 3.0


class Watcher:
    """The observer `watch`."""

    name = "watch"

    def __init__(self, cluster: Cluster, log: EventLog, namespaces: Sequence[str]) -> None:
        self._cluster, self._log, self._namespaces = cluster, log, tuple(namespaces)
        self._streams: list[Stream] = []
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._gaps: list[ObserverGap] = []
        self._lock = threading.Lock()
        self._pods: dict[str, Summary] = {}
        self._from_us = 0
        self._silent_since_us: int | None = None  # no answer of the API server since
        self._report: ObserverReport | None = None

    def start(self) -> None:
        """List and record the initial state, then watch. Raises ObserverError naming what cannot be watched."""
        self._from_us = now_us()
        try:
            for api_version, kind in KINDS:
                resource = self._cluster.served(api_version, kind)
                if resource is None:
                    if kind in OPTIONAL:
                        continue
                    raise ObserverError(f"the cluster does not serve {api_version} {kind}")
                for namespace in self._namespaces if resource.namespaced else (None,):
                    stream = Stream(self, resource, namespace)
                    stream.begin()
                    self._streams.append(stream)
        except Forbidden as error:
            raise ObserverError(f"watch: {error}", hint=error.hint) from None
        except ClusterError as error:
            raise ObserverError(f"watch: {error}", hint="is the cluster up?") from None
        works = [(stream.work, f"watch-{stream.resource.kind}") for stream in self._streams]
        for work, name in [*works, (self._pulse, "watch-pulse")]:
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> ObserverReport:
        """End all watches and report."""
        if self._report is not None:
            return self._report
        self._ended.set()
        for stream in self._streams:
            stream.interrupt()
        ends = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        to_us = now_us()
        for stream in self._streams:
            if stream.blind_since_us is not None and to_us - stream.blind_since_us > GAP_S * 1e6:
                self.gap(
                    stream.blind_since_us, to_us, f"{stream.what}: not seen again when the run ended: {stream.why}"
                )
        if (since_us := self._silent_since_us) is not None and to_us - since_us > SILENT_S * 1e6:
            self.gap(since_us, to_us, "the API server did not answer when the run ended")
        records = sum(stream.records for stream in self._streams)
        with self._lock:
            gaps = merged(self._gaps)
        self._report = ObserverReport(self.name, self._from_us, to_us, records, gaps)
        return self._report

    def ended(self, wait_s: float = 0.0) -> bool:
        """True once `stop` was called; waits for it up to `wait_s`."""
        return self._ended.wait(wait_s)

    def gap(self, from_us: int, to_us: int, reason: str) -> None:
        """Report a time in which nothing could be seen."""
        with self._lock:
            self._gaps.append(ObserverGap(from_us, to_us, reason))
        try:
            self._log.add(source=self.name, type="GAP", kind="Runner", name=self.name, reason="gap",
                          detail={"from_us": from_us, "to_us": to_us, "why": reason})  # fmt: skip
        except FolderError:
            return  # the report has it

    def record(self, kind: str, type_: str, seen: Summary, marks: Mapping[str, bool]) -> None:
        """Write one line."""
        if kind == "Pod" and seen.uid:
            with self._lock:
                self._pods[seen.uid] = replace(seen, detail={})
        if kind == "Event":
            with self._lock:
                about = self._pods.get(seen.uid or "")
            if about is not None:
                seen = replace(seen, node=about.node, service=about.service)
        self._log.add(source=self.name, type=type_, kind=kind, namespace=seen.namespace, name=seen.name, uid=seen.uid,
                      node=seen.node, service=seen.service, reason=seen.reason, detail={**seen.detail, **marks})  # fmt: skip

    def _pulse(self) -> None:
        """Ask the API server for a sign of life all the time: a stream cannot tell a quiet cluster from a stopped server."""
        while not self._ended.wait(PULSE_S):
            asked_us = now_us()
            if self._silent_since_us is None:
                self._silent_since_us = asked_us  # until it answers: who ends the run meanwhile must know
            try:
                self._cluster.raw("GET", "/version", timeout_s=5.0)
            except ClusterUnreachable:
                continue
            since_us, self._silent_since_us = self._silent_since_us, None
            if now_us() - since_us > SILENT_S * 1e6:
                self.gap(since_us, now_us(), "the API server did not answer")


class Stream:
    """One kind in one namespace."""

    def __init__(self, watcher: Watcher, resource: Resource, namespace: str | None) -> None:
        self.resource = resource
        self.what = f"{resource.kind} in {namespace}" if namespace else resource.kind
        self.records = 0
        self.blind_since_us: int | None = None
        self.why = ""  # it cannot see
        self._watcher, self._cluster = watcher, watcher._cluster
        self._path = resource.path(namespace)
        self._version = ""
        self._read_us = 0  # all that happened before was delivered
        self._known: dict[str, Summary] = {}
        self._watch: Watch | None = None
        self._full = False

    def begin(self) -> None:
        """Record what there is. Past Events are no state and are left out."""
        self._read_us = now_us()
        items, self._version = self._cluster.list_at(self._path)
        for obj in items:
            self._see("ADDED", obj, {"initial": True}, silent=self.resource.kind == "Event")

    def interrupt(self) -> None:
        """Wake the thread that waits for the next event."""
        watch = self._watch
        if watch is not None:
            watch.close()

    def work(self) -> None:
        """Watch until the observer ends, whatever the server does."""
        try:
            self._work()
        finally:
            self._blinded("its thread ended")  # a thread that ends early sees nothing from here on

    def _work(self) -> None:
        wait_s, relist = BACKOFF_S, False
        while not self._watcher.ended():
            try:
                if relist:
                    self._relist()
                    relist = False
                with self._cluster.watch(self._path, self._version, STREAM_S) as watch:
                    self._watch = watch
                    if self._watcher.ended():  # since before `interrupt` could know of this watch
                        return
                    self._sighted()
                    wait_s = BACKOFF_S
                    for event in watch:
                        self._take(event)
                self._read_us = now_us()
                self._blinded("the server ended the watch")
            except ClusterError as error:
                self._blinded(str(error))
                if _lost(error):
                    relist = True
                else:
                    self._watcher.ended(wait_s)
                    wait_s = min(BACKOFF_MAX_S, wait_s * 2)
            except FolderError:
                return  # the log is full or closed: it says so itself
            finally:
                self._watch = None

    def _blinded(self, why: str) -> None:
        if not self._watcher.ended():
            self.why = why[:200]
            self.blind_since_us = now_us() if self.blind_since_us is None else self.blind_since_us

    def _sighted(self) -> None:
        since_us, self.blind_since_us = self.blind_since_us, None
        if since_us is not None and now_us() - since_us > GAP_S * 1e6:
            self._watcher.gap(since_us, now_us(), f"{self.what}: the watch was broken: {self.why}")

    def _take(self, event: Object) -> None:
        obj = event["object"]
        self._version = str((obj.get("metadata") or {}).get("resourceVersion") or self._version)
        self._read_us = now_us()
        if event["type"] != "BOOKMARK" and not self._watcher.ended():
            self._see(str(event["type"]), obj, {})

    def _relist(self) -> None:
        """What changed while the history was lost, as events of our own making; what came and went meanwhile is a gap."""
        lost_us, listed_us = self._read_us, now_us()
        items, self._version = self._cluster.list_at(self._path)
        current = {_key(obj) for obj in items}
        for key in [key for key in self._known if key not in current]:
            seen = self._known.pop(key)
            if self.resource.kind != "Event":
                self._write("DELETED", seen, {"synthetic": True})
        for obj in items:
            self._see("MODIFIED", obj, {"synthetic": True})
        self._read_us = listed_us
        if not self._watcher.ended():
            self._watcher.gap(
                lost_us, now_us(), f"{self.what}: the server no longer had the history; what came and went is not known"
            )

    def _see(self, type_: str, obj: Object, marks: Mapping[str, bool], *, silent: bool = False) -> None:
        seen, key = SUMMARIES[self.resource.kind](obj), _key(obj)
        before = self._known.pop(key, None)
        if type_ == "DELETED":
            if self.resource.kind != "Event":  # an Event that expires tells nothing
                self._write(type_, seen, marks)
            return
        self._known[key] = seen
        while len(self._known) > LINES_MAX:
            del self._known[next(iter(self._known))]
        if seen != before and not silent:  # heartbeats change nothing that we keep
            self._write("ADDED" if before is None else "MODIFIED", seen, marks, obj)

    def _write(self, type_: str, seen: Summary, marks: Mapping[str, bool], obj: Object | None = None) -> None:
        if self.records >= LINES_MAX:
            if not self._full:
                self._full = True
                self._watcher.gap(
                    now_us(), now_us(), f"{self.what}: more than {LINES_MAX} changes; the rest is not recorded"
                )
            return
        self.records += 1
        if self.resource.kind == "Event":
            type_ = "WARNING" if (obj or {}).get("type") == "Warning" else "NORMAL"
        self._watcher.record(self.resource.kind, type_, seen, marks)


def _lost(error: ClusterError) -> bool:
    """True if the server cannot go on from our version: it forgot it, or (after a crash of its store) never knew it."""
    return error.status == 410 or "Too large resource version" in str(error)


def _key(obj: Object) -> str:
    meta = obj["metadata"]
    return str(meta.get("uid") or f"{meta.get('namespace')}/{meta['name']}")
