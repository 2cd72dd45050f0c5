"""The environment, read once; a setting without a default raises and names itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from psycopg.conninfo import make_conninfo

from shop import weakness
from shop.errors import MissingSetting

ROLES = ("storefront", "catalog", "cart", "orders", "payments", "shipping")
PEERS = {
    "storefront": ("catalog", "cart", "orders"),
    "catalog": (),
    "cart": ("catalog",),
    "orders": ("cart", "payments", "shipping"),
    "payments": (),
    "shipping": (),
}
WITHOUT_DATABASE = frozenset({"storefront"})


@dataclass(frozen=True)
class Settings:
    """All that a service is told from outside."""

    role: str
    host: str
    port: int
    pod: str
    node: str
    peers: Mapping[str, str]  # service name to base URL
    database: str | None = field(repr=False)  # libpq connection string
    operator_token: str | None = field(repr=False)
    weaknesses: frozenset[str] = frozenset()
    drain_s: float = 1.0
    pool_max: int = 4
    otlp_endpoint: str | None = None


def read(role: str, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings of one role. Raises MissingSetting."""

    def need(name: str) -> str:
        value = environment.get(name, "")
        if not value:
            raise MissingSetting(f"{name} is not set; the service {role} needs it")
        return value

    def number(name: str, default: str, low: float, high: float) -> float:
        raw = environment.get(name) or default
        try:
            value = float(raw)
        except ValueError:
            raise MissingSetting(f"{name}={raw!r} is not a number") from None
        if not low <= value <= high:
            raise MissingSetting(f"{name}={raw!r} is not within {low:g} and {high:g}")
        return value

    if role not in ROLES:
        raise MissingSetting(f"{role!r} is not one of {', '.join(ROLES)}")
    chosen = weakness.parse(environment.get("SHOP_WEAKNESSES", ""))
    return Settings(
        role=role,
        host=environment.get("SHOP_LISTEN_HOST") or "127.0.0.1",
        port=int(number("SHOP_LISTEN_PORT", "7070", 0, 65535)),
        pod=environment.get("POD_NAME") or role,
        node=environment.get("NODE_NAME") or "local",
        peers={peer: need(f"SHOP_{peer.upper()}_URL").rstrip("/") for peer in PEERS[role]},
        database=None if role in WITHOUT_DATABASE else _database(environment, need),
        operator_token=need("SHOP_OPERATOR_TOKEN") if role == "orders" else None,
        weaknesses=chosen,
        drain_s=0.0 if "no-graceful-shutdown" in chosen else number("SHOP_DRAIN_S", "1.0", 0, 60),
        pool_max=int(number("SHOP_DATABASE_POOL_MAX", "4", 1, 50)),
        otlp_endpoint=environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None,
    )


def _database(environment: Mapping[str, str], need: Callable[[str], str]) -> str:
    url = environment.get("SHOP_DATABASE_URL")
    if url:
        return url
    return make_conninfo(
        host=need("SHOP_DATABASE_HOST"),
        port=need("SHOP_DATABASE_PORT"),
        dbname=need("SHOP_DATABASE_NAME"),
        user=need("SHOP_DATABASE_USER"),
        password=need("SHOP_DATABASE_PASSWORD"),
    )
