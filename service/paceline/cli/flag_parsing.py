"""What the commands' flags mean; a flag that cannot be used is a `UsageError` that says what to write instead."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import UNSET

from paceline.cli.usage_error import UsageError
from paceline.model import Batch, ItemRetry, Priority, Rate, Strategy
from paceline.units import MAX_DURATION_S, parse_duration

_RATE_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(.+)")
_KEY_PATTERN = re.compile(r"[\x21-\x7e]+")
_STRATEGIES_WITH_CONCURRENCY_CAP = (Strategy.ADAPTIVE, Strategy.BOUNDED, Strategy.TOKEN_BUCKET)
_MIN_WINDOW_S = 0.001
_STRATEGIES_WITH_RATE = (Strategy.ADAPTIVE, Strategy.TOKEN_BUCKET)

DEFAULT_KEY_VARIABLE = "PACELINE_KEY"


def parse_duration_flag(flag: str, text: str) -> float:
    """Seconds of `30s`, `250ms`, `2m` or a plain number of seconds; above zero.

    Raises:
        UsageError: anything else.
    """
    try:
        seconds = parse_duration(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise UsageError(f"{flag}: {text!r} {error}") from None
    if seconds <= 0:
        raise UsageError(f"{flag}: {text!r} must be longer than zero; write a positive duration")
    return seconds


def parse_rate_flag(text: str, burst: float | None = None) -> Rate:
    """A window written as `50/1s`, `100/m` or `5000/1h`.

    Raises:
        UsageError: anything else.
    """
    match = _RATE_PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(f"--rate: {text!r} is not a rate; write it as 50/1s, 100/1m or 5000/1h")
    limit, per = float(match[1]), match[2]
    per_s = parse_duration_flag("--rate", per if per[0].isdigit() else f"1{per}")
    if not limit > 0:
        raise UsageError("--rate: a limit of zero lets nothing through; write one above zero")
    if per_s < _MIN_WINDOW_S:
        raise UsageError("--rate: a window is at least 1ms long; write it in a longer unit")
    if burst is not None and not 0 < burst <= limit:
        raise UsageError(f"--burst: must be above zero and at most the limit, {limit:g}")
    return Rate(limit, per_s, limit if burst is None else burst)


def batch_from_flags(
    *,
    strategy: Strategy = Strategy.ADAPTIVE,
    max_concurrency: int | None = None,
    rate: str | None = None,
    burst: float | None = None,
    deadline: str | None = None,
    priority: Priority = Priority.NORMAL,
    attempts: int | None = None,
) -> Batch:
    """A batch without items, as the flags describe it. Without a deadline it may take as long as it needs.

    Raises:
        UsageError: a flag that means nothing under this strategy, or a value out of range.
    """
    if max_concurrency is not None and strategy not in _STRATEGIES_WITH_CONCURRENCY_CAP:
        raise UsageError(f"--max-concurrency: means nothing under {strategy}; remove it, or choose bounded")
    if rate is not None and strategy not in _STRATEGIES_WITH_RATE:
        raise UsageError(f"--rate: means nothing under {strategy}; remove it, or choose adaptive or token_bucket")
    if rate is None and strategy is Strategy.TOKEN_BUCKET:
        raise UsageError("--rate: token_bucket needs one; write it as --rate 50/1s")
    if rate is None and burst is not None:
        raise UsageError("--burst: belongs to a --rate; add one, as in --rate 50/1s")
    return Batch(
        items=(),
        strategy=strategy,
        max_concurrency=max_concurrency,
        rate=None if rate is None else parse_rate_flag(rate, burst),
        deadline_s=MAX_DURATION_S if deadline is None else parse_duration_flag("--deadline", deadline),
        priority=priority,
        retry=ItemRetry() if attempts is None else ItemRetry(attempts=attempts),
    )


def read_api_key(variable: str | None, file: Path | None, environ: Mapping[str, str] = os.environ) -> str | None:
    """The API key for a service: from a file, a named variable, or PACELINE_KEY where that is set.

    Raises:
        UsageError: it is not where it was said to be, or is no key.
    """
    if variable is not None and file is not None:
        raise UsageError("--key and --key-file: give one of them")
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--key-file: {file} cannot be read: {_reason(error)}") from None
        source = f"--key-file: {file}"
    elif variable is not None:
        if variable not in environ:
            # The value is not repeated: somebody may have given the key itself.
            raise UsageError("--key: names an environment variable, and there is none of that name; set it first")
        key, source = environ[variable].strip(), f"--key: {variable}"
    else:
        key, source = environ.get(DEFAULT_KEY_VARIABLE, "").strip(), DEFAULT_KEY_VARIABLE
        if not key:
            return None
    if not _KEY_PATTERN.fullmatch(key):
        raise UsageError(f"{source} does not hold a key; it must be one word of visible ASCII")
    return key


def explicit_attempts(batch: Batch) -> int | None:
    """The attempts a batch names, if it does."""
    return None if batch.retry.attempts is UNSET else batch.retry.attempts


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8"
