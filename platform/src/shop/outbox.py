"""Transactional outbox: a paid order reaches shipping once, whoever dies in between."""

from __future__ import annotations

import asyncio
from uuid import UUID

from shop import metrics
from shop.errors import PeerError, Problem
from shop.service import Connection, Service, now_us
from shop.tracing import SpanKind, fail, parent_of, tracer

IDLE_S = 0.5  # other replicas' rows and due retries are looked for this often
BATCH = 20
BACKOFF_MAX_S = 5.0
LATER_S = 2.0  # how long the weakness `lost-outbox` keeps a parcel in memory; longer than a pod has that is told to end
DUE = (
    "SELECT order_id, traceparent, tries FROM outbox WHERE due_us <= %s ORDER BY due_us LIMIT %s FOR UPDATE SKIP LOCKED"
)


class Outbox:
    """Hands due rows to shipping until it is cancelled; any number of replicas share the rows."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tracer = tracer(service.provider)
        self._woken = asyncio.Event()
        self._forgotten: set[asyncio.Task[bool]] = set()

    def wake(self) -> None:
        """There is a new row."""
        self._woken.set()

    def forget(self, order_id: UUID) -> None:
        """The weak way: ask shipping without a row that remembers it."""
        task = asyncio.ensure_future(self._forget(order_id))
        self._forgotten.add(task)
        task.add_done_callback(self._forgotten.discard)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            try:
                while await self.batch():
                    pass
            except Problem:  # no database just now
                await asyncio.sleep(IDLE_S)

    async def batch(self) -> bool:
        """One transaction; True if there may be more."""
        async with self._service.db.connection("SHIP") as connection, connection.transaction():
            rows = await (await connection.execute(DUE, (now_us(), BATCH))).fetchall()
            metrics.OUTBOX_PENDING.set(len(rows))
            if not rows:
                return False
            sent = await asyncio.gather(*(self._ship(order_id, parent) for order_id, parent, _ in rows))
            shipped = [row[0] for row, ok in zip(rows, sent, strict=True) if ok]
            if shipped:
                await _shipped(connection, shipped)
            for (order_id, _, tries), ok in zip(rows, sent, strict=True):
                if not ok:
                    due = now_us() + int(min(BACKOFF_MAX_S, 0.1 * 2 ** min(tries, 8)) * 1e6)
                    await connection.execute(
                        "UPDATE outbox SET tries = tries + 1, due_us = %s WHERE order_id = %s", (due, order_id)
                    )
        metrics.ORDERS.labels("shipped").inc(len(shipped))
        return len(rows) == BATCH

    async def _ship(self, order_id: UUID, parent: str | None) -> bool:
        span = self._tracer.start_span("outbox ship", parent_of(parent), SpanKind.CONSUMER, {"order.id": str(order_id)})
        try:
            answer = await self._service.peers.call(
                "shipping", "POST", "/shipments", body={"order_id": str(order_id)}, parent=span
            )
        except PeerError as error:
            fail(span, error.outcome)
            return False
        finally:
            span.end()
        return answer.status == 201

    async def _forget(self, order_id: UUID) -> bool:
        await asyncio.sleep(LATER_S)
        done = await self._ship(order_id, None)
        if done:
            async with self._service.db.connection("UPDATE") as connection:
                await _shipped(connection, [order_id])
        return done


async def _shipped(connection: Connection, order_ids: list[UUID]) -> None:
    await connection.execute(
        "UPDATE orders SET state = 'shipped', updated_us = %s WHERE id = ANY(%s)", (now_us(), order_ids)
    )
    await connection.execute("DELETE FROM outbox WHERE order_id = ANY(%s)", (order_ids,))
