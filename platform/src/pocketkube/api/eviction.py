"""pods/eviction: a delete that asks the disruption budgets first. Source: pkg/registry/core/pod/storage/eviction.go."""

from __future__ import annotations

from pocketkube import selectors
from pocketkube.api.call import Call
from pocketkube.api.wire import Answer, reply
from pocketkube.api.writes import DeleteOptions, Writer
from pocketkube.errors import ApiError, BadRequest, Forbidden, TooManyRequests
from pocketkube.storage import Object, Store, now

REFUSED = "Cannot evict pod as it would violate the pod's disruption budget."
DISRUPTED_MAX = 2000


def evict(writer: Writer, call: Call) -> Answer:
    """POST of an Eviction. Raises TooManyRequests when a budget says no."""
    store = writer.store
    body = call.document()
    if not isinstance(body, dict) or body.get("kind", "Eviction") != "Eviction":
        raise BadRequest("the body is not an Eviction")
    named = (body.get("metadata") or {}).get("name")
    if named and named != call.name:
        raise BadRequest(f"name in URL does not match name in Eviction object: {named}")
    options = DeleteOptions.parse(body.get("deleteOptions") or {}, call)
    pod = store.get("pods", call.namespace, call.name or "")
    options.check(call.resource, pod)
    budget = _budget(store, pod)
    if budget is not None:
        _spend(store, budget, pod, options.dry_run)
    if not options.dry_run:
        _mark(store, pod)
    writer.remove(
        call.resource,
        call.namespace,
        call.name or "",
        DeleteOptions(options.grace_s, options.policy, dry_run=options.dry_run),
    )
    return reply({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)


def _budget(store: Store, pod: Object) -> Object | None:
    """The budget that must be asked; None if the eviction costs nothing."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") in ("Succeeded", "Failed", "Pending"):
        return None
    found = [
        b for b in store.list("poddisruptionbudgets", pod["metadata"].get("namespace"))
        if selectors.of((b.get("spec") or {}).get("selector"))(pod)
    ]  # fmt: skip
    if not found:
        return None
    if len(found) > 1:
        raise ApiError(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        )
    budget = found[0]
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or [])
    if ready:
        return budget
    counted = budget.get("status") or {}
    healthy = counted.get("currentHealthy", 0) >= counted.get("desiredHealthy", 0) > 0
    always = (budget.get("spec") or {}).get("unhealthyPodEvictionPolicy") == "AlwaysAllow"
    return None if always or healthy else budget


def _spend(store: Store, budget: Object, pod: Object, dry_run: bool) -> None:
    name, status = budget["metadata"]["name"], budget.get("status") or {}
    allowed = status.get("disruptionsAllowed", 0)
    if status.get("observedGeneration", 0) < budget["metadata"].get("generation", 0):
        raise _refusal(f"The disruption budget {name} is still being processed by the server.", 10)
    if allowed < 0:
        raise Forbidden(f'poddisruptionbudgets.policy "{name}" is forbidden: pdb disruptions allowed is negative')
    if len(status.get("disruptedPods") or {}) > DISRUPTED_MAX:
        raise Forbidden(
            f"poddisruptionbudgets.policy {name!r} is forbidden: DisruptedPods map too big - "
            "too many evictions not confirmed by PDB controller"
        )
    if allowed == 0:
        raise _refusal(f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods and has "
                       f"{status.get('currentHealthy', 0)} currently", None)  # fmt: skip
    if dry_run:
        return

    def change(obj: Object) -> None:
        spent = obj["status"]
        spent["disruptionsAllowed"] = allowed - 1
        spent["disruptedPods"] = {**(spent.get("disruptedPods") or {}), pod["metadata"]["name"]: now()}
        for condition in spent.get("conditions") or []:
            if allowed == 1 and condition["type"] == "DisruptionAllowed" and condition["status"] != "False":
                condition.update(status="False", reason="InsufficientPods", lastTransitionTime=now())

    store.mutate("poddisruptionbudgets", budget["metadata"]["namespace"], name, change)


def _refusal(why: str, retry_s: int | None) -> TooManyRequests:
    details = {"causes": [{"reason": "DisruptionBudget", "message": why}]}
    return TooManyRequests(REFUSED, {**details, "retryAfterSeconds": retry_s} if retry_s else details)


def _mark(store: Store, pod: Object) -> None:
    def change(obj: Object) -> None:
        conditions = [
            c for c in obj.setdefault("status", {}).get("conditions") or [] if c["type"] != "DisruptionTarget"
        ]
        obj["status"]["conditions"] = [*conditions, {
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastTransitionTime": now()}]  # fmt: skip

    store.mutate("pods", pod["metadata"].get("namespace"), pod["metadata"]["name"], change)
