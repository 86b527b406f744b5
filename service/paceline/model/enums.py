"""The closed sets of words: strategies, priorities, verdicts, outcomes, wait reasons, body forms and engines."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

EngineName = Literal["aiohttp", "httpx"]


class Strategy(StrEnum):
    """How a batch is sent: `adaptive` at the rate each upstream allows, `sequential` one item after another,
    `concurrent` all at once, `bounded` under a semaphore, `token_bucket` under a semaphore at the batch's `rate`.
    """

    SEQUENTIAL = "sequential"
    CONCURRENT = "concurrent"
    BOUNDED = "bounded"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - a strategy, no secret
    ADAPTIVE = "adaptive"

    @property
    def takes_max_concurrency(self) -> bool:
        """Whether a batch may bound its own calls in flight under it."""
        return self in (Strategy.BOUNDED, Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)

    @property
    def takes_rate(self) -> bool:
        """Whether a batch may have a rate of its own under it."""
        return self in (Strategy.TOKEN_BUCKET, Strategy.ADAPTIVE)


class Priority(StrEnum):
    """Priority class. Where classes compete for an upstream's quota, they share it 100 : 10 : 1."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BULK = "bulk"


class Verdict(StrEnum):
    """What one attempt says: about the item (retry it?) and about the upstream."""

    SUCCESS = "success"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    PERMANENT = "permanent"
    IGNORED = "ignored"


class OutcomeKind(StrEnum):
    """Kind of an item's result: `success`, or what kept it from one. `error.code` says more."""

    SUCCESS = "success"
    HTTP_ERROR = "http_error"
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"
    PROTOCOL_ERROR = "protocol_error"
    TOO_LARGE = "too_large"
    REJECTED = "rejected"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    DEPENDENCY_FAILED = "dependency_failed"


class WaitReason(StrEnum):
    """What an item waited for; the label of `paceline_wait_seconds`."""

    RATE = "rate"
    CONCURRENCY = "concurrency"
    BACKOFF = "backoff"
    PAUSE = "pause"


class Expect(StrEnum):
    """Form of a response body: `auto` JSON where the body is JSON, text where it is text, else base64; `text` text;
    `base64` bytes in base64; `none` no body.
    """

    AUTO = "auto"
    TEXT = "text"
    BASE64 = "base64"
    NONE = "none"
