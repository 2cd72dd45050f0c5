"""The ledger as a stranger reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from aftershock.folder import SCHEMAS
from tests.shop.town import HEADERS, ONCE, Customer, Town, until


def get(town: Town, headers: dict[str, str] | None = None, **query: Any) -> Any:
    """One page."""
    return ONCE.get(town.main["orders"].url + "/ledger", params=query, headers=HEADERS if headers is None else headers)


def test_only_the_operator_reads_it(town: Town) -> None:
    for headers in (
        {},
        {"X-Operator-Token": ""},
        {"X-Operator-Token": "wrong"},
        {"Authorization": HEADERS["X-Operator-Token"]},
    ):
        answer = get(town, headers)
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert get(town).headers["content-type"] == "application/x-ndjson"


@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": 5001}, {"limit": "x"}, {"cursor": "order:1"}, {"cursor": "stock:1:"}, {"cursor": "order:x:"},
     {"cursor": "order:1:'; DROP TABLE orders"}, {"since_us": -1}, {"since_us": 10**20}],
)  # fmt: skip
def test_odd_pages_are_refused(town: Town, query: dict[str, Any]) -> None:
    assert get(town, **query).status_code == 422


def test_pages_of_any_size_give_the_same_lines_once(town: Town, customer: Customer, key: str) -> None:
    for n in range(5):
        assert customer.checkout(customer.cart(), f"{key}-{n}").status_code == 201
    until(lambda: not town.sql("SELECT 1 FROM orders WHERE state IN ('pending', 'paid')"), "no order is left open")
    whole = [line for line in town.ledger(limit=5000) if line["kind"] != "end"]
    kinds = [line["kind"] for line in whole]
    assert kinds == sorted(kinds, key=["order", "payment", "shipment", "stock"].index)
    assert kinds.count("stock") >= 20
    counts = [town.sql(f"SELECT count(*) FROM {table}")[0][0] for table in ("orders", "payment", "shipment")]
    for limit in (1, 2, 3, counts[0], counts[0] + counts[1], sum(counts), sum(counts) + 1):
        paged = town.ledger(limit=limit)
        assert [line for line in paged if line["kind"] != "end"] == whole, limit
        assert paged[-1]["next"] is None


def test_lines_satisfy_the_contract(town: Town, customer: Customer, key: str) -> None:
    assert customer.checkout(customer.cart(), key).status_code == 201
    schema = Draft202012Validator(json.loads((SCHEMAS / "ledger.schema.json").read_text()))
    for line in town.ledger():
        schema.validate(line)


def test_since_keeps_orders_whole_and_shows_money_without_an_order(town: Town, customer: Customer, key: str) -> None:
    early = customer.checkout(customer.cart(), f"{key}-1").json()["order_id"]
    late = customer.checkout(customer.cart(), f"{key}-2").json()["order_id"]
    ids = [early, late]
    until(lambda: len(town.sql("SELECT 1 FROM shipment WHERE order_id::text = ANY(%s)", ids)) == 2, "both are shipped")
    (since,) = town.sql("SELECT created_us FROM orders WHERE id = %s", late)[0]
    orphan = "00000000-0000-4000-8000-000000000001"
    body = {"order_id": orphan, "amount_cents": 5, "idempotency_key": orphan}
    assert ONCE.post(town.main["payments"].url + "/charges", json=body).status_code == 201
    try:
        lines = town.ledger(since_us=since)
        assert {line["id"] for line in lines if line["kind"] == "order"} == {late}
        assert {line["order_id"] for line in lines if line["kind"] == "payment"} == {late, orphan}
        assert {line["order_id"] for line in lines if line["kind"] == "shipment"} == {late}, (
            "not that of the earlier order"
        )
        assert sum(line["kind"] == "stock" for line in lines) >= 20
    finally:
        town.sql("DELETE FROM payment WHERE order_id = %s", orphan)
