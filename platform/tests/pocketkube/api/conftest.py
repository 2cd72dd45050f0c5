"""One API server for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pocketkube.api.cluster import Cluster, cluster


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("api")) as running:
        yield running
