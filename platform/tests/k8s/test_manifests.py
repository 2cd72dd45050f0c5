"""The manifests as the cluster, the schemas and a scanner see them.

$KUBECONFORM and $TRIVY name those two programs; without them only the cluster is asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from aftershock.cluster import Cluster

from .conftest import PROJECT
from .kubectl import guest, kubectl

FOLDERS = ["apps/k3s", "apps/nodeport", "apps/volume", "rbac"]
RENDERED = [*FOLDERS, "apps/base", "apps/pocket"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_api_server_takes_them_whole(cluster_context: str, folder: str) -> None:
    rendered = kubectl(cluster_context, "kustomize", str(PROJECT / "gitops" / folder))
    said = kubectl(
        cluster_context, "apply", "--dry-run=server", "--validate=strict", "-k", str(PROJECT / "gitops" / folder)
    )
    objects = [o for o in yaml.safe_load_all(rendered) if o]
    assert objects
    assert len(said.splitlines()) == len(objects)
    assert "Warning" not in said


def test_what_runs_is_what_is_written(cluster_context: str) -> None:
    """Nothing in the files is changed by the API server's defaults, so that GitOps sees no drift."""
    folder = next(f for f in ("apps/nodeport", "apps/k3s") if f.endswith(overlay(cluster_context)))
    rendered = kubectl(cluster_context, "kustomize", str(PROJECT / "gitops" / folder))
    lasting = [o for o in yaml.safe_load_all(rendered) if o and o["kind"] != "Job"]  # a finished Job is removed
    done = kubectl(cluster_context, "diff", "-f", "-", stdin=yaml.safe_dump_all(lasting))
    assert done == ""


def overlay(context: str) -> str:
    kind = kubectl(context, "-n", "shop", "get", "service", "storefront", "-o", "jsonpath={.spec.type}")
    return "nodeport" if kind == "NodePort" else "k3s"


def tool(variable: str) -> str:
    found = os.environ.get(variable)
    if not found:
        pytest.skip(f"{variable} names no program")
    assert shutil.which(found), f"{variable}={found} is no program"
    return found


@pytest.mark.parametrize("folder", RENDERED)
def test_the_schemas_know_every_field(cluster_context: str, folder: str) -> None:
    rendered = kubectl(cluster_context, "kustomize", str(PROJECT / "gitops" / folder))
    done = subprocess.run([tool("KUBECONFORM"), "-strict", "-summary"], input=rendered, capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Invalid: 0, Errors: 0, Skipped: 0" in done.stdout


def test_the_schemas_say_no(cluster_context: str) -> None:
    wrong = kubectl(cluster_context, "kustomize", str(PROJECT / "gitops/apps/base")).replace(
        "replicas: 2", "replica: 2"
    )
    done = subprocess.run(
        [tool("KUBECONFORM"), "-strict"], input=wrong, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "replica" in done.stdout


def test_a_scanner_finds_nothing_high(cluster_context: str, tmp_path: Path) -> None:
    for file in ("Dockerfile", "postgres.Dockerfile", "runner.Dockerfile"):
        shutil.copy(PROJECT / "platform" / file, tmp_path / file)
    for folder in RENDERED:
        rendered = kubectl(cluster_context, "kustomize", str(PROJECT / "gitops" / folder))
        (tmp_path / f"{folder.replace('/', '-')}.yaml").write_text(rendered)
    assert scan(tmp_path) == 0


def test_the_scanner_says_no(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:3.12-slim-bookworm\nRUN apt-get update\nUSER root\n")
    assert scan(tmp_path) == 1


def scan(folder: Path) -> int:
    done = subprocess.run(
        [tool("TRIVY"), "config", "--skip-check-update", "--severity", "HIGH,CRITICAL", "--exit-code", "1",
         "--ignorefile", str(PROJECT / "gitops/.trivyignore"), str(folder)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    print(done.stdout, done.stderr[-2000:])
    return done.returncode


def test_the_namespace_lets_no_careless_pod_in(cluster_context: str) -> None:
    careless = guest("test-careless", "shop", {}, ["true"])
    careless["spec"]["securityContext"] = {}
    said = kubectl(cluster_context, "create", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(careless), code=1)
    assert 'violates PodSecurity "restricted:latest"' in said


@pytest.mark.parametrize("app", ["storefront", "catalog", "cart", "orders", "payments", "shipping"])
def test_new_pods_are_spread_over_two_nodes(cluster: Cluster, app: str) -> None:
    bodies = {n["metadata"]["name"] for n in cluster.list("/api/v1/nodes", label_selector="aftershock.dev/role=body")}
    if len(bodies) < 2:
        pytest.skip("this cluster has no two nodes labelled aftershock.dev/role=body")
    pods = cluster.list(
        "/api/v1/namespaces/shop/pods", label_selector=f"app={app}", field_selector="status.phase=Running"
    )
    assert len({p["spec"]["nodeName"] for p in pods}) > 1


def test_the_database_is_on_memory(cluster: Cluster) -> None:
    memory = {n["metadata"]["name"] for n in cluster.list("/api/v1/nodes", label_selector="aftershock.dev/role=memory")}
    if not memory:
        pytest.skip("this cluster has no node labelled aftershock.dev/role=memory")
    (pod,) = cluster.list("/api/v1/namespaces/shop/pods", label_selector="app=postgres")
    assert pod["spec"]["nodeName"] in memory
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert claims == ["data-postgres-0"]
