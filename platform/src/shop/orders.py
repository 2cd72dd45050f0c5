"""orders: order -> payment -> shipping, exactly once.

An order is written with its stock taken (one transaction), charged under its own id as idempotency key, then marked paid together
with an outbox row (one transaction); the outbox hands it to shipping. What a dying pod leaves `pending` the reconciler finishes or cancels.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Header, Request
from fastapi.responses import JSONResponse, Response
from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from shop import metrics
from shop.errors import PeerError, PeerRefused, Problem
from shop.ledger import ledger_routes
from shop.model import Checkout, Key
from shop.outbox import Outbox
from shop.reconcile import Reconciler, cancel, paid
from shop.service import Connection, Service, now_us, span_of
from shop.tracing import Span, traceparent

PAYMENT_TRY_S = 0.9
PAYMENT_DEADLINE_S = 1.4  # below the storefront's patience, so that the customer hears what became of the order


@dataclass(frozen=True)
class Order:
    """An order as the checkout needs it."""

    id: UUID
    state: str
    reason: str | None
    cart_id: UUID
    total_cents: int


def routes(service: Service) -> APIRouter:
    """The routes of this role, with the outbox and the reconciler at work behind them."""
    router = APIRouter()
    outbox = Outbox(service)
    checkout = _Checkout(service, outbox)
    service.background += [outbox.run, Reconciler(service, outbox).run]

    @router.post("/checkout")
    async def place(request: Request, asked: Checkout, idempotency_key: Annotated[Key, Header()]) -> Response:
        return await checkout.place(span_of(request), asked, idempotency_key)

    @router.get("/orders/{order_id}", response_model=None)
    async def read(request: Request, order_id: UUID) -> dict[str, Any]:
        async with service.db.connection("SELECT", span_of(request)) as connection:
            row = await (
                await connection.execute("SELECT id, state, reason, total_cents FROM orders WHERE id = %s", (order_id,))
            ).fetchone()
        if row is None:
            raise Problem(404, "no such order", str(order_id))
        return {"order_id": str(row[0]), "state": row[1], "reason": row[2], "total_cents": row[3]}

    router.include_router(ledger_routes(service))
    return router


class _Checkout:
    def __init__(self, service: Service, outbox: Outbox) -> None:
        self._service = service
        self._outbox = outbox

    async def place(self, span: Span, asked: Checkout, key: str) -> Response:
        order = await self._known(span, key)
        if order is None and self._service.weak("charge-before-commit"):
            order = await self._charge_first(span, asked, key)
        elif order is None:
            order = await self._create(span, asked, key, await self._cart(span, asked.cart_id), uuid4())
        span.set_attribute("order.id", str(order.id))
        if order.cart_id != asked.cart_id:
            raise Problem(409, "idempotency key was used for another cart", key)
        if order.state == "pending":
            order = await self._pay(span, order)
        if order.state == "cancelled":
            raise Problem(402 if order.reason == "declined" else 409, f"order cancelled: {order.reason}", str(order.id))
        trace = f"{span.get_span_context().trace_id:032x}"
        body = {"order_id": str(order.id), "state": "paid", "total_cents": order.total_cents, "trace_id": trace}
        return JSONResponse(body, 201)

    async def _known(self, span: Span, key: str) -> Order | None:
        async with self._service.db.connection("SELECT", span) as connection:
            row = await (
                await connection.execute(
                    "SELECT id, state, reason, cart_id, total_cents FROM orders WHERE idempotency_key = %s", (key,)
                )
            ).fetchone()
        return Order(*row) if row else None

    async def _cart(self, span: Span, cart_id: UUID) -> dict[str, Any]:
        try:
            answer = await self._service.peers.call("cart", "GET", f"/carts/{cart_id}", parent=span)
        except PeerError as error:
            raise Problem(503, "cart away", str(error), retry_after_s=1) from None
        if answer.status == 404:
            raise Problem(404, "no such cart", str(cart_id))
        if answer.status != 200:
            raise Problem(503, "cart failed", str(answer.status), retry_after_s=1)
        found: dict[str, Any] = answer.body
        return found

    async def _create(self, span: Span, asked: Checkout, key: str, cart: dict[str, Any], order_id: UUID) -> Order:
        now = now_us()
        try:
            async with self._service.db.connection("INSERT", span) as connection, connection.transaction():
                await connection.execute(
                    "INSERT INTO orders VALUES (%s, %s, %s, 'pending', 'created', %s, %s, %s, %s, %s, %s)",
                    (order_id, key, asked.cart_id, asked.customer, cart["total_cents"], Jsonb(cart["items"]), now, now,
                     traceparent(span)),
                )  # fmt: skip
                await self._take_stock(connection, cart["items"])
        except UniqueViolation:  # the same key at the same time: the other request made it
            known = await self._known(span, key)
            assert known is not None, "orders are never deleted"
            return known
        return Order(order_id, "pending", "created", asked.cart_id, cart["total_cents"])

    async def _take_stock(self, connection: Connection, items: list[dict[str, Any]]) -> None:
        for item in items:  # carts are sorted by SKU, so two orders never lock each other out
            if self._service.weak("stock-two-steps"):
                row = await (
                    await connection.execute("SELECT available FROM stock WHERE sku = %s", (item["sku"],))
                ).fetchone()
                enough = row is not None and row[0] >= item["quantity"]
                await asyncio.sleep(0.005)
                await connection.execute(
                    "UPDATE stock SET available = available - %s WHERE sku = %s", (item["quantity"], item["sku"])
                )
            else:
                taken = await connection.execute(
                    "UPDATE stock SET available = available - %s WHERE sku = %s AND available >= %s",
                    (item["quantity"], item["sku"], item["quantity"]),
                )
                enough = taken.rowcount == 1
            if not enough:
                raise Problem(409, "out of stock", str(item["sku"]))

    async def _pay(self, span: Span, order: Order) -> Order:
        try:
            state = await self._charge(span, order)
        except PeerRefused:
            raise await self._left_pending(span, order, "payment_unavailable") from None
        except PeerError:
            raise await self._left_pending(span, order, "payment_unknown") from None
        if state is None:
            raise await self._left_pending(span, order, "payment_unknown")
        async with self._service.db.connection("UPDATE", span) as connection, connection.transaction():
            if state == "charged":
                done = await paid(connection, order.id, traceparent(span), outbox=not self._service.weak("lost-outbox"))
            else:
                done = await cancel(connection, order.id, "declined")
        if not done:
            return await self._after_race(span, order)
        if state != "charged":
            return Order(order.id, "cancelled", "declined", order.cart_id, order.total_cents)
        metrics.ORDERS.labels("paid").inc()
        if self._service.weak("lost-outbox"):
            self._outbox.forget(order.id)
        else:
            self._outbox.wake()
        return Order(order.id, "paid", None, order.cart_id, order.total_cents)

    async def _charge(self, span: Span, order: Order) -> str | None:
        body = {"order_id": str(order.id), "amount_cents": order.total_cents, "idempotency_key": str(order.id)}
        if self._service.weak("no-idempotency-key"):
            return await self._charge_blindly(span, body)
        answer = await self._service.peers.call(
            "payments", "POST", "/charges", body=body, parent=span, timeout_s=PAYMENT_TRY_S, deadline_s=PAYMENT_DEADLINE_S
        )  # fmt: skip
        return answer.body["state"] if answer.status == 201 else None

    async def _charge_blindly(self, span: Span, body: dict[str, Any]) -> str | None:
        for attempt in range(3):
            body["idempotency_key"] = str(uuid4())
            try:
                answer = await self._service.peers.call(
                    "payments", "POST", "/charges", body=body, parent=span, timeout_s=PAYMENT_TRY_S, tries=1
                )
            except PeerError:
                if attempt == 2:
                    raise
                continue
            return answer.body["state"] if answer.status == 201 else None
        return None

    async def _charge_first(self, span: Span, asked: Checkout, key: str) -> Order:
        cart = await self._cart(span, asked.cart_id)
        unborn = Order(uuid4(), "pending", "created", asked.cart_id, cart["total_cents"])
        try:
            await self._charge(span, unborn)
        except PeerError as error:
            raise Problem(503, "payment not finished", str(error), retry_after_s=1) from None
        await asyncio.sleep(0.05)
        return await self._create(span, asked, key, cart, unborn.id)

    async def _left_pending(self, span: Span, order: Order, reason: str) -> Problem:
        async with self._service.db.connection("UPDATE", span) as connection:
            await connection.execute(
                "UPDATE orders SET reason = %s, updated_us = %s WHERE id = %s AND state = 'pending'",
                (reason, now_us(), order.id),
            )
        metrics.ORDERS.labels("pending").inc()
        return Problem(503, "order is pending", f"{order.id}: {reason}", retry_after_s=1)

    async def _after_race(self, span: Span, order: Order) -> Order:
        """The reconciler, or the same request at another replica, was first."""
        async with self._service.db.connection("SELECT", span) as connection:
            row = await (
                await connection.execute(
                    "SELECT id, state, reason, cart_id, total_cents FROM orders WHERE id = %s", (order.id,)
                )
            ).fetchone()
        assert row is not None, "orders are never deleted"
        return Order(*row)
