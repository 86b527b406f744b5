"""A real rate-limited HTTP/1.1 API to call: strict about arrivals, 429 above its limits.

    python -m paceline.demo.server --limit 50 --per 1s --latency 20ms
    python -m paceline.demo.server --limit 50 --also 400/10s,9000/1s/tokens --latency 100ms..800ms

Prints `listening on http://127.0.0.1:PORT` once it serves. A request is counted when its head is complete, as one
request and as many `tokens` as its query says (`?tokens=1200`); a refused one is not counted unless `--count-refused`.
`GET /stats`, `POST /reset` and `POST /control` are never counted. `/control` takes a JSON object with any of `limit`,
`share`, `latency`, `jitter` (as the options) and `stall`: for so long the whole program does nothing at all.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import ssl
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import uvloop

from paceline.demo.limits import MODES
from paceline.demo.options import ApiOptions, DurationRange, parse_jitter, parse_latency
from paceline.demo.protocol import DemoHttpProtocol
from paceline.demo.rate_limited_api import RateLimitedApi
from paceline.units import parse_duration

_SHUTDOWN_GRACE_S = 5.0
_LAG_SAMPLE_INTERVAL_S = 0.005

Value = TypeVar("Value")


async def serve(options: ApiOptions, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is in flight and return."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    api = RateLimitedApi(options)
    server = await loop.create_server(lambda: DemoHttpProtocol(api), host, port, ssl=tls, backlog=2048)
    bound_port = server.sockets[0].getsockname()[1]
    print(f"listening on {'https' if tls else 'http'}://{host}:{bound_port}", flush=True)
    lag_monitor = asyncio.create_task(_monitor_lag(api))
    await stop.wait()
    lag_monitor.cancel()
    server.close()
    for connection in list(api.connections):
        connection.close_when_idle()
    give_up_at = time.perf_counter() + _SHUTDOWN_GRACE_S
    while api.connections and time.perf_counter() < give_up_at:  # noqa: ASYNC110 - the exit is not hot
        await asyncio.sleep(0.01)


async def _monitor_lag(api: RateLimitedApi) -> None:
    while True:
        due_at = time.perf_counter() + _LAG_SAMPLE_INTERVAL_S
        await asyncio.sleep(_LAG_SAMPLE_INTERVAL_S)
        api.record_lag(time.perf_counter() - due_at)


def _argument_type(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """A reader whose ValueErrors become what argparse shows."""

    def parse_argument(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return parse_argument


def _parse_limits(text: str) -> tuple[tuple[float, float, str], ...]:
    """`400/10s,9000/1s/tokens`."""
    limits = []
    for part in text.split(","):
        match part.split("/"):
            case [limit, per, *unit] if len(unit) <= 1 and limit.isdecimal() and int(limit) and parse_duration(per):
                limits.append((float(limit), parse_duration(per), unit[0] if unit else "requests"))
            case _:
                raise ValueError("is no limit; write LIMIT/PER or LIMIT/PER/UNIT")
    return tuple(limits)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m paceline.demo.server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--limit", type=int, default=50, help="requests in any stretch of --per")
    parser.add_argument("--per", type=_argument_type(parse_duration), default=1.0)
    parser.add_argument("--mode", choices=MODES, default="sliding", help="how it counts")
    parser.add_argument(
        "--also", type=_argument_type(_parse_limits), default=(), help="more limits: LIMIT/PER[/UNIT], with commas"
    )
    parser.add_argument(
        "--latency",
        type=_argument_type(parse_latency),
        default=DurationRange(),
        help="each answer takes this long, or A..B",
    )
    parser.add_argument(
        "--jitter",
        type=_argument_type(parse_jitter),
        default=DurationRange(),
        help="0 to this, on the way there and back",
    )
    parser.add_argument("--share", type=float, default=0.0, help="how much of the limit other clients take, 0 to 1")
    parser.add_argument("--seed", type=int, help="draw the same times and other clients each time")
    parser.add_argument("--retry-after", action="store_true", help="a refusal says when to come back")
    parser.add_argument("--count-refused", action="store_true", help="a refused request counts too")
    parser.add_argument("--close", action="store_true", help="each answer ends its connection")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="serve https with these PEM files")
    args = parser.parse_args(argv)
    if args.limit < 1 or args.per <= 0:
        parser.error("--limit and --per must be above zero")
    if not 0 <= args.share <= 1:
        parser.error("--share must be from 0 to 1")
    tls = None
    if args.tls:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*args.tls)
    options = ApiOptions(
        args.limit,
        args.per,
        args.mode,
        args.also,
        args.latency,
        args.jitter,
        args.share,
        args.retry_after,
        args.count_refused,
        args.close,
        args.seed,
    )
    uvloop.run(serve(options, args.host, args.port, tls))


if __name__ == "__main__":
    main()
