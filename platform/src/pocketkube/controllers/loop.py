"""The loop that runs all controllers: changes become keys in one queue without duplicates, keys are put right one by one.

Level-triggered: a key that changes ten times is looked at once. A controller that raises is logged and tried again later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable

from pocketkube.controllers.autoscaler import AutoscalerController
from pocketkube.controllers.deployment import DeploymentController
from pocketkube.controllers.disruption import DisruptionController
from pocketkube.controllers.endpoints import EndpointsController
from pocketkube.controllers.endpointslice import EndpointSliceController
from pocketkube.controllers.eviction import TaintEvictionController
from pocketkube.controllers.garbage import GarbageCollector
from pocketkube.controllers.namespace import NamespaceController
from pocketkube.controllers.node import NodeController
from pocketkube.controllers.podgc import PodGarbageCollector
from pocketkube.controllers.reconciler import Clock, Context, Key, Reconciler, UsageOf
from pocketkube.controllers.replicaset import ReplicaSetController
from pocketkube.controllers.serviceaccount import ServiceAccountController
from pocketkube.controllers.statefulset import StatefulSetController
from pocketkube.controllers.volumeclaim import VolumeClaimController
from pocketkube.scheduler import Scheduler
from pocketkube.storage import Event, Store

log = logging.getLogger(__name__)

Item = tuple[int, Key]  # which controller, which key
SLICE_S = 0.004  # how long the queue is worked on before other tasks of the event loop get their turn


def default(context: Context) -> list[Reconciler]:
    """All controllers; a new kind (jobs, daemonsets) is one line here."""
    return [
        NamespaceController(context), ServiceAccountController(context), NodeController(context), Scheduler(context),
        ReplicaSetController(context), DeploymentController(context), StatefulSetController(context), VolumeClaimController(context),
        EndpointSliceController(context), EndpointsController(context), DisruptionController(context),
        TaintEvictionController(context), PodGarbageCollector(context), GarbageCollector(context), AutoscalerController(context),
    ]  # fmt: skip


class Controllers:
    """All controllers over one store; `run` until cancelled."""

    def __init__(self, store: Store, *, clock: Clock = time.time, node_grace_s: float = 4.0, resync_s: float = 30.0,
                 autoscaler_sync_s: float = 15.0, usage: UsageOf = lambda uid: None,
                 backoff_s: float = 0.01, backoff_max_s: float = 5.0, reconcilers: Iterable[Reconciler] | None = None) -> None:  # fmt: skip
        context = Context(store, clock, node_grace_s, autoscaler_sync_s, usage)
        self._reconcilers = list(default(context) if reconcilers is None else reconcilers)
        self._resync_s = resync_s
        self._backoff_s, self._backoff_max_s = backoff_s, backoff_max_s
        self._ready: dict[Item, None] = {}
        self._later: dict[Item, asyncio.TimerHandle] = {}
        self._failures: dict[Item, int] = {}
        self._woken = asyncio.Event()
        store.listen(self._changed)

    async def run(self) -> None:
        """Work until cancelled."""
        next_resync = 0.0
        loop = asyncio.get_running_loop()
        try:
            while True:
                if loop.time() >= next_resync:
                    self.resync()
                    next_resync = loop.time() + self._resync_s
                began = time.perf_counter()
                while self._ready and time.perf_counter() - began < SLICE_S:
                    self._work(loop)
                if self._ready:
                    await asyncio.sleep(0)
                    continue
                self._woken.clear()
                try:
                    async with asyncio.timeout_at(next_resync):
                        await self._woken.wait()
                except TimeoutError:
                    pass
        finally:
            for timer in self._later.values():
                timer.cancel()
            self._later.clear()

    def resync(self) -> None:
        """Queue everything once more: what an event did not tell is found anyway."""
        for n, reconciler in enumerate(self._reconcilers):
            for key in reconciler.known():
                self._add((n, key))

    @property
    def idle(self) -> bool:
        """True when nothing waits to be looked at now (timers may be set)."""
        return not self._ready

    def _changed(self, event: Event) -> None:
        for n, reconciler in enumerate(self._reconcilers):
            try:
                touched = list(reconciler.touched(event))
            except Exception:  # the writer of the object must not fail because a controller cannot read it
                log.exception("%s: cannot read %s of %s", reconciler.name, event.type, event.resource)
                continue
            for key in touched:
                self._add((n, key))

    def _add(self, item: Item) -> None:
        self._ready[item] = None
        self._woken.set()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        item = next(iter(self._ready))
        del self._ready[item]
        if (timer := self._later.pop(item, None)) is not None:
            timer.cancel()
        reconciler, key = self._reconcilers[item[0]], item[1]
        try:
            again_s = reconciler.reconcile(key)
            self._failures.pop(item, None)
        except Exception:  # one key must never end the loop; it is tried again
            failures = self._failures.get(item, 0) + 1
            self._failures[item] = failures
            again_s = min(self._backoff_s * 2 ** min(failures - 1, 16), self._backoff_max_s)
            log.exception("%s: %s/%s failed (%d times), again in %.3g s", reconciler.name, *key, failures, again_s)
        if again_s is not None:
            self._later[item] = loop.call_later(again_s, self._due, item)

    def _due(self, item: Item) -> None:
        self._later.pop(item, None)
        self._add(item)
