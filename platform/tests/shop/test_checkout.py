"""Order, payment and shipping: exactly once, whoever dies in between."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from tests.shop.proxy import Proxy
from tests.shop.town import ONCE, Customer, Process, Town, until


def lines_of(town: Town, order_id: str) -> dict[str, list[dict[str, Any]]]:
    """The order, its payments and its shipments, as the ledger has them."""
    found: dict[str, list[dict[str, Any]]] = {"order": [], "payment": [], "shipment": []}
    for line in town.ledger():
        if line.get("id") == order_id or line.get("order_id") == order_id:
            found[line["kind"]].append(line)
    return found


def of_key(town: Town, key: str) -> list[tuple[str, str, str | None]]:
    """Orders of a key: id, state, reason."""
    return [
        (str(i), s, r) for i, s, r in town.sql("SELECT id, state, reason FROM orders WHERE idempotency_key = %s", key)
    ]


def shipped(town: Town, order_id: str) -> bool:
    """True if the order has left."""
    return town.sql("SELECT state FROM orders WHERE id = %s", order_id) == [("shipped",)]


def grow_old(town: Town, key: str) -> None:
    """Let the orders of a key's family be older than any request can be, so that the reconciler looks at them at once."""
    town.sql("UPDATE orders SET updated_us = 0 WHERE state = 'pending' AND idempotency_key LIKE %s", f"{key}-%")


def stock_law_holds(town: Town) -> bool:
    """initial - available = sum over orders that are not cancelled."""
    broken = """WITH sold AS (SELECT i->>'sku' AS sku, sum((i->>'quantity')::bigint) AS n
      FROM orders, jsonb_array_elements(items) i WHERE state <> 'cancelled' GROUP BY 1)
    SELECT 1 FROM stock LEFT JOIN sold USING (sku) WHERE initial - available <> coalesce(n, 0) OR available < 0"""
    return town.sql(broken) == []


def test_an_order_is_paid_then_shipped_once(town: Town, customer: Customer, key: str) -> None:
    answer = customer.checkout(customer.cart("sku-002", 3), key)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["state"], told["total_cents"], len(told["trace_id"])) == ("paid", 3 * 299, 32)
    until(lambda: customer.order(told["order_id"])["state"] == "shipped", "the parcel leaves")
    found = lines_of(town, told["order_id"])
    assert {kind: len(lines) for kind, lines in found.items()} == {"order": 1, "payment": 1, "shipment": 1}
    assert found["order"][0]["items"] == [{"sku": "sku-002", "quantity": 3}]
    assert (found["payment"][0]["state"], found["payment"][0]["amount_cents"]) == ("charged", 897)
    assert found["order"][0]["trace_id"] == told["trace_id"]
    assert stock_law_holds(town)


def test_one_key_at_the_same_time_is_one_order_and_one_charge(town: Town, customer: Customer, key: str) -> None:
    cart = customer.cart()
    second = town.start("orders")
    with ThreadPoolExecutor(16) as pool:
        places = [None, town.main["orders"].url, second.url]
        answers = list(pool.map(lambda n: customer.checkout(cart, key, places[n % 3]), range(24)))
    assert {a.status_code for a in answers} == {201}
    (order_id,) = {a.json()["order_id"] for a in answers}
    until(lambda: shipped(town, order_id), "shipped")
    assert customer.checkout(cart, key).json()["order_id"] == order_id
    assert {kind: len(lines) for kind, lines in lines_of(town, order_id).items()} == {
        "order": 1,
        "payment": 1,
        "shipment": 1,
    }
    assert len(of_key(town, key)) == 1
    assert stock_law_holds(town)
    second.kill()


def test_a_key_belongs_to_its_cart(town: Town, customer: Customer, key: str) -> None:
    assert customer.checkout(customer.cart(), key).status_code == 201
    assert customer.checkout(customer.cart(), key).status_code == 409
    assert len(of_key(town, key)) == 1


def test_a_declined_order_is_cancelled_with_its_stock_returned(town: Town, customer: Customer, key: str) -> None:
    items = [{"sku": "sku-020", "quantity": 1000}] * 50
    cart = customer.client.post("/carts", json={"items": items}).json()["cart_id"]
    for _ in range(2):
        answer = customer.checkout(cart, key)
        assert answer.status_code == 402
        assert answer.headers["content-type"] == "application/problem+json"
    assert [(s, r) for _, s, r in of_key(town, key)] == [("cancelled", "declined")]
    assert stock_law_holds(town)


def test_nothing_is_sold_that_is_not_there(town: Town, customer: Customer, key: str) -> None:
    town.sql("INSERT INTO product VALUES ('rare', 'Rare', 100)")
    town.sql("INSERT INTO stock VALUES ('rare', 3, 3)")
    carts = [customer.cart("rare") for _ in range(10)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda n: customer.checkout(carts[n], f"{key}-{n}"), range(10)))
    assert sorted(a.status_code for a in answers) == [201] * 3 + [409] * 7
    assert customer.client.get("/products/rare").json()["available"] == 0
    assert stock_law_holds(town)


