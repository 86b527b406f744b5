"""Sums of the events, in plain numbers: the part of the metrics that every attempt pays for.

Lists and dicts instead of the metrics library's own objects, because those lock: 0.4 us an observation against 1.2
for a cached histogram child (and a counter that equals a histogram's count costs nothing). Only the thread of the
event loop writes them.
"""

from __future__ import annotations

from collections import defaultdict

from paceline.events import AttemptFinished, BatchFinished, Event, ItemFinished, RetryScheduled
from paceline.model import Outcome, OutcomeKind, Strategy, WaitReason
from paceline.telemetry.histogram import DurationHistogram

_STATUS_CLASSES = {1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}


def status_class(status: int) -> str:
    """`1xx` to `5xx`; `other` for a number that is no HTTP status."""
    return _STATUS_CLASSES.get(status // 100, "other")


class EventCounters:
    """Counts events by their labels; the keys of each mapping are the label values of one metric, in order."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, ...], DurationHistogram] = defaultdict(DurationHistogram)
        self.batches: dict[tuple[str, ...], DurationHistogram] = defaultdict(DurationHistogram)
        self.attempts: dict[tuple[str, ...], DurationHistogram] = defaultdict(DurationHistogram)
        self.waits: dict[tuple[str, ...], DurationHistogram] = defaultdict(DurationHistogram)
        self.http_requests: dict[tuple[str, ...], DurationHistogram] = defaultdict(DurationHistogram)
        self.retries: dict[tuple[str, ...], int] = defaultdict(int)
        self.rejections: dict[tuple[str, ...], int] = defaultdict(int)
        self.responses: dict[tuple[str, ...], int] = defaultdict(int)

    def on_event(self, event: Event) -> None:
        """Count one event."""
        if isinstance(event, AttemptFinished):
            self.attempts[event.strategy, event.upstream, event.verdict].observe(event.duration_s)
            if event.status is not None:
                self.responses[event.upstream, status_class(event.status)] += 1
        elif isinstance(event, ItemFinished):
            self._record_item(event.strategy, event.upstream, event.outcome)
        elif isinstance(event, RetryScheduled):
            self.retries[event.upstream, event.reason] += 1
        elif isinstance(event, BatchFinished):
            self.batches[(event.strategy,)].observe(event.elapsed_s)

    def record_http_request(self, route: str, method: str, status_label: str, duration_s: float) -> None:
        """Count one request to the service itself."""
        self.http_requests[route, method, status_label].observe(duration_s)

    def _record_item(self, strategy: Strategy, upstream: str, outcome: Outcome) -> None:
        timing = outcome.timing
        self.items[strategy, upstream, outcome.outcome].observe(timing.total_ms / 1000)
        if timing.rate_wait_ms:
            self.waits[strategy, upstream, WaitReason.RATE].observe(timing.rate_wait_ms / 1000)
        if timing.queue_ms:
            self.waits[strategy, upstream, WaitReason.CONCURRENCY].observe(timing.queue_ms / 1000)
        if timing.backoff_ms:
            self.waits[strategy, upstream, WaitReason.BACKOFF].observe(timing.backoff_ms / 1000)
        if timing.pause_ms:
            self.waits[strategy, upstream, WaitReason.PAUSE].observe(timing.pause_ms / 1000)
        if outcome.outcome is OutcomeKind.REJECTED and outcome.error is not None:
            self.rejections[upstream, outcome.error.code] += 1
