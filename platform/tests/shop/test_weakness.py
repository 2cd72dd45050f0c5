"""Each weakness really breaks what its line in the table says; the strong shop next to it does not."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
import yaml

from shop import weakness
from shop.errors import MissingSetting
from tests.shop.proxy import Proxy
from tests.shop.town import ONCE, Customer, Process, Town, until

GITOPS = Path(__file__).parents[3] / "gitops/apps/weak"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE stock%%'"


def payments_proxy(town: Town) -> Proxy:
    """A proxy in front of payments."""
    return Proxy(town.main["payments"].url.split("//")[1].split(":")[0], 7070)


def charges(town: Town, key: str) -> list[tuple[str]]:
    """States of the payments of a key's order."""
    return town.sql(
        "SELECT p.state FROM payment p JOIN orders o ON o.id = p.order_id WHERE o.idempotency_key = %s", key
    )


def ask(orders: Process, cart: str, key: str) -> httpx.Response | None:
    """A checkout straight at an orders service; None if no answer came."""
    try:
        return ONCE.post(
            f"{orders.url}/checkout", json={"cart_id": cart, "customer": "ada"}, headers={"Idempotency-Key": key}
        )
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(("weak", "status"), [("", 201), ("no-retries", 503)])
def test_no_retries_shows_one_lost_answer_to_the_customer(
    town: Town, customer: Customer, key: str, weak: str, status: int
) -> None:
    with payments_proxy(town) as proxy:
        orders = town.start("orders", weak, SHOP_PAYMENTS_URL=proxy.url)
        cart = customer.cart()
        proxy.set("drop_answers", drops=1)
        answer = ask(orders, cart, key)
        assert answer is not None
        assert answer.status_code == status
        orders.kill()


def test_no_timeout_waits_for_ever(town: Town, customer: Customer, key: str) -> None:
    with payments_proxy(town) as proxy:
        strong, weak = (town.start("orders", name, SHOP_PAYMENTS_URL=proxy.url) for name in ("", "no-timeout"))
        carts = [customer.cart(), customer.cart()]
        proxy.set("hold_answers")
        late: list[httpx.Response | None] = []
        waiting = threading.Thread(target=lambda: late.append(ask(weak, carts[1], f"{key}-1")))
        waiting.start()
        answer = ask(strong, carts[0], f"{key}-0")
        assert answer is not None
        assert answer.status_code == 503
        until(
            lambda: town.sql("SELECT 1 FROM orders WHERE idempotency_key = %s", f"{key}-1"),
            "the weak one has its order",
        )
        waiting.join(0.3)  # it was asked before the strong one, which has already lost its patience
        assert not late
        proxy.set("pass")
        waiting.join(10)
        assert late
        for orders in (strong, weak):
            orders.kill()


@pytest.mark.parametrize(("weak", "count"), [("", 1), ("no-idempotency-key", 2)])
def test_no_idempotency_key_pays_a_lost_answer_twice(
    town: Town, customer: Customer, key: str, weak: str, count: int
) -> None:
    with payments_proxy(town) as proxy:
        orders = town.start("orders", weak, SHOP_PAYMENTS_URL=proxy.url)
        cart = customer.cart()
        proxy.set("drop_answers", drops=1)
        answer = ask(orders, cart, key)
        assert answer is not None
        assert answer.status_code == 201
        assert charges(town, key) == [("charged",)] * count
        orders.kill()


def test_charge_before_commit_takes_money_for_nothing_when_it_dies(town: Town, customer: Customer, key: str) -> None:
    orphans = "SELECT p.order_id FROM payment p LEFT JOIN orders o ON o.id = p.order_id WHERE o.id IS NULL"
    assert town.sql(orphans) == []
    orders = town.start("orders", "charge-before-commit")
    with payments_proxy(town) as proxy:
        dying = town.start("orders", "charge-before-commit", SHOP_PAYMENTS_URL=proxy.url)
        proxy.set("hold_answers")
        asking = threading.Thread(target=ask, args=(dying, customer.cart(), f"{key}-0"))
        asking.start()
        until(lambda: town.sql(orphans), "charged, and no order yet")
        dying.kill()
        asking.join(10)
    assert len(town.sql(orphans)) == 1
    assert town.sql("SELECT 1 FROM orders WHERE idempotency_key = %s", f"{key}-0") == []
    town.sql("DELETE FROM payment p WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.id = p.order_id)")
    answer = ask(orders, customer.cart(), f"{key}-1")
    assert answer is not None
    assert answer.status_code == 201, "without a fault it works, which is why it is found so late"
    orders.kill()


