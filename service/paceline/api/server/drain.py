"""End the service without losing a request: the steps between the signal and the end of the server, in order.

| step | what a caller sees |
|---|---|
| readiness off, keep-alive off | `/readyz` gives 503, each response closes its connection; requests are accepted |
| `server.pre_stop` passes | the same, while load balancers notice |
| stop accepting | new requests get 503 `draining` |
| `server.drain` passes, or nothing is left | batches in flight finish |
| stop the runner | the other items end as `cancelled`, or `rejected` if never sent; every response is delivered |
| stop the server | connections close (`uvicorn_server.py`) |
"""

from __future__ import annotations

import asyncio

from structlog.typing import FilteringBoundLogger

from paceline.api.dependencies import ServiceProtocol
from paceline.api.load_shedding import LoadShedder
from paceline.api.server.uvicorn_server import FLUSH_TIMEOUT_S, UvicornServer


def begin_drain(load_shedder: LoadShedder, server: UvicornServer) -> None:
    """Take the first step, from a signal handler: it must not wait for the event loop."""
    load_shedder.mark_unready()
    server.disable_keep_alive()


async def drain(
    service: ServiceProtocol, load_shedder: LoadShedder, server: UvicornServer, log: FilteringBoundLogger
) -> None:
    """Take the other steps; returns when the server was asked to stop."""
    pre_stop_s = service.config.server.pre_stop
    if pre_stop_s > 0:
        log.info("unready, still taking what comes", pre_stop_s=pre_stop_s)
        await asyncio.sleep(pre_stop_s)
    load_shedder.stop_accepting()
    log.info("draining", batches=service.runner.active_batches, items=load_shedder.items)
    if not await load_shedder.wait_idle(service.config.server.drain):
        service.runner.stop_all()
        await load_shedder.wait_idle(FLUSH_TIMEOUT_S)
    server.should_exit = True
