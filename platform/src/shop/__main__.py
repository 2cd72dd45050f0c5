"""`python -m shop ROLE`: one service, until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
from types import FrameType

import uvicorn

from shop import cart, catalog, orders, payments, service, settings, shipping, storefront
from shop.errors import MissingSetting

ROUTES = {
    "storefront": storefront.routes,
    "catalog": catalog.routes,
    "cart": cart.routes,
    "orders": orders.routes,
    "payments": payments.routes,
    "shipping": shipping.routes,
}
FINISH_S = 5  # for requests under way once no new ones are accepted
LAST_LOOK_S = 0.05  # for what has arrived, and a busy machine has not let us read


def main() -> int:
    """Serve one role; 0 after a graceful end, 254 for bad arguments or environment."""
    parser = argparse.ArgumentParser("python -m shop", description="One service of the shop; the environment says the rest.",
                                     epilog="example: SHOP_LISTEN_PORT=7070 python -m shop payments")  # fmt: skip
    parser.add_argument("role", choices=settings.ROLES)
    role = parser.parse_args().role
    try:
        configuration = settings.read(role)
    except MissingSetting as error:
        print(f"error: {error}\nhint: docs/contracts.md lists the environment of a pod", file=sys.stderr)
        return 254
    made = service.make(configuration)
    app = service.application(made, ROUTES[role](made))
    server = DrainingServer(
        uvicorn.Config(app, host=configuration.host, port=configuration.port, loop="uvloop", http="httptools", ws="none",
                       lifespan="on", access_log=False, log_level="warning", timeout_keep_alive=30,
                       timeout_graceful_shutdown=FINISH_S),
        made,
    )  # fmt: skip
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve())
    return 0


class DrainingServer(uvicorn.Server):
    """At SIGTERM it first says that it is not ready, serves on for the drain time, and then finishes what it accepted."""

    def __init__(self, config: uvicorn.Config, made: service.Service) -> None:
        super().__init__(config)
        self._made = made

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn's signal handler; a second signal ends at once."""
        if self._made.draining:
            self.force_exit = self.should_exit = True
            return
        self._made.draining = True
        self.force_exit = self._made.weak("no-graceful-shutdown")
        asyncio.get_running_loop().call_later(self._made.settings.drain_s, setattr, self, "should_exit", True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Reads what is there first: a socket that is closed with bytes unread is reset, and so is a connection not yet accepted."""
        if not self.force_exit:
            await asyncio.sleep(LAST_LOOK_S)
        await super().shutdown(sockets)


if __name__ == "__main__":
    sys.exit(main())
