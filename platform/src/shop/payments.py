"""payments: one charge per idempotency key, however often it is asked for."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from fastapi import APIRouter, Request

from shop.errors import Problem
from shop.model import Charge, Key
from shop.service import Service, now_us, span_of

LIMIT_CENTS = 100_000_000  # dearer orders are declined, so that a decline can be had on purpose
READ = "SELECT id, order_id, state FROM payment WHERE idempotency_key = %s"
INSERT = """INSERT INTO payment (id, order_id, state, amount_cents, idempotency_key, created_us)
VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (idempotency_key) DO NOTHING RETURNING id, order_id, state"""


def routes(service: Service) -> APIRouter:
    """The routes of this role."""
    router = APIRouter()

    @router.post("/charges", status_code=201, response_model=None)
    async def charge(request: Request, asked: Charge) -> dict[str, Any]:
        span_of(request).set_attribute("order.id", str(asked.order_id))
        state = "charged" if asked.amount_cents <= LIMIT_CENTS else "declined"
        async with service.db.connection("INSERT", span_of(request)) as connection:
            values = (uuid4(), asked.order_id, state, asked.amount_cents, asked.idempotency_key, now_us())
            row = await (await connection.execute(INSERT, values)).fetchone()
            if row is None:
                row = await (await connection.execute(READ, (asked.idempotency_key,))).fetchone()
        assert row is not None, "payments are never deleted"
        if row[1] != asked.order_id:
            raise Problem(409, "key belongs to another order", asked.idempotency_key)
        return _payment(row)

    @router.get("/charges/{key}", response_model=None)
    async def read(request: Request, key: Key) -> dict[str, Any]:
        async with service.db.connection("SELECT", span_of(request)) as connection:
            row = await (await connection.execute(READ, (key,))).fetchone()
        if row is None:
            raise Problem(404, "no such charge", key)
        return _payment(row)

    @router.post("/charges/{key}/void", response_model=None)
    async def void(request: Request, key: Key, order_id: UUID) -> dict[str, Any]:
        """Give the money back; a charge that was never made is declined for good, so that a late one cannot come."""
        async with service.db.connection("UPDATE", span_of(request)) as connection, connection.transaction():
            await connection.execute(INSERT, (uuid4(), order_id, "declined", 0, key, now_us()))
            await connection.execute(
                "UPDATE payment SET state = 'refunded' WHERE idempotency_key = %s AND state = 'charged'", (key,)
            )
            row = await (await connection.execute(READ, (key,))).fetchone()
        assert row is not None, "just inserted"
        return _payment(row)

    return router


def _payment(row: tuple[Any, ...]) -> dict[str, Any]:
    return {"id": str(row[0]), "order_id": str(row[1]), "state": row[2]}
