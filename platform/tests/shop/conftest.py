"""One shop for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shop.town import Customer, Town, keys


@pytest.fixture(scope="session")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """The running shop."""
    made = Town(tmp_path_factory.mktemp("town"))
    yield made
    made.close()


@pytest.fixture
def customer(town: Town) -> Iterator[Customer]:
    """A customer at its storefront."""
    made = Customer(town)
    yield made
    made.client.close()


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """An idempotency key that no other test uses."""
    return next(keys("k"))
