"""A stored run and its facts; the golden run's experiment files are data here, and no experiments to run."""

from __future__ import annotations

import pytest

from aftershock import facts
from aftershock.facts import Fact
from aftershock.folder import RunFolder
from tests.aftershock import runs

collect_ignore_glob = ["golden/*"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return runs.write(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def ledger(folder: RunFolder) -> list[Fact]:
    return facts.of(folder)
