"""Bad input gets a 4xx with a problem+json body, and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.shop.town import Customer, Town

Ask = Callable[[httpx.Client, str], httpx.Response]  # the client and a cart that exists
KEY = {"Idempotency-Key": "key-of-bad-input"}
GOOD = {"customer": "ada"}


def carts(body: Any) -> Ask:
    """POST /carts with a JSON body."""
    return lambda client, _: client.post("/carts", json=body)


def item(**changes: Any) -> Ask:
    """POST /carts with one line that is wrong somewhere."""
    return carts({"items": [{"sku": "sku-001", "quantity": 1} | changes]})


def raw(content: bytes, **headers: str) -> Ask:
    """POST /carts with these bytes."""
    told = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return lambda client, _: client.post("/carts", content=content, headers=told)


def checkout(headers: dict[str, str | bytes] | None = None, **changes: Any) -> Ask:
    """POST /checkout with something wrong."""

    def ask(client: httpx.Client, cart_id: str) -> httpx.Response:
        body = {"cart_id": cart_id, "customer": "ada"} | changes
        encoded = [
            (k.encode(), v if isinstance(v, bytes) else v.encode())
            for k, v in (KEY if headers is None else headers).items()
        ]
        kept = {k: v for k, v in body.items() if v is not ...}
        return client.post(
            "/checkout", content=json.dumps(kept), headers=[(b"content-type", b"application/json"), *encoded]
        )

    return ask


def call(method: str, path: str, **options: Any) -> Ask:
    """Any request; CART in the path is a cart that exists."""
    return lambda client, cart_id: client.request(method, path.replace("CART", cart_id), **options)


BAD: dict[str, tuple[Ask, set[int]]] = {
    "no items": (carts({"items": []}), {422}),
    "items missing": (carts({}), {422}),
    "items null": (carts({"items": None}), {422}),
    "body a list": (carts([]), {422}),
    "body a string": (carts("x"), {422}),
    "body null": (carts(None), {422}),
    "unknown key": (carts({"items": [{"sku": "sku-001", "quantity": 1}], "price_cents": 1}), {422}),
    "51 lines": (carts({"items": [{"sku": "sku-001", "quantity": 1}] * 51}), {422}),
    "price smuggled": (item(price_cents=0), {422}),
    "quantity zero": (item(quantity=0), {422}),
    "quantity negative": (item(quantity=-1), {422}),
    "quantity huge": (item(quantity=10**30), {422}),
    "quantity over": (item(quantity=1001), {422}),
    "quantity fraction": (item(quantity=1.5), {422}),
    "quantity text": (item(quantity="1"), {422}),
    "quantity true": (item(quantity=True), {422}),
    "quantity null": (item(quantity=None), {422}),
    "sku number": (item(sku=1), {422}),
    "sku unknown": (item(sku="sku-999"), {404}),
    "sku empty": (item(sku=""), {422}),
    "sku NUL": (item(sku="sku\x00001"), {422}),
    "sku newline": (item(sku="sku-001\n"), {422}),
    "sku injected": (item(sku="' OR 1=1 --"), {422}),
    "sku comma": (item(sku="sku-001,sku-002"), {422}),
    "sku long": (item(sku="x" * 10_000), {422}),
    "sku surrogate": (raw(b'{"items": [{"sku": "\\ud800", "quantity": 1}]}'), {400, 422}),
    "not JSON": (raw(b"{"), {400, 422}),
    "not UTF-8": (raw(b'{"items": [{"sku": "\xff", "quantity": 1}]}'), {400, 422}),
    "NaN": (raw(b'{"items": [{"sku": "sku-001", "quantity": NaN}]}'), {400, 422}),
    "infinite": (raw(b'{"items": [{"sku": "sku-001", "quantity": 1e999}]}'), {400, 422}),
    "many digits": (raw(b'{"items": [{"sku": "sku-001", "quantity": ' + b"9" * 5000 + b"}]}"), {400, 422}),
    "deep": (raw(b"[" * 30_000), {400, 422}),
    "too large": (raw(b'{"items": "' + b"x" * 70_000 + b'"}'), {413}),
    "empty": (raw(b""), {422}),
    "wrong type": (raw(b'{"items": [{"sku": "sku-001", "quantity": 1}]}', content_type="text/plain"), {415, 422}),
    "a form": (raw(b"items=1", content_type="application/x-www-form-urlencoded"), {415, 422}),
    "PUT negative": (call("PUT", "/carts/CART/items/sku-001", json={"quantity": -1}), {422}),
    "PUT unknown sku": (call("PUT", "/carts/CART/items/sku-999", json={"quantity": 1}), {404}),
    "PUT unknown cart": (call("PUT", f"/carts/{uuid4()}/items/sku-001", json={"quantity": 1}), {404}),
    "PUT bad cart": (call("PUT", "/carts/1/items/sku-001", json={"quantity": 1}), {422}),
    "PUT the last line": (call("PUT", "/carts/CART/items/sku-001", json={"quantity": 0}), {409}),
    "cart unknown": (call("GET", f"/carts/{uuid4()}"), {404}),
    "cart bad": (call("GET", "/carts/%00"), {422}),
    "order unknown": (call("GET", f"/orders/{uuid4()}"), {404}),
    "order bad": (call("GET", "/orders/1"), {422}),
    "product unknown": (call("GET", "/products/sku-999"), {404}),
    "product bad": (call("GET", "/products/%27"), {422}),
    "no such path": (call("GET", "/admin"), {404}),
    "no such method": (call("DELETE", "/carts/CART"), {405}),
    "ledger at the storefront": (call("GET", "/ledger"), {404}),
    "no key": (checkout({}), {422}),
    "key short": (checkout({"Idempotency-Key": "short"}), {422}),
    "key long": (checkout({"Idempotency-Key": "k" * 65}), {422}),
    "key odd": (checkout({"Idempotency-Key": "key; DROP TABLE"}), {422}),
    "key bytes": (checkout({"Idempotency-Key": b"key-\xff\xfe-key"}), {422}),
    "checkout unknown cart": (checkout(cart_id=str(uuid4())), {404}),
    "checkout bad cart": (checkout(cart_id="1"), {422}),
    "checkout no cart": (checkout(cart_id=...), {422}),
    "checkout number": (checkout(cart_id=1), {422}),
    "customer missing": (checkout(customer=...), {422}),
    "customer empty": (checkout(customer=""), {422}),
    "customer NUL": (checkout(customer="a\x00b"), {422}),
    "customer long": (checkout(customer="x" * 101), {422}),
    "customer object": (checkout(customer={"a": 1}), {422}),
    "total smuggled": (checkout(total_cents=1), {422}),
}  # fmt: skip


def everything(town: Town) -> list[tuple[Any, ...]]:
    """All that a request could change."""
    return town.sql("""SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM cart), (SELECT count(*) FROM payment),
      (SELECT count(*) FROM shipment), (SELECT count(*) FROM outbox), (SELECT sum(available) FROM stock),
      (SELECT string_agg(items::text, ',' ORDER BY id) FROM cart)""")


def test_bad_input_is_refused_in_words_and_changes_nothing(town: Town, customer: Customer) -> None:
    cart_id = customer.cart()
    before = everything(town)
    wrong = []
    for name, (ask, expected) in BAD.items():
        answer = ask(customer.client, cart_id)
        kind = answer.headers.get("content-type", "")
        if answer.status_code not in expected or kind != "application/problem+json":
            wrong.append((name, answer.status_code, kind, answer.text[:200]))
            continue
        body = answer.json()
        if body["status"] != answer.status_code or not body["title"]:
            wrong.append((name, answer.status_code, kind, answer.text[:200]))
    assert wrong == []
    assert everything(town) == before


@pytest.mark.parametrize(
    ("role", "method", "path", "body"),
    [
        ("payments", "POST", "/charges", {"order_id": str(uuid4()), "amount_cents": -1, "idempotency_key": "k" * 8}),
        ("payments", "POST", "/charges", {"order_id": "1", "amount_cents": 1, "idempotency_key": "k" * 8}),
        ("payments", "POST", "/charges", {"order_id": str(uuid4()), "amount_cents": 1e400, "idempotency_key": "k" * 8}),
        ("payments", "POST", "/charges/kkkkkkkk/void", None),
        ("payments", "GET", "/charges/k", None),
        ("shipping", "POST", "/shipments", {"order_id": None}),
        ("catalog", "GET", "/products?skus=%00", None),
        ("orders", "POST", "/checkout", {}),
        ("cart", "POST", "/carts", {"items": "sku-001"}),
    ],
)
def test_the_services_behind_refuse_too(town: Town, role: str, method: str, path: str, body: Any) -> None:
    before = everything(town)
    text = json.dumps(body).encode() if body is not None else b""
    answer = httpx.request(
        method, town.main[role].url + path, content=text, headers={"content-type": "application/json"}
    )
    if "skus" in path:
        assert (answer.status_code, answer.json()) == (200, {"products": []})
    else:
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert everything(town) == before
