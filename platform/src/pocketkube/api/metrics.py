"""metrics.k8s.io/v1beta1: what pods and nodes use now, as a metrics server tells it."""

from __future__ import annotations

import dataclasses
import datetime

from pocketkube.api import reads
from pocketkube.api.call import Call
from pocketkube.api.resources import Resource, Table
from pocketkube.api.runtime import Runtime
from pocketkube.api.tables import table
from pocketkube.api.wire import Answer, reply
from pocketkube.errors import NotFound
from pocketkube.storage import Object, Store
from pocketkube.usage import Amount, Usage

GROUP = "metrics.k8s.io"


def metrics(store: Store, runtime: Runtime, served: Table, call: Call) -> Answer:
    """GET of one or all; what has no metrics (yet) is not found. Raises NotFound, BadRequest."""
    about = served.find("", "v1", call.resource.plural)
    assert about is not None
    found: list[Object] = []
    for obj in reads.items(store, dataclasses.replace(call, resource=about)):
        usage = runtime.usage(obj)
        if usage is not None:
            found.append(_shown(call.resource, obj, usage))
    if call.name is not None and not found:
        about_it = {"name": call.name, "group": GROUP, "kind": call.resource.plural}
        raise NotFound(f'{call.resource.kind.lower()}.{GROUP} "{call.name}" not found', about_it)
    if call.wants_table:
        shown = table(call.resource, found, store.version, call.query.get("includeObject"))
        return reply(shown, content_type=reads.TABLE)
    if call.name is not None:
        return reply(found[0])
    return reply({"kind": f"{call.resource.kind}List", "apiVersion": call.resource.api_version, "metadata": {},
                  "items": found})  # fmt: skip


def _shown(resource: Resource, obj: Object, usage: Usage) -> Object:
    meta = {k: v for k, v in obj["metadata"].items() if k in ("name", "namespace", "labels")}
    at = datetime.datetime.fromtimestamp(usage.at_s, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    made: Object = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": {**meta, "creationTimestamp": at},
                    "timestamp": at, "window": f"{usage.window_s:.3f}s"}  # fmt: skip
    if resource.kind == "NodeMetrics":
        return {**made, "usage": _amount(usage.total)}
    return {**made, "containers": [{"name": name, "usage": _amount(a)} for name, a in sorted(usage.containers.items())]}


def _amount(amount: Amount) -> dict[str, str]:
    return {"cpu": f"{round(amount.cpu * 1e9)}n", "memory": f"{amount.memory // 1024}Ki"}
