"""The metrics of one app, as Prometheus text or OpenMetrics. The only importer of prometheus_client.

Names and labels are listed in docs/metrics.md. Every label value comes from the configuration or from a closed set
(never from a URL, a host, an id or a caller's text), so the configuration bounds the number of series.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from paceline import __version__
from paceline.events import Event
from paceline.telemetry.levels import States, levels
from paceline.telemetry.tally import BUCKETS_S, Durations, Tally

_FORMATS = ("application/openmetrics-text", "text/plain")
_BOUNDS = (*map(floatToGoString, BUCKETS_S), "+Inf")


class Metrics(Collector):
    """Everything one app measures, in a registry of its own; nothing is shared between two of them."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._states: States = tuple
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def listen(self, event: Event) -> None:
        """The listener: count one event."""
        self._tally.listen(event)

    def serve(self, route: str, method: str, status_class: str, duration_s: float) -> None:
        """Count one request to the service itself; `HttpMetrics` calls it with labels from closed sets."""
        self._tally.serve(route, method, status_class, duration_s)

    def watch(self, states: States) -> None:
        """Ask `states` for the upstreams' live states at each scrape."""
        self._states = states

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where `accept` names it before plain text."""
        kinds = (kind.partition(";")[0].strip().lower() for kind in accept.split(","))
        # The library is not shown the header itself: it fails on a version that is no number.
        encode, content_type = choose_encoder(next((kind for kind in kinds if kind in _FORMATS), ""))
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Every family, in the order of docs/metrics.md; called by the registry."""
        yield from self._counted()
        yield from self._levels()
        yield _gauge(
            "paceline_build_info",
            "The running version; always 1.",
            ("version", "python"),
            {(__version__, platform.python_version()): 1},
        )

    def _counted(self) -> Iterator[Metric]:
        tally = self._tally
        per_item = ("strategy", "upstream", "outcome")
        per_attempt = ("strategy", "upstream", "verdict")
        yield _histogram(
            "paceline_item_duration_seconds",
            "From an item's turn to its outcome, waits and retries included.",
            per_item,
            tally.items,
        )
        yield _histogram(
            "paceline_batch_duration_seconds",
            "From a batch's start to its last outcome.",
            ("strategy",),
            tally.batches,
        )
        yield _histogram(
            "paceline_attempt_duration_seconds",
            "From the grant of one attempt to its end, body read.",
            per_attempt,
            tally.attempts,
        )
        yield _histogram(
            "paceline_wait_seconds",
            "What an item waited for one reason, all its attempts together; items that did not wait are not counted.",
            ("strategy", "upstream", "reason"),
            tally.waits,
        )
        yield _counter("paceline_items_total", "Items that have their outcome.", per_item, _sizes(tally.items))
        yield _counter("paceline_attempts_total", "Attempts that ended.", per_attempt, _sizes(tally.attempts))
        yield _counter("paceline_retries_total", "Further attempts, by cause.", ("upstream", "reason"), tally.retries)
        yield _counter(
            "paceline_rejections_total", "Items refused unsent, by code.", ("upstream", "code"), tally.rejections
        )
        yield _counter(
            "paceline_responses_total", "Answers of upstreams.", ("upstream", "status_class"), tally.responses
        )
        yield _histogram(
            "paceline_http_request_duration_seconds",
            "Requests to this service, from their head to the end of the answer.",
            ("route", "method", "status_class"),
            tally.served,
        )

    def _levels(self) -> Iterator[Metric]:
        now = levels(self._states())
        upstream = ("upstream",)
        yield _gauge("paceline_in_flight", "Attempts in flight.", upstream, now.in_flight)
        yield _gauge("paceline_queued", "Attempts waiting for admission.", upstream, now.queued)
        yield _gauge("paceline_concurrency_limit", "Attempts that may be in flight.", upstream, now.concurrency_limit)
        yield _gauge(
            "paceline_rate_limit_per_second",
            "Requests per second that the tightest window allows in the long run.",
            upstream,
            now.rate_limit_per_second,
        )
        yield _gauge("paceline_rate_remaining", "Tokens free in a window.", ("upstream", "window"), now.rate_remaining)
        yield _gauge(
            "paceline_budget_paused", "1 while a throttle or an operator holds it.", upstream, now.budget_paused
        )
        yield _gauge(
            "paceline_breaker_state", "Upstreams whose breaker is in it.", ("upstream", "state"), now.breaker_state
        )
        yield _gauge("paceline_retry_budget_remaining", "Retries allowed now.", upstream, now.retry_budget_remaining)


def _histogram(
    name: str, meaning: str, labels: tuple[str, ...], series: Mapping[tuple[str, ...], Durations]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, durations in series.items():
        buckets = list(zip(_BOUNDS, map(float, accumulate(durations.counts)), strict=True))
        family.add_metric(_plain(values), buckets, durations.sum_s)
    return family


def _counter(
    name: str, meaning: str, labels: tuple[str, ...], series: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, count in series.items():
        family.add_metric(_plain(values), count)
    return family


def _gauge(
    name: str, meaning: str, labels: tuple[str, ...], series: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, level in series.items():
        family.add_metric(_plain(values), level)
    return family


def _sizes(series: Mapping[tuple[str, ...], Durations]) -> dict[tuple[str, ...], int]:
    return {values: sum(durations.counts) for values, durations in series.items()}


def _plain(values: tuple[str, ...]) -> list[str]:
    """Label values without their enums, which would show their Python names."""
    return list(map(str, values))
