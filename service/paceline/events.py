"""The events that the layers emit, as frozen values; listeners turn them into metrics and log lines.

A listener is a plain callable and must not raise or wait. An event costs one call for each listener.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from paceline.model import Outcome, Strategy, Summary, Verdict


class AttemptFinished(Struct, frozen=True, gc=False):
    """One attempt was settled; `status` is None where there was no response."""

    strategy: Strategy
    upstream: str
    verdict: Verdict
    status: int | None
    duration_s: float


class RetryScheduled(Struct, frozen=True, gc=False):
    """An item will be retried; `reason` is `throttled`, `status` or the error's code."""

    upstream: str
    reason: str


class ItemFinished(Struct, frozen=True, gc=False):
    """An item has its outcome; its waits are in the outcome's timing."""

    strategy: Strategy
    upstream: str
    outcome: Outcome


class BatchFinished(Struct, frozen=True, gc=False):
    """Every item of a batch has its outcome."""

    strategy: Strategy
    batch_id: str
    tenant: str
    summary: Summary
    elapsed_s: float


class BudgetPaused(Struct, frozen=True, gc=False):
    """A throttle paused an upstream's budget."""

    upstream: str
    duration_s: float


Event = AttemptFinished | RetryScheduled | ItemFinished | BatchFinished | BudgetPaused
EventListener = Callable[[Event], None]


def combine_listeners(*listeners: EventListener) -> EventListener:
    """One listener that calls all of these, in order."""
    if len(listeners) == 1:
        return listeners[0]

    def emit_to_all(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return emit_to_all
