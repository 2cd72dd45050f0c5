"""shipping: one parcel per order."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request

from shop.model import Shipment
from shop.service import Service, now_us, span_of


def routes(service: Service) -> APIRouter:
    """The routes of this role."""
    router = APIRouter()

    @router.post("/shipments", status_code=201, response_model=None)
    async def ship(request: Request, asked: Shipment) -> dict[str, Any]:
        span_of(request).set_attribute("order.id", str(asked.order_id))
        async with service.db.connection("INSERT", span_of(request)) as connection:
            await connection.execute(
                "INSERT INTO shipment VALUES (%s, %s, 'shipped', %s) ON CONFLICT (order_id) DO NOTHING",
                (uuid4(), asked.order_id, now_us()),
            )
        return {"order_id": str(asked.order_id), "state": "shipped"}

    return router
