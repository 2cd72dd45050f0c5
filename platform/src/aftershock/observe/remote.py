"""The receiver of spans inside the cluster: a pod that keeps exports as they come, and a thread here that fetches and decodes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aftershock.errors import ClusterError, ClusterUnreachable, FolderError, ObserverError
from aftershock.events import now_us
from aftershock.observe import otlp
from aftershock.observe.receiver import QUIET_S, SPANS_MAX, UNPACKED_MAX, Counts
from aftershock.outpost import objects, post
from aftershock.outpost.objects import Crew
from aftershock.outpost.post import Piece, Post
from aftershock.outpost.station import FRAME
from aftershock.undo import Inverse

if TYPE_CHECKING:
    from aftershock.cluster import Cluster
    from aftershock.folder import RunFolder, TableWriter

READY_S = 40.0
POLL_S = 0.3
LINGER_S, END_S = 1.5, 5.0


class RemoteReceiver:
    """One pod of the runner's image that takes OTLP/HTTP; `start`, then `stop` once."""

    def __init__(self, cluster: Cluster, namespace: str, run_id: str, image: str, avoid: Sequence[str] = ()) -> None:
        self._cluster = cluster
        crew = Crew(
            f"aftershock-collector-{run_id[-6:]}", namespace, run_id, "collector", "collector", image,
            avoid=tuple(avoid), memory="256Mi",
        )  # fmt: skip
        self._crew, (self._pod,) = crew, objects.workload(crew, jobs=False)
        self.token = run_id  # what its /healthz answers
        self.counts = Counts()
        self.lost: str | None = None  # why spans were not fetched any more
        self._post: Post | None = None
        self._writer: TableWriter | None = None
        self._offset, self._rest, self._frames = 0, b"", 0
        self._missed = 0  # exports that found no room in the pod
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._work, name="spans", daemon=True)

    def inverses(self) -> list[Inverse]:
        """For the undo journal, before `start`."""
        return [objects.removal(self._pod)]

    @property
    def clocks(self) -> list[dict[str, Any]]:
        """Its clock, for run.json."""
        return [] if self._post is None else [self._post.clock.as_run(f"pod {self._post.name}", self._post.node)]

    def start(self, folder: RunFolder) -> tuple[str, int]:
        """Start the pod; address and port at which the cluster's pods reach it.

        Raises post.ImageMissing, ClusterError, DeadlineExceeded, ObserverError.
        """
        self._cluster.request("POST", objects.path(self._pod).rpartition("/")[0], body=self._pod)
        (self._post,) = post.posted(self._cluster, self._crew, READY_S)
        self._post.compare()
        live = self._cluster.request("GET", objects.path(self._pod))
        try:
            self._writer = folder.writer("traces.parquet")
        except FolderError as error:
            raise ObserverError(str(error)) from None
        self._thread.start()
        return str(live["status"]["podIP"]), objects.COLLECTOR_PORT

    def stop(self) -> Counts | None:
        """Fetch what is left once nothing more comes, and close the file; None if there was no way to the spans at all."""
        self._leave.set()
        if self._writer is None:
            self._remove()
            return None
        self._thread.join(END_S)
        try:
            self._last()
            self._writer.close()
        except FolderError as error:
            self.counts.error = str(error)
        self._remove()
        return self.counts

    def _work(self) -> None:
        while not self._leave.wait(POLL_S):
            try:
                self._fetch()
            except FolderError as error:
                self.counts.error = str(error)
                return
            if self.lost:
                return

    def _last(self) -> None:
        """Until nothing has come for `QUIET_S`, since exporters flush what they still hold."""
        ends, quiet_since = time.monotonic() + LINGER_S, time.monotonic()
        hard_end = time.monotonic() + END_S
        while not self.lost:
            before = self._offset
            fetched = self._fetch()
            now = time.monotonic()
            if self._offset != before:
                quiet_since = now
            if fetched and (now > ends or now - quiet_since > QUIET_S):
                return
            if now > hard_end:
                self.lost = self.lost or "what came last was not fetched: no answer from the API server"
                return
            time.sleep(QUIET_S / 3)

    def _fetch(self) -> bool:
        """All that there is now. False if nobody answered; `lost` is set if nobody ever will."""
        assert self._post is not None
        try:
            while True:
                piece = self._post.fetch(self._offset)
                self._take(piece)
                if not piece.data:
                    return True
        except ClusterUnreachable:
            return False
        except ClusterError as error:
            try:
                self.lost = self._post.gone() or (str(error) if error.status == 400 else None)
            except ClusterError:
                return False
            return False

    def _take(self, piece: Piece) -> None:
        assert self._writer is not None
        self._offset += len(piece.data)
        self._missed = piece.dropped
        data, at = self._rest + piece.data, 0
        while len(data) - at >= FRAME.size:
            length, packed = FRAME.unpack_from(data, at)
            if len(data) - at - FRAME.size < length:
                break
            body = data[at + FRAME.size : at + FRAME.size + length]
            at += FRAME.size + length
            self._export(body, packed)
        self._rest = data[at:]

    def _export(self, body: bytes, packed: bool) -> None:
        assert self._writer is not None
        counts = self.counts
        counts.requests += 1
        try:
            rows, odd = otlp.rows(otlp.gunzip(body, UNPACKED_MAX) if packed else body)
        except otlp.BadExport:
            counts.rejected += 1
            return
        room = max(0, SPANS_MAX - counts.spans)
        counts.odd, counts.dropped = counts.odd + odd, counts.dropped + max(0, len(rows) - room)
        self._writer.append(rows[:room])
        counts.spans += len(rows[:room])
        counts.last_us = now_us()

    @property
    def missed(self) -> int:
        """Exports that the pod had no room for."""
        return self._missed

    def _remove(self) -> None:
        for inverse in self.inverses():
            try:
                self._cluster.request(inverse.method, inverse.path, body=inverse.body, timeout_s=2.0)
            except ClusterError:
                continue  # the journal has it, and sees it gone
