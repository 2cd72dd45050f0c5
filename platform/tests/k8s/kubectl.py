"""The real kubectl, which the development set brings, on the cluster of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KUBECTL = Path(sys.executable).with_name("kubectl")
SHOP = "aftershock/shop:dev"


def kubectl(context: str, *arguments: str, stdin: str | None = None, code: int = 0, timeout_s: float = 60) -> str:
    """Run it; its output. Fails the test unless it ends with `code`."""
    done = subprocess.run(
        [str(KUBECTL), "--context", context, *arguments], input=stdin, capture_output=True, text=True, timeout=timeout_s,
        check=False,
    )  # fmt: skip
    assert done.returncode == code, f"kubectl {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def pod_of(context: str, app: str) -> str:
    """The name of one running pod of a service."""
    return kubectl(context, "-n", "shop", "get", "pods", "-l", f"app={app}", "--field-selector=status.phase=Running",
                   "-o", "jsonpath={.items[0].metadata.name}")  # fmt: skip


def guest(
    name: str, namespace: str, labels: Mapping[str, str], command: list[str], image: str = SHOP
) -> dict[str, Any]:
    """A pod of the test's own that the shop's namespace lets in."""
    safe = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "guest", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
                            "securityContext": safe}],
        },
    }  # fmt: skip


def apply(context: str, *objects: Mapping[str, Any]) -> None:
    """Create or replace objects."""
    kubectl(context, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
