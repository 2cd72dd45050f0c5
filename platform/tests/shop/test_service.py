"""What every service does: readiness that tells the truth, an end that finishes, metrics, and one trace over all hops."""

from __future__ import annotations

import signal
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shop.settings import ROLES
from tests.shop.collector import Received
from tests.shop.proxy import Proxy
from tests.shop.town import DATABASE_PORT, ONCE, Customer, Town, until


def test_readiness_follows_the_database(town: Town) -> None:
    with Proxy(town.database_host, DATABASE_PORT) as proxy:
        proxy.set("refuse")
        told = {"SHOP_DATABASE_HOST": "127.0.0.1", "SHOP_DATABASE_PORT": str(proxy.port)}
        catalog = town.start("catalog", ready=False, **told)
        until(lambda: _status(catalog.url, "/healthz") == 200, "it lives before its database does")
        assert _status(catalog.url, "/readyz") == 503
        assert _status(catalog.url, "/products") == 503
        proxy.set("pass")
        until(catalog.ready, "ready once the database is there")
        proxy.set("refuse")
        until(lambda: _status(catalog.url, "/readyz") == 503, "not ready without it")
        answer = catalog.get("/products")
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.headers["retry-after"] == "1"
        proxy.set("pass")
        until(catalog.ready, "ready again")
        until(lambda: _status(catalog.url, "/products") == 200, "and serves again")
        proxy.set("hold_answers")
        assert _status(catalog.url, "/readyz") == 503, "a database that hangs is none either"
        assert _status(catalog.url, "/healthz") == 200
        proxy.set("pass")
        catalog.kill()


def _status(url: str, path: str) -> int | None:
    try:
        return ONCE.get(url + path).status_code
    except httpx.TransportError:
        return None


def test_the_end_finishes_what_was_accepted(town: Town, customer: Customer, key: str) -> None:
    """SIGTERM while a checkout waits for payments: not ready, still serving, then the answer, then exit code 0."""
    host = town.main["payments"].url.split("//")[1].split(":")[0]
    with Proxy(host, 7070) as proxy:
        orders = town.start("orders", SHOP_PAYMENTS_URL=proxy.url, SHOP_DRAIN_S="0.4")
        cart = customer.cart()
        proxy.set("hold_answers")
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(customer.checkout(cart, key, orders.url)))
        asking.start()
        until(lambda: proxy.requests, "the charge is under way")
        orders.kill(signal.SIGTERM)
        until(lambda: _status(orders.url, "/readyz") == 503, "it says that it is ending")
        late = ONCE.get(orders.url + "/ledger")
        assert late.status_code == 401, "and still serves while others learn of it"
        assert late.headers["connection"] == "close"
        until(lambda: _status(orders.url, "/healthz") is None, "the door is closed")
        assert orders.code() is None
        assert not answers
        proxy.set("pass")
        asking.join(10)
        assert orders.gone() == 0
    assert answers[0].status_code == 201
    until(lambda: town.sql("SELECT state FROM orders WHERE idempotency_key = %s", key) == [("shipped",)], "shipped")


def test_what_a_busy_machine_has_not_let_it_read_is_answered_before_the_end(town: Town) -> None:
    """Stopped until its drain time is over: one request waits on a connection that was idle, one on a connection not yet accepted."""
    drain_s = 0.4
    catalog = town.start("catalog", SHOP_DRAIN_S=str(drain_s))
    address = urlsplit(catalog.url)
    idle, late = (HTTPConnection(address.hostname or "", address.port, timeout=10) for _ in range(2))

    def answered(connection: HTTPConnection) -> int:
        answer = connection.getresponse()
        answer.read()
        return answer.status

    idle.request("GET", "/healthz")
    assert answered(idle) == 200
    catalog.kill(signal.SIGTERM)
    until(lambda: _status(catalog.url, "/readyz") == 503, "it says that it is ending")
    catalog.kill(signal.SIGSTOP)
    for connection in (idle, late):
        connection.request("GET", "/healthz")
    time.sleep(drain_s + 0.1)
    catalog.kill(signal.SIGCONT)
    assert [answered(idle), answered(late)] == [200, 200]
    idle.close()
    late.close()
    assert catalog.gone() == 0


