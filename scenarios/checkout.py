"""The journeys of checkout.js for Locust: nine of ten customers buy one thing, one looks around.

This is an ordinary Locust file. The convention, for scenarios of your own: users derive from FastHttpUser, their tasks are methods with
`@task(weight)`, and a task is one journey; its name is what SLOs call it. aftershock does not run Locust's closed loop: it makes one
new user for each arrival of a seeded schedule and runs one of its tasks, so leave out `wait_time`. Every request is one sample, its
`name` is the step; it gives up after AFTERSHOCK_TIMEOUT_S and carries a W3C traceparent of its own. A request with an `Idempotency-Key`
header is kept with its key, and with the `order_id` of its answer. `status_code` is 0 where no answer came (`ok` may still be true).

The environment: AFTERSHOCK_TARGET_URL, AFTERSHOCK_RATE (journeys a second), AFTERSHOCK_DURATION_S, AFTERSHOCK_SEED.
Without aftershock: `locust -f scenarios/checkout.py --host URL` (which is a closed loop, and lies when the shop stalls).
"""

import random
import uuid

from locust import FastHttpUser, task


class Customer(FastHttpUser):
    """One customer with one connection."""

    @task(9)
    def checkout(self):
        products = self.client.get("/products", name="products")
        if products.status_code != 200:
            return
        sku = random.choice(products.json()["products"])["sku"]
        cart = self.client.post("/carts", json={"items": [{"sku": sku, "quantity": 1}]}, name="cart")
        if cart.status_code != 201:
            return
        order = {"cart_id": cart.json()["cart_id"], "customer": f"customer-{uuid.uuid4().hex[:8]}"}
        self.client.post("/checkout", json=order, headers={"Idempotency-Key": uuid.uuid4().hex}, name="checkout")

    @task(1)
    def browse(self):
        products = self.client.get("/products", name="products")
        if products.status_code == 200:
            self.client.get(f"/products/{random.choice(products.json()['products'])['sku']}", name="product")
