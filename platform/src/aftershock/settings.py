"""The process environment, read once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Where aftershock keeps state and finds its servers."""

    state_home: Path  # $XDG_STATE_HOME
    kubeconfig: str | None  # $KUBECONFIG, as given
    graph_url: str | None  # $AFTERSHOCK_GRAPH: a path or neo4j://HOST; None means <reports>/graph.lbug
    no_color: bool
    pocket: str | None = None  # $AFTERSHOCK_POCKET: name of the pocketkube cluster that `pocket` means
    node_power: str | None = None  # $AFTERSHOCK_NODE_POWER: a program called as PROGRAM off NODE and PROGRAM on NODE
    ollama_host: str | None = None  # $OLLAMA_HOST, as given; None means Ollama's port on loopback
    runner_image: str = (
        "aftershock/runner:dev"  # $AFTERSHOCK_RUNNER_IMAGE: what load and receiver of spans run in inside a cluster
    )
    neo4j_user: str | None = None  # $NEO4J_USER
    neo4j_password: str | None = field(default=None, repr=False)  # $NEO4J_PASSWORD
    neo4j_password_file: str | None = None  # $NEO4J_PASSWORD_FILE: a file that holds it, for its owner's eyes alone
    neo4j_database: str | None = None  # $NEO4J_DATABASE; None means the user's home database

    @property
    def state_folder(self) -> Path:
        """Folder of the undo journal; created on demand with mode 0700."""
        return self.state_home / "aftershock"

    @property
    def pocketkube_folder(self) -> Path:
        """Folder in which pocketkube keeps one folder per cluster of this user."""
        return self.state_home / "pocketkube"


def read(environment: Mapping[str, str]) -> Settings:
    """Settings from an environment mapping."""
    home = environment.get("XDG_STATE_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".local/state")
    return Settings(
        state_home=Path(home),
        kubeconfig=environment.get("KUBECONFIG") or None,
        graph_url=environment.get("AFTERSHOCK_GRAPH") or None,
        no_color=bool(environment.get("NO_COLOR")),
        pocket=environment.get("AFTERSHOCK_POCKET") or None,
        node_power=environment.get("AFTERSHOCK_NODE_POWER") or None,
        ollama_host=environment.get("OLLAMA_HOST") or None,
        neo4j_user=environment.get("NEO4J_USER") or None,
        neo4j_password=environment.get("NEO4J_PASSWORD") or None,
        neo4j_password_file=environment.get("NEO4J_PASSWORD_FILE") or None,
        neo4j_database=environment.get("NEO4J_DATABASE") or None,
        runner_image=environment.get("AFTERSHOCK_RUNNER_IMAGE") or "aftershock/runner:dev",
    )


@cache
def settings() -> Settings:
    """Settings of this process."""
    return read(os.environ)
