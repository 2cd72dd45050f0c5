"""The customers of the golden run: samples, spans and the ledger, from one seeded story, so that they agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from .scene import (
    ITERATIONS,
    KILLED_US,
    LOAD_US,
    PODS,
    RATE_PER_S,
    READY_US,
    REPLACEMENT,
    ROUTED_US,
    SECOND,
    SURVIVOR,
    VICTIM,
    Pod,
    uid,
)

Row = dict[str, Any]
STOCK = 1_000_000


@dataclass
class Traffic:
    """What the customers left behind."""

    samples: list[Row] = field(default_factory=list)
    spans: list[Row] = field(default_factory=list)
    orders: list[Row] = field(default_factory=list)
    payments: list[Row] = field(default_factory=list)
    shipments: list[Row] = field(default_factory=list)
    stock: dict[str, int] = field(default_factory=lambda: {f"sku-{n:03d}": STOCK for n in range(1, 21)})

    def ledger(self) -> list[Row]:
        """The lines of ledger.ndjson."""
        stock = [{"kind": "stock", "sku": sku, "initial": STOCK, "available": left} for sku, left in self.stock.items()]
        return [*self.orders, *self.payments, *self.shipments, *stock]


class Customers:
    """Plays every iteration once."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.out = Traffic()
        self.failures = self.span_ids = 0

    def play(self) -> Traffic:
        """All iterations, in the order of their schedule."""
        for n in range(ITERATIONS):
            self.iteration(n, LOAD_US + n * SECOND // RATE_PER_S)
        self.out.spans.sort(key=lambda s: (s["start_us"], s["span_id"]))
        self.out.payments.sort(key=lambda p: p["created_us"])
        self.out.shipments.sort(key=lambda s: s["created_us"])
        return self.out

    def iteration(self, n: int, intended_us: int) -> None:
        at = intended_us + self.rng.randint(40, 900)
        sku, quantity = f"sku-{self.rng.randint(1, 20):03d}", self.rng.randint(1, 3)
        end = self.products(at)
        self.sample(n, "products", intended_us, at, end, 200)
        at = end + self.rng.randint(60, 240)
        end = self.cart(at)
        self.sample(n, "cart", intended_us, at, end, 201)
        self.checkout(n, intended_us, end + self.rng.randint(60, 240), sku, quantity)

    def sample(
        self, n: int, step: str, intended_us: int, start_us: int, end_us: int, status: int, **known: str | None
    ) -> None:
        self.out.samples.append({"iteration": n, "journey": "checkout", "step": step, "intended_us": intended_us, "start_us": start_us,
                                 "end_us": end_us, "latency_us": end_us - start_us, "status": status, **known})  # fmt: skip

    def products(self, at: int) -> int:
        trace, root = self.hexed(128), self.next_id()
        front, catalog = self.pod("storefront"), self.pod("catalog")
        end = self.hop(trace, root, front, catalog, "GET", "/products", at + 400, "SELECT")
        self.span(trace, root, None, front, "SERVER", "GET /products", None, at + 150, end + 250 - (at + 150), 200)
        return end + 400

    def cart(self, at: int) -> int:
        trace, root = self.hexed(128), self.next_id()
        front, cart = self.pod("storefront"), self.pod("cart")
        client, server = self.next_id(), self.next_id()
        inner = self.hop(trace, server, cart, self.pod("catalog"), "GET", "/products/{sku}", at + 900, "SELECT")
        end = self.database(trace, server, cart, "INSERT", inner + 120)
        self.span(trace, server, client, cart, "SERVER", "POST /carts", None, at + 700, end + 150 - (at + 700), 201)
        self.span(trace, client, root, front, "CLIENT", "POST cart", "cart", at + 400, end + 300 - (at + 400), 201)
        self.span(trace, root, None, front, "SERVER", "POST /carts", None, at + 150, end + 500 - (at + 150), 201)
        return end + 650

    def checkout(self, n: int, intended_us: int, at: int, sku: str, quantity: int) -> None:
        trace, root, client, server = self.hexed(128), self.next_id(), self.next_id(), self.next_id()
        front, orders = self.pod("storefront"), self.pod("orders")
        order_id, key, total = (
            uid(self.rng),
            f"k-{n:05d}-{self.rng.getrandbits(32):08x}",
            quantity * (500 + 10 * int(sku[4:])),
        )
        end = self.hop(trace, server, orders, self.pod("cart"), "GET", "/carts/{cart_id}", at + 1_000, "SELECT")
        created_us = self.database(trace, server, orders, "INSERT", end + 150, order_id)
        paid_us, end = self.charge(trace, server, orders, created_us + 200, order_id)
        status, known = 503, None
        if paid_us is not None:
            end = self.database(trace, server, orders, "UPDATE", end + 150, order_id)
            status, known = 201, order_id
            shipped_us = self.ship(trace, server, orders, end + self.rng.randint(4_000, 30_000), order_id)
        else:  # the shop's own reconciler finishes it, once the replacement serves
            paid_us = READY_US + self.rng.randint(250_000, 420_000)
            shipped_us = paid_us + self.rng.randint(20_000, 60_000)
        error = None if status == 201 else "503"
        self.span(
            trace,
            server,
            client,
            orders,
            "SERVER",
            "POST /checkout",
            None,
            at + 700,
            end + 200 - (at + 700),
            status,
            error,
            order_id,
        )
        self.span(
            trace,
            client,
            root,
            front,
            "CLIENT",
            "POST orders",
            "orders",
            at + 400,
            end + 350 - (at + 400),
            status,
            error,
        )
        self.span(
            trace, root, None, front, "SERVER", "POST /checkout", None, at + 150, end + 550 - (at + 150), status, error
        )
        self.sample(n, "checkout", intended_us, at, end + 700, status, idempotency_key=key, order_id=known,
                    trace_id=trace if known else None)  # fmt: skip
        self.out.stock[sku] -= quantity
        self.out.orders.append({
            "kind": "order", "id": order_id, "idempotency_key": key, "state": "shipped", "reason": None,
            "customer": f"customer-{n % 97:02d}", "total_cents": total,
            "items": [{"sku": sku, "quantity": quantity}], "created_us": created_us, "updated_us": shipped_us,
            "trace_id": trace})  # fmt: skip
        self.out.payments.append({"kind": "payment", "id": uid(self.rng), "order_id": order_id, "state": "charged", "amount_cents": total,
                                  "idempotency_key": order_id, "created_us": paid_us})  # fmt: skip
        self.out.shipments.append(
            {
                "kind": "shipment",
                "id": uid(self.rng),
                "order_id": order_id,
                "state": "shipped",
                "created_us": shipped_us,
            }
        )

    def charge(self, trace: str, parent: str, orders: Pod, at: int, order_id: str) -> tuple[int | None, int]:
        """Try to charge, again while the proxy still offers the dead pod; the time of the charge and of the answer."""
        for tries in range(4):
            client = self.next_id()
            target = self.rng.choice(self.payments(at))
            if (target is VICTIM and KILLED_US <= at < ROUTED_US) or (target is SURVIVOR and self.unlucky(at, tries)):
                took = self.rng.randint(500, 1_500)
                self.span(
                    trace,
                    client,
                    parent,
                    orders,
                    "CLIENT",
                    "POST payments",
                    "payments",
                    at,
                    took,
                    None,
                    "connection_refused",
                )
                at += took + int(self.rng.uniform(0.5, 1.0) * 60_000 * 2**tries)
                continue
            slow = 2.6 if KILLED_US <= at < READY_US else 1.0  # one pod does the work of two
            server = self.next_id()
            end = self.database(trace, server, target, "INSERT", at + self.took(2_200 * slow), order_id)
            self.span(
                trace,
                server,
                client,
                target,
                "SERVER",
                "POST /charges",
                None,
                at + 350,
                end + 150 - (at + 350),
                201,
                None,
                order_id,
            )
            self.span(trace, client, parent, orders, "CLIENT", "POST payments", "payments", at, end + 300 - at, 201)
            return end, end + 300
        self.failures += 1
        return None, at

    def unlucky(self, at: int, tries: int) -> bool:
        """True for the two customers whose every try met the dying connection."""
        return self.failures < 2 and KILLED_US <= at < ROUTED_US + 400_000 and (tries > 0 or self.rng.random() < 0.25)

    def payments(self, at: int) -> tuple[Pod, ...]:
        if at < ROUTED_US:
            return VICTIM, SURVIVOR
        return (SURVIVOR, REPLACEMENT) if at >= READY_US else (SURVIVOR,)

    def ship(self, trace: str, parent: str, orders: Pod, at: int, order_id: str) -> int:
        span = self.next_id()
        end = self.hop(trace, span, orders, self.pod("shipping"), "POST", "/shipments", at + 200, "INSERT", order_id)
        self.span(
            trace, span, parent, orders, "CONSUMER", "outbox ship", None, at, end + 100 - at, None, None, order_id
        )
        return end

    def hop(self, trace: str, parent: str, caller: Pod, callee: Pod, method: str, route: str, at: int, operation: str,
            order_id: str | None = None) -> int:  # fmt: skip
        """A call that does one database transaction; returns when the caller has the answer."""
        client, server = self.next_id(), self.next_id()
        status = 201 if method == "POST" else 200
        end = self.database(trace, server, callee, operation, at + 300 + self.took(700), order_id)
        self.span(
            trace,
            server,
            client,
            callee,
            "SERVER",
            f"{method} {route}",
            None,
            at + 300,
            end + 150 - (at + 300),
            status,
            None,
            order_id,
        )
        self.span(
            trace,
            client,
            parent,
            caller,
            "CLIENT",
            f"{method} {callee.service}",
            callee.service,
            at,
            end + 350 - at,
            status,
        )
        return end + 350

    def database(self, trace: str, parent: str, pod: Pod, operation: str, at: int, order_id: str | None = None) -> int:
        took = self.took(900 if operation == "SELECT" else 1_900)
        self.span(
            trace,
            self.next_id(),
            parent,
            pod,
            "CLIENT",
            f"{operation} postgres",
            "postgres",
            at,
            took,
            None,
            None,
            order_id,
        )
        return at + took

    def span(self, trace: str, span: str, parent: str | None, pod: Pod, kind: str, operation: str, peer: str | None, start_us: int,
             duration_us: int, status: int | None, error: str | None = None, order_id: str | None = None) -> None:  # fmt: skip
        self.out.spans.append({
            "trace_id": trace, "span_id": span, "parent_span_id": parent, "service": pod.service, "pod": pod.name, "node": pod.node,
            "kind": kind, "operation": operation, "peer": peer, "start_us": start_us, "duration_us": duration_us, "status_code": status,
            "error": error is not None, "error_type": error, "order_id": order_id})  # fmt: skip

    def pod(self, service: str) -> Pod:
        return self.rng.choice([p for p in PODS if p.service == service])

    def took(self, typical_us: float) -> int:
        return int(typical_us * self.rng.lognormvariate(0.0, 0.28))

    def hexed(self, bits: int) -> str:
        return f"{self.rng.getrandbits(bits):0{bits // 4}x}"

    def next_id(self) -> str:
        """A span id; counted, not drawn, since random ones would make half of the folder's size."""
        self.span_ids += 1
        return f"5eed{self.span_ids:012x}"
