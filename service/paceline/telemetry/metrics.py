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
from paceline.telemetry.counters import EventCounters
from paceline.telemetry.gauges import ReadUpstreams, read_gauges
from paceline.telemetry.histogram import BUCKET_BOUNDS_S, DurationHistogram

_CONTENT_TYPES = ("application/openmetrics-text", "text/plain")
_BUCKET_LABELS = (*map(floatToGoString, BUCKET_BOUNDS_S), "+Inf")


class Metrics(Collector):
    """Every metric of one app, in a registry of its own; two apps share nothing."""

    def __init__(self) -> None:
        self._counters = EventCounters()
        self._read_upstreams: ReadUpstreams = tuple
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def on_event(self, event: Event) -> None:
        """Count one event."""
        self._counters.on_event(event)

    def record_http_request(self, route: str, method: str, status_class: str, duration_s: float) -> None:
        """Count one request to the service itself; `HttpMetricsMiddleware` passes labels from closed sets."""
        self._counters.record_http_request(route, method, status_class, duration_s)

    def set_upstreams_source(self, read_upstreams: ReadUpstreams) -> None:
        """Call `read_upstreams` for the upstreams' live states at each scrape."""
        self._read_upstreams = read_upstreams

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where `accept` names it before plain text."""
        kinds = (kind.partition(";")[0].strip().lower() for kind in accept.split(","))
        # The library does not get the header itself: it fails on a version that is no number.
        encode, content_type = choose_encoder(next((kind for kind in kinds if kind in _CONTENT_TYPES), ""))
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Every family, in the order of docs/metrics.md; called by the registry."""
        yield from self._counter_families()
        yield from self._gauge_families()
        yield _gauge(
            "paceline_build_info",
            "The running version; always 1.",
            ("version", "python"),
            {(__version__, platform.python_version()): 1},
        )

    def _counter_families(self) -> Iterator[Metric]:
        counters = self._counters
        per_item = ("strategy", "upstream", "outcome")
        per_attempt = ("strategy", "upstream", "verdict")
        yield _histogram(
            "paceline_item_duration_seconds",
            "From an item's turn to its outcome, waits and retries included.",
            per_item,
            counters.items,
        )
        yield _histogram(
            "paceline_batch_duration_seconds",
            "From a batch's start to its last outcome.",
            ("strategy",),
            counters.batches,
        )
        yield _histogram(
            "paceline_attempt_duration_seconds",
            "From the grant of one attempt to its end, body read.",
            per_attempt,
            counters.attempts,
        )
        yield _histogram(
            "paceline_wait_seconds",
            "What an item waited for one reason, all its attempts together; items that did not wait are not counted.",
            ("strategy", "upstream", "reason"),
            counters.waits,
        )
        yield _counter(
            "paceline_items_total", "Items that have their outcome.", per_item, _observation_counts(counters.items)
        )
        yield _counter(
            "paceline_attempts_total", "Attempts that ended.", per_attempt, _observation_counts(counters.attempts)
        )
        yield _counter(
            "paceline_retries_total", "Further attempts, by cause.", ("upstream", "reason"), counters.retries
        )
        yield _counter(
            "paceline_rejections_total", "Items refused unsent, by code.", ("upstream", "code"), counters.rejections
        )
        yield _counter(
            "paceline_responses_total", "Answers of upstreams.", ("upstream", "status_class"), counters.responses
        )
        yield _histogram(
            "paceline_http_request_duration_seconds",
            "Requests to this service, from their head to the end of the answer.",
            ("route", "method", "status_class"),
            counters.http_requests,
        )

    def _gauge_families(self) -> Iterator[Metric]:
        gauges = read_gauges(self._read_upstreams())
        upstream = ("upstream",)
        yield _gauge("paceline_in_flight", "Attempts in flight.", upstream, gauges.in_flight)
        yield _gauge("paceline_queued", "Attempts waiting for admission.", upstream, gauges.queued)
        yield _gauge(
            "paceline_concurrency_limit", "Attempts that may be in flight.", upstream, gauges.concurrency_limit
        )
        yield _gauge(
            "paceline_rate_limit_per_second",
            "Requests per second that the tightest window allows in the long run.",
            upstream,
            gauges.rate_limit_per_second,
        )
        yield _gauge(
            "paceline_rate_remaining", "Tokens free in a window.", ("upstream", "window"), gauges.rate_remaining
        )
        yield _gauge(
            "paceline_budget_paused", "1 while a throttle or an operator holds it.", upstream, gauges.budget_paused
        )
        yield _gauge(
            "paceline_breaker_state", "Upstreams whose breaker is in it.", ("upstream", "state"), gauges.breaker_state
        )
        yield _gauge("paceline_retry_budget_remaining", "Retries allowed now.", upstream, gauges.retry_budget_remaining)


def _histogram(
    name: str, help_text: str, labels: tuple[str, ...], series: Mapping[tuple[str, ...], DurationHistogram]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help_text, labels=labels)
    for values, histogram in series.items():
        buckets = list(zip(_BUCKET_LABELS, map(float, accumulate(histogram.counts)), strict=True))
        family.add_metric(_label_texts(values), buckets, histogram.sum_s)
    return family


def _counter(
    name: str, help_text: str, labels: tuple[str, ...], series: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_text, labels=labels)
    for values, count in series.items():
        family.add_metric(_label_texts(values), count)
    return family


def _gauge(
    name: str, help_text: str, labels: tuple[str, ...], series: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=labels)
    for values, value in series.items():
        family.add_metric(_label_texts(values), value)
    return family


def _observation_counts(series: Mapping[tuple[str, ...], DurationHistogram]) -> dict[tuple[str, ...], int]:
    return {values: sum(histogram.counts) for values, histogram in series.items()}


def _label_texts(values: tuple[str, ...]) -> list[str]:
    """Label values as plain strings: enums would show their Python names."""
    return list(map(str, values))
