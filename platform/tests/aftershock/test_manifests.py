"""Manifests: resources in order, and a no by name for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from aftershock.errors import BadInput
from aftershock.manifests import render

PROJECT = Path(__file__).parents[3]


def kustomization(folder: Path, text: str, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(text)
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)
    return folder


def test_the_shop_renders_whole() -> None:
    objects = render(PROJECT / "gitops/apps/pocket")
    names = {(o["kind"], o["metadata"]["name"]) for o in objects}
    assert ("Namespace", "shop") in names
    assert ("StatefulSet", "postgres") in names
    assert sum(kind == "Deployment" for kind, _ in names) == 6
    kinds = [o["kind"] for o in objects]
    assert kinds[0] == "Namespace"
    assert max(n for n, kind in enumerate(kinds) if kind == "Service") < kinds.index("Deployment")


CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: n}\n"


@pytest.mark.parametrize(
    ("text", "files", "says"),
    [
        ("resources: [a.yaml]\nimages: []\n", {"a": CONFIG}, "images is not understood"),
        ("resources: [b.yaml]\n", {}, "b.yaml: no such file"),
        ("resources: [a.yaml]\n", {"a": "just: text\n"}, "no Kubernetes object"),
        ("resources: [a.yaml]\n", {"a": "a: [\n"}, "cannot be read"),
        ("resources: [a.yaml, a.yaml]\n", {"a": CONFIG}, "given twice"),
        ("- a\n", {}, "no mapping"),
        ("resources: ['.']\n", {}, "includes itself"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, files: dict[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        render(kustomization(tmp_path, text, **files))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        render(tmp_path / "nowhere")
