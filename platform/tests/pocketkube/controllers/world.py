"""A cluster without processes: the real store and controllers, fake kubelets, and time that passes only when all wait."""

from __future__ import annotations

import asyncio
import itertools
import logging
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pocketkube.controllers import conditions, pods
from pocketkube.controllers.loop import Controllers
from pocketkube.controllers.moments import stamp
from pocketkube.storage import Event, Object, Store

NAMESPACE = "shop"


class _Selector(selectors.SelectSelector):
    """Where a real selector would sleep, the clock jumps."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all tasks wait and no timer is set: this would hang for ever"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which a sleep of an hour takes no time."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s


class FakeKubelets:
    """Start bound pods, and end those with a deletionTimestamp, each after some time; renew leases."""

    def __init__(self, world: World) -> None:
        self._world, self._store = world, world.store
        self.start_s, self.stop_s = 0.5, 0.2
        self.healthy: Callable[[Object], bool] = lambda pod: True
        self.dead: set[str] = set()
        self._addresses = itertools.count(1)
        self._leases: list[asyncio.Task[None]] = []
        self._store.listen(self._changed)

    def _changed(self, event: Event) -> None:
        pod = event.object
        if event.resource != "pods" or event.type == "DELETED" or not pod["spec"].get("nodeName"):
            return
        loop = asyncio.get_running_loop()
        if pods.is_terminating(pod):
            if event.old is None or not pods.is_terminating(event.old):
                loop.call_later(self.stop_s, self._stop, pod)
        elif event.old is None or not event.old["spec"].get("nodeName"):
            loop.call_later(self.start_s, self._start, pod)

    def _current(self, pod: Object) -> Object | None:
        meta = pod["metadata"]
        found = self._store.find("pods", meta["namespace"], meta["name"])
        alive = found is not None and found["spec"]["nodeName"] not in self.dead
        return found if alive and found is not None and found["metadata"]["uid"] == meta["uid"] else None

    def _start(self, pod: Object) -> None:
        found = self._current(pod)
        if found is None or pods.is_terminating(found):
            return
        self.set_ready(found, self.healthy(found), podIP=f"127.9.0.{next(self._addresses)}", phase="Running",
                       startTime=stamp(self._world.clock()))  # fmt: skip

    def set_ready(self, pod: Object, ready: bool, **status: Any) -> None:
        """Write what a kubelet writes."""

        def change(draft: Object) -> None:
            known = draft["status"].get("conditions") or []
            wanted = {"type": "Ready", "status": "True" if ready else "False"}
            draft["status"].update(conditions=conditions.put(known, wanted, stamp(self._world.clock())), **status)

        self._store.mutate("pods", pod["metadata"]["namespace"], pod["metadata"]["name"], change)

    def _stop(self, pod: Object) -> None:
        if (found := self._current(pod)) is not None:
            self._store.delete("pods", found["metadata"]["namespace"], found["metadata"]["name"])

    def renew(self, node: str) -> None:
        """Keep the lease of a node fresh, and its Ready condition True, until the node is in `dead`."""

        async def renewals() -> None:
            while True:
                if node not in self.dead:
                    self._heartbeat(node)
                await asyncio.sleep(1)

        self._leases.append(asyncio.get_running_loop().create_task(renewals()))

    def _heartbeat(self, node: str) -> None:
        spec = {"holderIdentity": node, "renewTime": stamp(self._world.clock(), micro=True), "leaseDurationSeconds": 40}
        if self._store.find("leases", "kube-node-lease", node) is None:
            meta = {"name": node, "namespace": "kube-node-lease"}
            self._store.create(
                "leases", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
            )
        else:
            self._store.mutate("leases", "kube-node-lease", node, lambda o: o.update(spec=spec))
        wanted = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
        found = self._store.get("nodes", None, node)
        if not conditions.is_true(found, "Ready"):
            self._store.mutate("nodes", None, node, lambda n: n["status"].update(
                conditions=conditions.put(n["status"]["conditions"], wanted, stamp(self._world.clock()))))  # fmt: skip

    def stop(self) -> None:
        """End the renewals."""
        for task in self._leases:
            task.cancel()


class World:
    """What a test holds."""

    def __init__(self, **settings: Any) -> None:
        self._epoch = time.time()
        self.store = Store()
        self.kubelets = FakeKubelets(self)
        self.controllers = Controllers(self.store, clock=self.clock, **settings)
        self.seen: list[Event] = []
        self.store.listen(self.seen.append)

    def clock(self) -> float:
        return self._epoch + asyncio.get_running_loop().time()

    def nodes(self, *names: str, taints: dict[str, list[Object]] | None = None, **allocatable: str) -> None:
        for name in names:
            self.store.create("nodes", {
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
                "spec": {"taints": taints[name]} if taints and name in taints else {},
                "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110", **allocatable},
                           "conditions": [{"type": "Ready", "status": "True"}]},
            })  # fmt: skip
            self.kubelets.renew(name)

    def create(self, resource: str, obj: Object) -> Object:
        obj["metadata"].setdefault("namespace", NAMESPACE)
        return self.store.create(resource, obj)

    def deployment(self, name: str = "payments", **spec: Any) -> Object:
        labels = {"app": name}
        return self.create("deployments", {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template(labels), **spec},
        })  # fmt: skip

    def pods(self, **labels: str) -> list[Object]:
        return self.store.list("pods", NAMESPACE, lambda p: labels.items() <= p["metadata"]["labels"].items())

    def active(self, **labels: str) -> list[Object]:
        return [p for p in self.pods(**labels) if pods.is_active(p)]

    def ready(self, **labels: str) -> list[Object]:
        return [p for p in self.active(**labels) if pods.is_ready(p)]

    def get(self, resource: str, name: str) -> Object:
        return self.store.get(resource, NAMESPACE, name)

    def patch(self, resource: str, name: str, change: Callable[[Object], Any]) -> Object:
        return self.store.mutate(resource, NAMESPACE, name, lambda o: None if change(o) is not o else o)

    def condition(self, resource: str, name: str, kind: str) -> Object:
        found = conditions.find(self.get(resource, name), kind)
        assert found is not None, f"{resource} {name} has no condition {kind}"
        return found

    def notes(self, reason: str) -> list[str]:
        return [e["note"] for e in self.store.list("events") if e["reason"] == reason]

    async def until(self, true: Callable[[], Any], deadline_s: float = 60) -> float:
        """Wait for a condition; the answer is how many seconds it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not true():
            assert loop.time() < began + deadline_s, f"not so within {deadline_s} s"
            await asyncio.sleep(0.05)
        return loop.time() - began


def template(labels: dict[str, str], image: str = "aftershock/shop:dev", **spec: Any) -> Object:
    container = {"name": "main", "image": image, "ports": [{"name": "http", "containerPort": 7070}]}
    return {"metadata": {"labels": labels}, "spec": {"containers": [container], **spec}}


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def live(test: Callable[[World], Awaitable[None]], *, errors: bool = False, **settings: Any) -> None:
    """Run a test in a world of its own, in virtual time; an error that a controller logs fails it, unless it is told of them."""
    logged, log = _Errors(), logging.getLogger("pocketkube.controllers")

    async def main() -> None:
        world = World(**settings)
        running = asyncio.get_running_loop().create_task(world.controllers.run())
        try:
            await test(world)
        finally:
            world.kubelets.stop()
            running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            pass

    log.addHandler(logged)
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
    finally:
        log.removeHandler(logged)
    assert errors == bool(logged.texts), "\n".join(logged.texts) or "an error should have been logged"
