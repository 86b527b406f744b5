"""The closed sets of words: strategies, priorities, verdicts, outcomes, wait reasons, body forms and engines."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

EngineName = Literal["aiohttp", "httpx"]


class Strategy(StrEnum):
    """How a batch is fanned out; the layers of each are written in `upstream/pipeline.py`."""

    SEQUENTIAL = "sequential"
    CONCURRENT = "concurrent"
    BOUNDED = "bounded"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - a strategy, no secret
    ADAPTIVE = "adaptive"


class Priority(StrEnum):
    """A waiter's class; classes share a budget 100 : 10 : 1."""

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
    """What became of an item."""

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
    """How a body is to be given back."""

    AUTO = "auto"
    TEXT = "text"
    BASE64 = "base64"
    NONE = "none"
