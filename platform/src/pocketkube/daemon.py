"""The cluster's daemon: API, controllers, kubelets and fault controller in one process, the supervisor's children around it.

`python -m pocketkube.daemon ORDER`, with ORDER a JSON `Order`; it tells its progress as JSON lines at descriptor `report`. SIGTERM ends
the cluster: all processes at once, then the state folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from pocketkube import addresses, certificates, images, processes
from pocketkube.api.listener import Serving
from pocketkube.api.server import application
from pocketkube.clusters import CLUSTER, Order
from pocketkube.controllers.loop import Controllers
from pocketkube.errors import Invalid, StartError
from pocketkube.kubelet import Kubelet, spec_of
from pocketkube.network_chaos import NetworkChaosController
from pocketkube.pod import Host
from pocketkube.proxy_control import ProxyControl
from pocketkube.runtime import NodeRuntime
from pocketkube.storage import Object, Store
from pocketkube.supervisor import Supervisor
from pocketkube.usage import Meter

READY_S = 20.0


async def serve(order: Order) -> None:
    """Be the cluster until SIGTERM. Raises StartError."""
    folder = Path(order.folder)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if order.owner is not None:
        _follow(loop, order.owner, stopped)
    _tell(order, stage="images")
    known = images.read(Path(order.images)) if order.images else images.Images()
    a, bound = addresses.claim(f"{os.getuid()}/{folder}")
    given = addresses.Addresses(a)
    server = f"https://{given.api}:{bound.getsockname()[1]}"
    identity = certificates.make(folder, given.api)
    certificates.write_private(folder / "kubeconfig", certificates.kubeconfig(identity, order.name, server))

    _tell(order, stage="processes")
    store = Store()
    supervisor = Supervisor(folder)
    await supervisor.start()
    proxy = ProxyControl(store, supervisor, given)
    host = Host(store, supervisor, known, given, proxy, folder)
    specs = [spec_of(name, given.node(index), len(order.nodes)) for index, name in enumerate(order.nodes)]
    timing = order.timing
    kubelets = [Kubelet(host, spec, timing.node_grace_s) for spec in specs]
    meter = Meter(lambda: (one for kubelet in kubelets for one in kubelet.metered()), timing.metrics_s)
    app = application(store, identity.token, NodeRuntime(kubelets, meter), version=importlib.metadata.version("aftershock"),
                      allocate_cluster_ip=lambda service: _cluster_ip(store, given, service))  # fmt: skip
    api = Serving(app, identity, bound, store.compact)
    app.restart = api.restart
    controllers = Controllers(
        store, node_grace_s=timing.node_grace_s, autoscaler_sync_s=timing.autoscaler_sync_s, usage=meter.pod
    )
    parts: list[Coroutine[Any, Any, None]] = [
        api.run(), controllers.run(), meter.run(), proxy.run(), NetworkChaosController(store, proxy).run(),
        *(kubelet.run() for kubelet in kubelets), _preload(supervisor, known),
    ]  # fmt: skip
    tasks = [loop.create_task(part) for part in parts]
    stop = loop.create_task(stopped.wait())
    try:
        _tell(order, stage="nodes")
        await _until_ready(store, order, stopped, proxy, tasks)
        facts = _facts(order, server, identity)
        certificates.write_private(folder / CLUSTER, json.dumps(facts).encode())
        _tell(order, ready=facts)
        done, _ = await asyncio.wait({stop, *tasks[:-1]}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stop}:
            task.result()
            raise StartError(f"a part of the daemon ended: {task.get_coro()}")
    finally:
        for task in (stop, *tasks):
            task.cancel()
        api.stop()
        await supervisor.stop()
        await asyncio.gather(stop, *tasks, return_exceptions=True)
        shutil.rmtree(folder, ignore_errors=True)


def _follow(loop: asyncio.AbstractEventLoop, owner: int, stopped: asyncio.Event) -> None:
    try:
        descriptor = os.pidfd_open(owner)
    except ProcessLookupError:
        raise StartError(f"the owner, process {owner}, does not exist") from None
    loop.add_reader(descriptor, stopped.set)


async def _preload(supervisor: Supervisor, known: images.Images) -> None:
    for image in known.all.values():
        if image.preload:
            await supervisor.preloaded(image.name, image.preload)


async def _until_ready(
    store: Store, order: Order, stopped: asyncio.Event, proxy: ProxyControl, tasks: list[asyncio.Task[None]]
) -> None:  # fmt: skip
    await asyncio.wait_for(proxy.settled(), READY_S)
    deadline = time.monotonic() + READY_S
    while not stopped.is_set():
        ready = [n["metadata"]["name"] for n in store.list("nodes") if _is_ready(n)]
        if set(ready) == set(order.nodes) and store.find("serviceaccounts", "default", "default"):
            return
        if time.monotonic() > deadline:
            raise StartError(
                f"nodes not Ready within {READY_S:g} s: {sorted(set(order.nodes) - set(ready))}",
                "the machine may be overloaded; try again",
            )
        for task in tasks:
            if task.done() and (error := task.exception()) is not None:
                raise error
        await asyncio.sleep(0.01)


def _is_ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _facts(order: Order, server: str, identity: certificates.Identity) -> dict[str, Any]:
    me = processes.stat(os.getpid())
    return {"name": order.name, "server": server, "context": f"pocketkube-{order.name}", "kubeconfig": f"{order.folder}/kubeconfig",
            "fingerprint": identity.fingerprint, "nodes": order.nodes, "images": order.images,
            "timing": dataclasses.asdict(order.timing), "pid": os.getpid(),
            "started": me.started if me else 0, "created_us": time.time_ns() // 1000}  # fmt: skip


def _cluster_ip(store: Store, given: addresses.Addresses, service: Object) -> str:
    found = given.cluster_ip({str(s["spec"].get("clusterIP")) for s in store.list("services")})
    if found is None:
        raise Invalid(
            "Service", service["metadata"].get("name", ""), "spec.clusterIPs", "failed to allocate IP: range is full"
        )
    return found


def _tell(order: Order, **what: Any) -> None:
    with contextlib.suppress(OSError):  # whoever started us may be gone
        os.write(order.report, json.dumps(what).encode() + b"\n")


def main() -> int:
    """Run one cluster; 1 if it could not start or a part of it broke."""
    order = Order.read(sys.argv[1])
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s"
    )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        uvloop.run(serve(order))
    except StartError as error:
        _tell(order, error=str(error), hint=error.hint)
        return 1
    except Exception as error:  # the one broad catch of this process
        logging.exception("the daemon broke")
        _tell(order, error=f"{type(error).__name__}: {error}", hint="")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
