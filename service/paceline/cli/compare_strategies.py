"""`paceline compare URL`: the same request under every strategy, as a table and a plot of latency."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import uvloop
from msgspec import UNSET, Struct

from paceline.app import Service
from paceline.batch.compare import Comparison, StrategyResult, missing_rate
from paceline.batch.compare import compare as compare_strategies
from paceline.cli.flag_parsing import flag_error
from paceline.cli.ui.compare_report import latency_plot, results_table
from paceline.cli.usage_error import UsageError
from paceline.config import Config, RateWindowConfig, UpstreamConfig
from paceline.config.url_types import is_private_url
from paceline.errors import Rejected
from paceline.model import EngineName, Item, ItemRetry, Rate, Strategy, Tenant
from paceline.settings import read_config, read_settings
from paceline.units import MAX_DURATION_S
from paceline.upstream.pipeline import DEFAULT_CONCURRENCY
from paceline.upstream.registry import UpstreamRegistry

if TYPE_CHECKING:
    from paceline.cli.io.service_client import ServiceClient

_AD_HOC_UPSTREAM_NAME = "target"


class CompareOptions(Struct, frozen=True):
    """A comparison as the flags describe it."""

    url: str
    n: int
    strategies: Sequence[Strategy] | None
    engines: Sequence[EngineName] | None
    max_concurrency: int | None
    rate: Rate | None
    unpaced: bool
    attempts: int | None

    def to_item(self) -> Item:
        return Item(url=self.url, retry=UNSET if self.attempts is None else ItemRetry(attempts=self.attempts))


class _CompareResponse(Struct):
    results: list[StrategyResult]


def compare_strategies_of_url(options: CompareOptions, config: Path | None, client: ServiceClient | None) -> int:
    """Compare, here or on a service, and print what was measured; returns the exit code.

    Raises:
        UsageError, ConfigError: it cannot be done so.
    """
    if client is not None:
        rows = uvloop.run(_compare_remotely(options, client))
    else:
        rows = uvloop.run(_compare_locally(options, read_config(read_settings(config=config), os.environ)))
    print(f"{options.n} requests to {options.url}\n\n{results_table(rows)}\n\n{latency_plot(rows)}")
    return 0


async def _compare_locally(options: CompareOptions, config: Config) -> list[StrategyResult]:
    declared = any(_belongs_to(upstream.base_url, options.url) for upstream in config.upstreams.values())
    service = Service(config if declared else _with_declared_host(options, config))
    try:
        return await compare_strategies(service.runner, _build_comparison(options, service.registry))
    finally:
        await service.close()


def _build_comparison(options: CompareOptions, registry: UpstreamRegistry) -> Comparison:
    item = options.to_item()
    try:
        upstream, _ = registry.resolve_url(options.url)
    except Rejected as error:
        raise UsageError(f"{options.url}: {error.message}") from None
    if options.unpaced and not upstream.policy.allow_unpaced:
        raise UsageError(f"--unpaced: the upstream {upstream.name} does not say allow_unpaced: true; add it to it")
    rate = options.rate or next((rate for rate in upstream.policy.to_rates() if rate.unit == "requests"), None)
    strategies = options.strategies or [each for each in Strategy if rate or each is not Strategy.TOKEN_BUCKET]
    if rate is None and Strategy.TOKEN_BUCKET in strategies:
        raise flag_error(missing_rate())
    return Comparison(
        upstream=upstream,
        item=item,
        n=options.n,
        strategies=strategies,
        engines=options.engines or [upstream.policy.engine],
        max_concurrency=options.max_concurrency or DEFAULT_CONCURRENCY,
        rate=rate,
        unpaced=options.unpaced,
        deadline_s=MAX_DURATION_S,
        tenant=Tenant(),
    )


async def _compare_remotely(options: CompareOptions, client: ServiceClient) -> list[StrategyResult]:
    request: dict[str, object] = {"url": options.url}
    if options.attempts is not None:
        request["retry"] = {"attempts": options.attempts}
    body: dict[str, object] = {"request": request, "n": options.n, "unpaced": options.unpaced}
    if options.strategies:
        body["strategies"] = options.strategies
    if options.engines:
        body["engines"] = options.engines
    if options.max_concurrency is not None:
        body["max_concurrency"] = options.max_concurrency
    if options.rate is not None:
        body["rate"] = {"limit": options.rate.limit, "per": options.rate.per_s, "burst": options.rate.burst}
    async with aclosing(client):
        response = await client.call("POST", "/v1/compare", msgspec.json.encode(body))
    try:
        return msgspec.json.decode(response, type=_CompareResponse).results
    except msgspec.DecodeError:
        raise UsageError("the service answered what is no comparison; is it Paceline of this version?") from None


def _belongs_to(base_url: str, url: str) -> bool:
    """Whether a URL belongs to a declared upstream."""
    base = base_url.rstrip("/")
    return url == base or url.startswith((base + "/", base + "?"))


def _with_declared_host(options: CompareOptions, config: Config) -> Config:
    """The configuration with the URL's host declared: who names it on the command line is its operator.

    A private address is reached only where the URL itself says so.
    """
    policy = {name: getattr(config.defaults, name) for name in config.defaults.model_fields_set}
    rate = options.rate
    if rate is not None:
        policy["rate"] = (RateWindowConfig(limit=rate.limit, per=rate.per_s, burst=rate.burst),)
    try:
        parts = urlsplit(options.url)
        origin = f"{parts.scheme}://{parts.netloc}"
        policy |= {"allow_private": is_private_url(origin), "allow_unpaced": options.unpaced, "base_url": origin}
        target = UpstreamConfig(**policy)
    except ValueError:
        raise UsageError(f"{options.url!r} is no URL to compare; write it as https://api.example.com/path") from None
    return config.model_copy(update={"upstreams": {**config.upstreams, _AD_HOC_UPSTREAM_NAME: target}})
