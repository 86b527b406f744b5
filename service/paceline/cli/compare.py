"""`paceline compare URL`: the same request under every strategy, as a table and a plot of latency."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import UNSET, Struct

from paceline.app import Service
from paceline.batch.compare import Comparison, Measured
from paceline.batch.compare import compare as compare_strategies
from paceline.cli.client import BrokenOff, ServiceClient, Unreachable
from paceline.cli.options import UsageProblem
from paceline.cli.report import plot, table
from paceline.config import Config, RateWindow, Upstream
from paceline.config.fields import is_private
from paceline.errors import Rejected
from paceline.model import EngineName, Item, ItemRetry, Rate, Strategy, Tenant
from paceline.settings import read_config, read_settings
from paceline.units import LONGEST_S
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY
from paceline.upstream.registry import Registry

ORDER = (Strategy.SEQUENTIAL, Strategy.CONCURRENT, Strategy.BOUNDED, Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)
"""From the plainest to the one that knows most."""

_OWN_NAME = "target"


class Wanted(Struct, frozen=True):
    """A comparison as the flags describe it."""

    url: str
    n: int
    strategies: Sequence[Strategy] | None
    engines: Sequence[EngineName] | None
    max_concurrency: int | None
    rate: Rate | None
    unpaced: bool
    attempts: int | None

    def item(self) -> Item:
        return Item(url=self.url, retry=UNSET if self.attempts is None else ItemRetry(attempts=self.attempts))


class _Answer(Struct):
    results: list[Measured]


def compare(wanted: Wanted, config: Path | None, client: ServiceClient | None) -> int:
    """Compare, here or on a service, and print what was measured; returns the exit code.

    Raises:
        UsageProblem, ConfigError: it cannot be done so.
    """
    if client is not None:
        rows = uvloop.run(_there(wanted, client))
    else:
        rows = uvloop.run(_here(wanted, read_config(read_settings(config=config), os.environ)))
    print(f"{wanted.n} requests to {wanted.url}\n\n{table(rows)}\n\n{plot(rows)}")
    return 0


async def _here(wanted: Wanted, config: Config) -> list[Measured]:
    declared = any(_covers(upstream.base_url, wanted.url) for upstream in config.upstreams.values())
    service = Service(config if declared else _declaring(wanted, config))
    try:
        return await compare_strategies(service.runner, _comparison(wanted, service.registry))
    finally:
        await service.close()


def _comparison(wanted: Wanted, registry: Registry) -> Comparison:
    item = wanted.item()
    try:
        upstream, _ = registry.at(wanted.url)
    except Rejected as error:
        raise UsageProblem(f"{wanted.url}: {error.message}") from None
    if wanted.unpaced and not upstream.policy.allow_unpaced:
        raise UsageProblem(f"--unpaced: the upstream {upstream.name} does not say allow_unpaced: true; add it to it")
    rate = wanted.rate or next((rate for rate in upstream.policy.rates() if rate.unit == "requests"), None)
    strategies = wanted.strategies or [each for each in ORDER if rate or each is not Strategy.TOKEN_BUCKET]
    if rate is None and Strategy.TOKEN_BUCKET in strategies:
        raise UsageProblem("--rate: token_bucket needs one; write it as --rate 50/1s")
    return Comparison(
        upstream=upstream,
        item=item,
        n=wanted.n,
        strategies=strategies,
        engines=wanted.engines or [upstream.policy.engine],
        max_concurrency=wanted.max_concurrency or DEFAULT_CONCURRENCY,
        rate=rate,
        unpaced=wanted.unpaced,
        deadline_s=LONGEST_S,
        tenant=Tenant(),
    )


async def _there(wanted: Wanted, client: ServiceClient) -> list[Measured]:
    request: dict[str, object] = {"url": wanted.url}
    if wanted.attempts is not None:
        request["retry"] = {"attempts": wanted.attempts}
    body: dict[str, object] = {"request": request, "n": wanted.n, "unpaced": wanted.unpaced}
    if wanted.strategies:
        body["strategies"] = wanted.strategies
    if wanted.engines:
        body["engines"] = wanted.engines
    if wanted.max_concurrency is not None:
        body["max_concurrency"] = wanted.max_concurrency
    if wanted.rate is not None:
        body["rate"] = {"limit": wanted.rate.limit, "per": wanted.rate.per_s, "burst": wanted.rate.burst}
    try:
        async with client.post("/v1/compare", msgspec.json.encode(body)) as reply:
            if reply.status != 200:
                raise await reply.refusal()
            return msgspec.json.decode(await reply.body(), type=_Answer).results
    except (Unreachable, BrokenOff) as error:
        raise UsageProblem(str(error)) from None
    except msgspec.DecodeError:
        raise UsageProblem("the service answered what is no comparison; is it Paceline of this version?") from None


def _covers(base_url: str, url: str) -> bool:
    """Whether a URL belongs to a declared upstream."""
    base = base_url.rstrip("/")
    return url == base or url.startswith((base + "/", base + "?"))


def _declaring(wanted: Wanted, config: Config) -> Config:
    """The configuration with the URL's host declared: who names it on the command line is its operator.

    A private address is reached only where the URL itself says so.
    """
    shared = {name: getattr(config.defaults, name) for name in config.defaults.model_fields_set}
    rate = wanted.rate
    if rate is not None:
        shared["rate"] = (RateWindow(limit=rate.limit, per=rate.per_s, burst=rate.burst),)
    try:
        parts = urlsplit(wanted.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        shared |= {"allow_private": is_private(origin), "allow_unpaced": wanted.unpaced, "base_url": origin}
        target = Upstream(**shared)
    except ValueError:
        raise UsageProblem(f"{wanted.url!r} is no URL to compare; write it as https://api.example.com/path") from None
    return config.model_copy(update={"upstreams": {**config.upstreams, _OWN_NAME: target}})
