"""PersistentVolumeClaims: each is bound at once; the kubelet gives it a directory that outlives its pods."""

from __future__ import annotations

from collections.abc import Iterable

from pocketkube.controllers.reconciler import Context, Key, key_of, keys
from pocketkube.storage import Event


class VolumeClaimController:
    """Binds claims to a volume of their own, as a provisioner would."""

    name = "persistentvolume-controller"

    def __init__(self, context: Context) -> None:
        self._store = context.store

    def touched(self, event: Event) -> Iterable[Key]:
        """The claim itself."""
        if event.resource == "persistentvolumeclaims" and event.type != "DELETED":
            yield key_of(event)

    def known(self) -> Iterable[Key]:
        """All claims."""
        return keys(self._store, "persistentvolumeclaims")

    def reconcile(self, key: Key) -> float | None:
        """Bind one claim."""
        claim = self._store.find("persistentvolumeclaims", *key)
        if claim is None or (claim.get("status") or {}).get("phase") == "Bound":
            return None
        spec = claim["spec"]
        volume = spec.get("volumeName") or f"pvc-{claim['metadata']['uid']}"
        capacity = {"storage": ((spec.get("resources") or {}).get("requests") or {}).get("storage", "0")}
        status = {"phase": "Bound", "accessModes": spec.get("accessModes") or ["ReadWriteOnce"], "capacity": capacity}
        bound = self._store.mutate("persistentvolumeclaims", *key, lambda c: c.update(
            spec={**c["spec"], "volumeName": volume}, status=status))  # fmt: skip
        self._store.record_event(
            bound, "ProvisioningSucceeded", f"Successfully provisioned volume {volume}", source=self.name
        )
        return None