def test_readiness_lies_says_ready_without_a_database(town: Town) -> None:
    told = {"SHOP_DATABASE_HOST": "127.0.0.1", "SHOP_DATABASE_PORT": "9"}
    weak = town.start("catalog", "readiness-lies", ready=True, **told)
    strong = town.start("catalog", ready=False, **told)
    until(lambda: _lives(strong), "the strong one lives")
    assert (weak.get("/readyz").status_code, strong.get("/readyz").status_code) == (200, 503)
    assert weak.get("/products").status_code == 503
    for process in (weak, strong):
        process.kill()


def _lives(process: Process) -> bool:
    try:
        return process.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(("weak", "sold"), [("", 1), ("stock-two-steps", 2)])
def test_stock_two_steps_sells_the_last_piece_twice(
    town: Town, customer: Customer, key: str, weak: str, sold: int
) -> None:
    sku = f"last-{weak or 'strong'}"
    town.sql("INSERT INTO product VALUES (%s, 'Last piece', 100)", sku)
    town.sql("INSERT INTO stock VALUES (%s, 1, 1)", sku)
    orders = town.start("orders", weak)
    carts = [customer.cart(sku) for _ in range(2)]
    # Both transactions have looked before either takes: the row is locked until both wait for it, as under load it is by chance.
    with psycopg.connect(town.conninfo) as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("SELECT 1 FROM stock WHERE sku = %s FOR UPDATE", (sku,))
        asked = [pool.submit(ask, orders, cart, f"{key}-{n}") for n, cart in enumerate(carts)]
        until(lambda: town.sql(WAITING) == [(2,)], "both wait for the row")
        holder.commit()
        answers = [one.result() for one in asked]
    assert [a.status_code for a in answers if a].count(201) == sold
    ((available,),) = town.sql("SELECT available FROM stock WHERE sku = %s", sku)
    assert available == 1 - sold
    town.sql(
        "UPDATE stock SET initial = %s, available = 0 WHERE sku = %s", sold, sku
    )  # the books are right for who comes next
    orders.kill()


@pytest.mark.parametrize("weak", ["", "lost-outbox"])
def test_lost_outbox_loses_the_parcel_when_it_dies(town: Town, customer: Customer, key: str, weak: str) -> None:
    town.main["shipping"].kill(signal.SIGSTOP)
    try:
        orders = town.start("orders", weak)
        answer = ask(orders, customer.cart(), key)
        assert answer is not None
        assert answer.status_code == 201
        orders.kill()
        orders.gone()
    finally:
        town.main["shipping"].kill(signal.SIGCONT)
    state = "SELECT state FROM orders WHERE idempotency_key = %s"
    if weak:
        assert (
            town.sql("SELECT 1 FROM outbox x JOIN orders o ON o.id = x.order_id WHERE o.idempotency_key = %s", key)
            == []
        )
        assert town.sql(state, key) == [("paid",)], "nobody remembers that it must be sent"
        town.sql(
            "UPDATE orders SET state = 'shipped' WHERE idempotency_key = %s", key
        )  # nothing is left open for who comes next
    else:
        until(lambda: town.sql(state, key) == [("shipped",)], "shipped by the others")


@pytest.mark.parametrize(("weak", "answered"), [("", True), ("no-graceful-shutdown", False)])
def test_no_graceful_shutdown_drops_what_it_accepted(
    town: Town, customer: Customer, key: str, weak: str, answered: bool
) -> None:
    with payments_proxy(town) as proxy:
        orders = town.start("orders", weak, SHOP_PAYMENTS_URL=proxy.url)
        cart = customer.cart()
        proxy.set("hold_answers")
        answers: list[httpx.Response | None] = []
        asking = threading.Thread(target=lambda: answers.append(ask(orders, cart, key)))
        asking.start()
        until(lambda: charges(town, key), "the charge is under way")
        orders.kill(signal.SIGTERM)
        if not answered:
            orders.gone()
        proxy.set("pass")
        asking.join(10)
        orders.gone()
    assert [a is not None and a.status_code == 201 for a in answers] == [answered]


def test_every_weakness_has_a_manifest_patch_and_the_code_knows_its_own() -> None:
    assert {p.name for p in GITOPS.iterdir() if p.is_dir()} == set(weakness.TABLE)
    for entry in weakness.TABLE.values():
        patch = yaml.safe_load_all((GITOPS / entry.name / "patch.yaml").read_text())
        switched = "SHOP_WEAKNESSES" in str(list(patch))
        assert switched == entry.in_code, entry.name
        assert entry.breaks
    known = ",".join(weakness.in_code(weakness.TABLE.values()))
    assert weakness.parse(f" {known}, ") == weakness.in_code(weakness.TABLE.values())
    assert weakness.parse("") == frozenset()
    with pytest.raises(MissingSetting, match="no-pdb is not one of"):
        weakness.parse("no-pdb")