def test_all_services_end_by_themselves_at_sigterm(town: Town) -> None:
    made = [town.start(role, ready=False, SHOP_DRAIN_S="0") for role in ROLES]
    until(lambda: all(p.ready() for p in made), "all are ready", 30)
    for process in made:
        process.kill(signal.SIGTERM)
    assert {process.gone() for process in made} == {0}
    assert {process.log.read_text() for process in made} == {""}


def test_metrics_say_what_happened(town: Town, customer: Customer, key: str) -> None:
    assert customer.checkout(customer.cart(), key).status_code == 201
    until(lambda: town.sql("SELECT state FROM orders WHERE idempotency_key = %s", key) == [("shipped",)], "shipped")
    customer.client.get("/nowhere")
    found = {role: _metrics(process.metrics()) for role, process in town.main.items()}
    for role, values in found.items():
        assert values["process_resident_memory_bytes", ()] > 1e6
        assert values["process_cpu_seconds_total", ()] > 0
        assert not [
            name for name, labels in values if ("route", "/metrics") in labels or ("route", "/readyz") in labels
        ], role
    labels = (("method", "POST"), ("route", "/checkout"), ("service", "storefront"), ("status", "201"))
    assert found["storefront"]["http_requests_total", labels] >= 1
    assert found["storefront"]["http_request_duration_seconds_count", labels[:3]] >= 1
    assert (
        found["storefront"][
            "http_requests_total",
            (("method", "GET"), ("route", "unknown"), ("service", "storefront"), ("status", "404")),
        ]
        >= 1
    )
    assert (
        found["orders"]["client_requests_total", (("outcome", "ok"), ("peer", "payments"), ("service", "orders"))] >= 1
    )
    for state in ("paid", "shipped"):
        assert found["orders"]["orders_total", (("state", state),)] >= 1
    assert ("outbox_pending", ()) in found["orders"]
    assert ("db_pool_waiting", ()) in found["payments"]


