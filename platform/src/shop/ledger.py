"""The ledger: orders, payments, shipments and stock as the database has them, for whoever checks the shop from outside."""

from __future__ import annotations

import json
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from shop.errors import Problem
from shop.service import Connection, Service, now_us, span_of

ORDERS = """SELECT 'order' AS kind, id::text, idempotency_key, state, reason, customer, total_cents,
  (SELECT jsonb_agg(jsonb_build_object('sku', i->'sku', 'quantity', i->'quantity')) FROM jsonb_array_elements(items) i) AS items,
  created_us, updated_us, split_part(traceparent, '-', 2) AS trace_id FROM orders
  WHERE created_us >= %(since)s AND (created_us, id::text) > (%(after_us)s, %(after_id)s) ORDER BY created_us, id::text LIMIT %(limit)s"""
# With their orders' age, not their own; those without an order (which must never be) with their own.
_SINCE = """COALESCE((SELECT o.created_us FROM orders o WHERE o.id = order_id), created_us) >= %(since)s
  AND (created_us, id::text) > (%(after_us)s, %(after_id)s) ORDER BY created_us, id::text LIMIT %(limit)s"""
PAYMENTS = f"""SELECT 'payment' AS kind, id::text, order_id::text, state, amount_cents, idempotency_key, created_us
  FROM payment WHERE {_SINCE}"""
SHIPMENTS = f"SELECT 'shipment' AS kind, id::text, order_id::text, state, created_us FROM shipment WHERE {_SINCE}"
STOCK = "SELECT 'stock' AS kind, sku, initial, available FROM stock ORDER BY sku"
PAGED = (("order", ORDERS), ("payment", PAYMENTS), ("shipment", SHIPMENTS))


def ledger_routes(service: Service) -> APIRouter:
    """GET /ledger, for holders of the operator token."""
    router = APIRouter()

    @router.get("/ledger")
    async def ledger(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=5000)] = 1000,
        cursor: Annotated[str, Query(pattern=r"^$|^(order|payment|shipment):\d{1,18}:[0-9a-f-]{0,36}$")] = "",
        since_us: Annotated[int, Query(ge=0, le=10**17)] = 0,
        x_operator_token: Annotated[str, Header()] = "",
    ) -> Response:
        expected = service.settings.operator_token or ""
        if not secrets.compare_digest(x_operator_token.encode(), expected.encode()):
            raise Problem(401, "operator token needed", "header X-Operator-Token")
        async with service.db.connection("SELECT", span_of(request)) as connection, connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            lines, following = await _page(connection, cursor, limit, since_us)
        lines.append({"kind": "end", "next": following, "as_of_us": now_us()})
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
        return Response(text, media_type="application/x-ndjson")

    return router


async def _page(
    connection: Connection, cursor: str, limit: int, since_us: int
) -> tuple[list[dict[str, Any]], str | None]:
    kind, after_us, after_id = cursor.split(":") if cursor else ("order", "0", "")
    lines: list[dict[str, Any]] = []
    kinds = [name for name, _ in PAGED]
    for name, query in PAGED[kinds.index(kind) :]:
        start = {"after_us": int(after_us), "after_id": after_id} if name == kind else {"after_us": 0, "after_id": ""}
        lines += await _rows(connection, query, {"since": since_us, "limit": limit - len(lines), **start})
        if len(lines) >= limit:
            last = lines[-1]
            return lines, f"{name}:{last['created_us']}:{last['id']}" if last["kind"] == name else f"{name}:0:"
    return lines + await _rows(connection, STOCK, {}), None


async def _rows(connection: Connection, query: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    cursor = await connection.execute(query.encode(), parameters)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]
