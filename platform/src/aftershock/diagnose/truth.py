"""What was really broken in a run, read only after the ranking, to score it.

`rank` and `blind` never import this module; a test keeps it so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from aftershock.diagnose.case import Diagnosis
from aftershock.errors import FolderError
from aftershock.folder import RunFolder


def culprits(folder: RunFolder) -> frozenset[str]:
    """Entities that count as right for what was injected: the nodes that were aimed at, else the services of the targets.

    For a fault on the way between two services the far one counts too. Empty where nothing was injected.
    """
    if not folder.has("evidence.json"):
        return frozenset()
    found: set[str] = set()
    for fault in folder.read("evidence.json")["faults"]:
        nodes = {t["name"] for t in fault["targets"] if t["kind"] == "Node"}
        found |= nodes or {_entity(t) for t in fault["targets"]}
        if not nodes and str(fault["action"]).startswith("network-"):
            found |= _far(folder, fault["activity"])
    return frozenset(found)


def rank_of(diagnosis: Diagnosis, right: frozenset[str]) -> dict[str, Any] | None:
    """`truth` of diagnosis.json: the best ranked of the right entities, from 1; rank None where none was ranked."""
    for number, ranked in enumerate(diagnosis.ranked, 1):
        if ranked.entity in right:
            return {"entity": ranked.entity, "rank": number}
    return {"entity": min(right), "rank": None} if right else None


def _entity(target: Mapping[str, Any]) -> str:
    return str(target["service"] or target["name"])


def _far(folder: RunFolder, activity: str) -> set[str]:
    """The service at the other end of a network fault, from the experiment's own arguments."""
    if not folder.has("experiment.yaml"):
        return set()
    try:
        document = yaml.safe_load(folder.read_text("experiment.yaml"))
        named = [a for a in document.get("method") or [] if a.get("name") == activity]
        selectors = [str((a["provider"].get("arguments") or {}).get("target_selector") or "") for a in named]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise FolderError(f"experiment.yaml: cannot be read: {error}") from None
    pairs = [part.split("=", 1) for selector in selectors for part in selector.split(",") if "=" in part]
    return {value.lstrip("=").strip() for key, value in pairs if key.strip() == "app"}