def test_orders_killed_in_mid_order_leaves_nothing_half_done(town: Town, customer: Customer, key: str) -> None:
    """Once before the charge reached payments, once after it: the other replica's reconciler cancels one and finishes the other."""
    payments = town.main["payments"]
    host = payments.url.split("//")[1].split(":")[0]
    with Proxy(host, 7070) as before, Proxy(host, 7070) as after:
        before.set("refuse")
        after.set("hold_answers")
        dying = [town.start("orders", SHOP_PAYMENTS_URL=p.url) for p in (before, after)]
        threads = []
        for n, orders in enumerate(dying):
            cart = customer.cart()
            threads.append(threading.Thread(target=_checkout_that_breaks, args=(orders, cart, f"{key}-{n}")))
            threads[-1].start()
        until(lambda: of_key(town, f"{key}-0") and of_key(town, f"{key}-1"), "both orders are in the database")
        held = of_key(town, f"{key}-1")[0][0]
        until(lambda: town.sql("SELECT 1 FROM payment WHERE order_id = %s", held), "the second one is charged")
        for orders in dying:
            orders.kill()
        for thread in threads:
            thread.join(10)
    grow_old(town, key)
    refused = of_key(town, f"{key}-0")[0][0]
    until(lambda: not town.sql("SELECT 1 FROM orders WHERE state IN ('pending', 'paid')"), "no order is left open")
    assert of_key(town, f"{key}-0") == [(refused, "cancelled", "abandoned")]
    assert of_key(town, f"{key}-1") == [(held, "shipped", None)]
    assert [p["state"] for p in lines_of(town, refused)["payment"]] == ["declined"]
    assert {kind: len(lines) for kind, lines in lines_of(town, held).items()} == {
        "order": 1,
        "payment": 1,
        "shipment": 1,
    }
    assert stock_law_holds(town)


def _checkout_that_breaks(orders: Process, cart: str, key: str) -> None:
    try:
        ONCE.post(f"{orders.url}/checkout", json={"cart_id": cart, "customer": "ada"}, headers={"Idempotency-Key": key})
    except httpx.TransportError:
        return


def test_payments_that_hang_or_are_gone_are_503_and_settle_later(town: Town, customer: Customer, key: str) -> None:
    host = town.main["payments"].url.split("//")[1].split(":")[0]
    with Proxy(host, 7070) as proxy:
        orders = town.start("orders", SHOP_PAYMENTS_URL=proxy.url)
        carts = [customer.cart() for _ in range(3)]
        proxy.set("refuse")
        gone = customer.checkout(carts[0], f"{key}-0", orders.url)
        proxy.set("hold_answers")
        hung = customer.checkout(carts[1], f"{key}-1", orders.url)
        for answer in (gone, hung):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["content-type"] == "application/problem+json"
        assert [(s, r) for _, s, r in of_key(town, f"{key}-1")] == [("pending", "payment_unknown")]
        assert "payment_un" in gone.json()["detail"]
        proxy.set("pass")
        again = customer.checkout(carts[1], f"{key}-1", orders.url)
        assert again.status_code == 201, "the customer may simply ask again"
        grow_old(town, key)
        until(lambda: not town.sql("SELECT 1 FROM orders WHERE state IN ('pending', 'paid')"), "no order is left open")
        assert of_key(town, f"{key}-0")[0][1:] == ("cancelled", "abandoned")
        assert of_key(town, f"{key}-1")[0][1:] == ("shipped", None)
        assert len(lines_of(town, again.json()["order_id"])["payment"]) == 1
        orders.kill()
    assert stock_law_holds(town)


def test_a_lost_answer_of_payments_is_asked_for_again_and_charged_once(
    town: Town, customer: Customer, key: str
) -> None:
    host = town.main["payments"].url.split("//")[1].split(":")[0]
    with Proxy(host, 7070) as proxy:
        orders = town.start("orders", SHOP_PAYMENTS_URL=proxy.url)
        cart = customer.cart()
        proxy.set("drop_answers", drops=1)
        answer = customer.checkout(cart, key, orders.url)
        assert answer.status_code == 201
        assert proxy.drops == 0
        assert [p["state"] for p in lines_of(town, answer.json()["order_id"])["payment"]] == ["charged"]
        orders.kill()


def test_the_outbox_outlives_shipping_and_orders(town: Town, customer: Customer, key: str) -> None:
    """Shipping is away, then the orders service that took the money dies: the parcel leaves all the same, once."""
    town.main["shipping"].kill(signal.SIGSTOP)
    try:
        orders = town.start("orders")
        answer = customer.checkout(customer.cart(), key, orders.url)
        assert answer.status_code == 201, "the customer does not wait for shipping"
        order_id = answer.json()["order_id"]
        assert customer.order(order_id)["state"] == "paid"
        orders.kill()
        assert town.sql("SELECT 1 FROM outbox WHERE order_id = %s", order_id)
    finally:
        town.main["shipping"].kill(signal.SIGCONT)
    until(lambda: shipped(town, order_id), "shipped")
    assert len(lines_of(town, order_id)["shipment"]) == 1
    assert not town.sql("SELECT 1 FROM outbox WHERE order_id = %s", order_id)


def test_a_checkout_never_races_with_the_reconciler(town: Town, customer: Customer, key: str) -> None:
    """An old pending order is asked for again at the very time at which the reconciler looks at it."""
    host = town.main["payments"].url.split("//")[1].split(":")[0]
    with Proxy(host, 7070) as proxy:
        orders = town.start("orders", SHOP_PAYMENTS_URL=proxy.url)
        carts = [customer.cart() for _ in range(12)]
        proxy.set("refuse")
        for n, cart in enumerate(carts):
            assert customer.checkout(cart, f"{key}-{n}", orders.url).status_code == 503
        proxy.set("pass")
        grow_old(town, key)
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda n: customer.checkout(carts[n], f"{key}-{n}"), range(12)))
        orders.kill()
    until(lambda: not town.sql("SELECT 1 FROM orders WHERE state IN ('pending', 'paid')"), "no order is left open")
    for n, answer in enumerate(answers):
        ((order_id, state, _),) = of_key(town, f"{key}-{n}")
        charged = [p for p in lines_of(town, order_id)["payment"] if p["state"] == "charged"]
        if answer.status_code == 201:
            assert (state, len(charged)) == ("shipped", 1)
        else:
            assert (answer.status_code, state, charged) == (409, "cancelled", [])
    assert stock_law_holds(town)
