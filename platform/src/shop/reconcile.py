"""The reconciler: no order stays pending for ever.

A pending order older than any request can be is charged or not, and only payments knows: a charge that exists finishes the order, one
that does not is voided for good and the order cancelled with its stock returned.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from shop import metrics
from shop.errors import PeerError, Problem
from shop.outbox import Outbox
from shop.service import Connection, Service, now_us

EVERY_S = 0.5
OLD_US = 2_500_000  # longer than a checkout may take
BATCH = 50
PENDING = "SELECT id FROM orders WHERE state = 'pending' AND updated_us < %s ORDER BY updated_us LIMIT %s"
LOCK = "SELECT traceparent FROM orders WHERE id = %s AND state = 'pending' FOR UPDATE SKIP LOCKED"


class Reconciler:
    """Finishes or cancels old pending orders until it is cancelled itself."""

    def __init__(self, service: Service, outbox: Outbox) -> None:
        self._service = service
        self._outbox = outbox

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.batch()
            except (Problem, PeerError):  # the database or payments are away: these orders wait
                continue

    async def batch(self) -> None:
        """Look at the oldest pending orders once."""
        async with self._service.db.connection("SELECT") as connection:
            rows = await (await connection.execute(PENDING, (now_us() - OLD_US, BATCH))).fetchall()
        for (order_id,) in rows:
            await self._resolve(order_id)

    async def _resolve(self, order_id: UUID) -> None:
        """Decide one order with its row locked, so that a late checkout of the same order can only come before or after."""
        async with self._service.db.connection("UPDATE") as connection, connection.transaction():
            row = await (await connection.execute(LOCK, (order_id,))).fetchone()
            if row is None:  # finished meanwhile, or another replica is at it
                return
            state = await self._payment(order_id)
            if state is None:
                return
            if state != "charged":
                await cancel(connection, order_id, "abandoned")
            elif await paid(connection, order_id, row[0], outbox=True):
                metrics.ORDERS.labels("paid").inc()
        self._outbox.wake()

    async def _payment(self, order_id: UUID) -> str | None:
        """What became of the order's charge; one that was never made never will be. None if payments did not say."""
        answer = await self._service.peers.call("payments", "GET", f"/charges/{order_id}")
        if answer.status == 404:
            answer = await self._service.peers.call("payments", "POST", f"/charges/{order_id}/void?order_id={order_id}")
        state: str | None = answer.body["state"] if answer.status == 200 else None
        return state


async def paid(connection: Connection, order_id: UUID, traceparent: str | None, *, outbox: bool) -> bool:
    """Mark a pending order paid and remember its parcel, in the caller's transaction; False if it was not pending any more."""
    done = await connection.execute(
        "UPDATE orders SET state = 'paid', reason = NULL, updated_us = %s WHERE id = %s AND state = 'pending'",
        (now_us(), order_id),
    )
    if done.rowcount and outbox:
        await connection.execute(
            "INSERT INTO outbox (order_id, traceparent, due_us) VALUES (%s, %s, %s)", (order_id, traceparent, now_us())
        )
    return bool(done.rowcount)


async def cancel(connection: Connection, order_id: UUID, reason: str) -> bool:
    """Cancel a pending order and return its stock, in the caller's transaction; False if it was not pending any more."""
    row = await (
        await connection.execute(
            "UPDATE orders SET state = 'cancelled', reason = %s, updated_us = %s WHERE id = %s AND state = 'pending' RETURNING items",
            (reason, now_us(), order_id),
        )
    ).fetchone()
    if row is None:
        return False
    metrics.ORDERS.labels("cancelled").inc()
    for item in row[0]:
        await connection.execute(
            "UPDATE stock SET available = available + %s WHERE sku = %s", (item["quantity"], item["sku"])
        )
    return True