def _metrics(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_one_trace_over_all_hops_and_the_outbox(town: Town, customer: Customer, key: str) -> None:
    cart = customer.cart()
    trace, parent = "5".zfill(32), "7".zfill(16)
    answer = customer.client.post(
        "/checkout", json={"cart_id": cart, "customer": "ada"},
        headers={"Idempotency-Key": key, "traceparent": f"00-{trace}-{parent}-01"},
    )  # fmt: skip
    assert answer.json()["trace_id"] == trace
    order_id = answer.json()["order_id"]

    # Each service sends its spans for itself, some time after it has ended them.
    wanted = {
        ("payments", "POST /charges"), ("shipping", "POST /shipments"), ("orders", "outbox ship"), ("cart", "GET /carts/{cart_id}"),
        ("orders", "POST /checkout"), ("storefront", "POST /checkout"), ("storefront", "POST orders"), ("orders", "POST shipping"),
    }  # fmt: skip

    def names() -> set[tuple[str, str]]:
        return {(s.resource["service.name"], s.name) for s in town.collector.of(trace)}

    until(lambda: names() >= wanted, "all spans arrive")
    spans = town.collector.of(trace)
    by_id = {s.span_id: s for s in spans}

    def path(span: Received) -> list[str]:
        above = by_id.get(span.parent_span_id)
        return [*(path(above) if above else []), f"{span.resource['service.name']}: {span.name}"]

    (charge,) = [s for s in spans if s.name == "POST /charges"]
    assert path(charge) == ["storefront: POST /checkout", "storefront: POST orders", "orders: POST /checkout", "orders: POST payments",
                            "payments: POST /charges"]  # fmt: skip
    (ship,) = [s for s in spans if s.name == "POST /shipments"]
    assert path(ship)[2:] == [
        "orders: POST /checkout",
        "orders: outbox ship",
        "orders: POST shipping",
        "shipping: POST /shipments",
    ]
    (outbox,) = [s for s in spans if s.name == "outbox ship"]
    assert outbox.kind == 5
    assert {s.attributes["order.id"] for s in (charge, ship, outbox)} == {order_id}
    assert charge.attributes["http.response.status_code"] == 201
    assert {s.resource["k8s.node.name"] for s in spans} == {"body"}
    assert {s.resource["k8s.pod.name"] for s in spans} == {
        town.main[r].log.stem for r in ("storefront", "orders", "cart", "payments", "shipping")
    }
    database = [s for s in spans if s.attributes.get("peer.service") == "postgres"]
    assert {s.kind for s in database} == {3}
    assert {s.attributes["db.operation"] for s in database} >= {"INSERT", "UPDATE", "SELECT"}
    assert not any(s.error for s in spans)


@pytest.mark.parametrize(
    "header", ["", "x", "00-0-0-01", f"00-{'0' * 32}-{'1' * 16}-01", f"ff-{'1' * 32}-{'1' * 16}-01", "00-" + "é" * 32]
)
def test_a_malformed_traceparent_starts_a_new_trace(town: Town, customer: Customer, header: str) -> None:
    answer = customer.client.get("/products", headers=[(b"traceparent", header.encode())])
    assert answer.status_code == 200


def test_a_failed_call_is_a_span_with_its_error_and_comes_at_once(town: Town, customer: Customer, key: str) -> None:
    orders = town.start("orders", SHOP_PAYMENTS_URL="http://127.0.0.1:9")
    trace = "6".zfill(32)
    answer = ONCE.post(
        orders.url + "/checkout", json={"cart_id": customer.cart(), "customer": "ada"},
        headers={"Idempotency-Key": key, "traceparent": f"00-{trace}-{'7'.zfill(16)}-01"},
    )  # fmt: skip
    assert answer.status_code == 503
    until(lambda: any(s.name == "POST /checkout" for s in town.collector.of(trace)), "the server span arrives")
    orders.kill()
    calls = [s for s in town.collector.of(trace) if s.attributes.get("peer.service") == "payments"]
    assert [(s.error, s.attributes["error.type"]) for s in calls] == [(True, "connection_refused")] * 3
    (server,) = [s for s in town.collector.of(trace) if s.name == "POST /checkout"]
    assert (server.error, server.attributes["error.type"], server.attributes["http.response.status_code"]) == (
        True,
        "503",
        503,
    )


def test_a_collector_that_is_away_holds_nobody_up(town: Town) -> None:
    catalog = town.start("catalog", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert {catalog.get("/products").status_code for _ in range(20)} == {200}
    catalog.kill(signal.SIGTERM)
    assert catalog.gone() == 0
    assert catalog.log.read_text() == ""


@pytest.mark.parametrize(
    ("role", "environment", "said"),
    [
        ("nobody", {}, "invalid choice"),
        ("orders", {}, "SHOP_CART_URL is not set"),
        ("payments", {"SHOP_DATABASE_URL": "x", "SHOP_WEAKNESSES": "no-such"}, "no-such is not one of"),
        ("payments", {"SHOP_DATABASE_URL": "x", "SHOP_LISTEN_PORT": "many"}, "SHOP_LISTEN_PORT='many' is not a number"),
    ],
)
def test_a_service_that_lacks_a_setting_names_it(
    town: Town, tmp_path: Path, role: str, environment: dict[str, str], said: str
) -> None:
    log = tmp_path / "log"
    pid = town.herd.ask(start=role, environment=environment, log=str(log))["pid"]
    code = until(lambda: town.herd.ask(poll=pid)["code"], "it ends")
    assert code in (2, 254)
    assert said in log.read_text()
