"""selfsubjectaccessreviews: there is one user, who may do whatever is served."""

from __future__ import annotations

from typing import Any

from pocketkube.api.call import Call
from pocketkube.api.resources import Table
from pocketkube.api.wire import Answer, reply
from pocketkube.errors import BadRequest


def review(table: Table, call: Call) -> Answer:
    """POST of a SelfSubjectAccessReview. Raises BadRequest."""
    body = call.document()
    spec = body.get("spec") if isinstance(body, dict) else None
    asked = (spec or {}).get("resourceAttributes")
    if asked is None and (spec or {}).get("nonResourceAttributes") is None:
        raise BadRequest("spec: exactly one of resourceAttributes or nonResourceAttributes must be specified")
    allowed, why = (True, "") if asked is None else _allowed(table, asked)
    status = {"allowed": allowed, **({"reason": why} if why else {})}
    return reply({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}, "spec": spec,
                  "status": status}, 201)  # fmt: skip


def _allowed(table: Table, asked: dict[str, Any]) -> tuple[bool, str]:
    group, plural, verb = asked.get("group") or "", asked.get("resource") or "", asked.get("verb") or ""
    plural, _, within = plural.partition("/")
    sub = asked.get("subresource") or within
    if plural == "*" or group == "*":
        return True, ""
    found = next((r for r in table.resources if r.group == group and r.plural == plural), None)
    if found is None:
        return False, f"pocketkube does not serve {plural}.{group}" if group else f"pocketkube does not serve {plural}"
    served = found.subresources.get(sub, ()) if sub and sub != "*" else found.verbs
    if verb == "*" or verb in served:
        return True, ""
    return False, f"pocketkube does not {verb} {found.qualified}{'/' + sub if sub else ''}"
