"""What the commands' flags mean; a flag that cannot be used is a `UsageError` that says what to write instead."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import UNSET

from paceline.batch.batch_request import BatchOptions, RateSpec
from paceline.batch.field_types import check_max_concurrency, check_retry, parse_rate, parse_seconds
from paceline.batch.input_errors import FieldError
from paceline.batch.validation import apply_options
from paceline.cli.usage_error import UsageError
from paceline.model import Batch, Duration, ItemRetry, Priority, Rate, Strategy, Tenant
from paceline.units import MAX_DURATION_S

_RATE_PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)/(.+)")
_NUMBER_PATTERN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_KEY_PATTERN = re.compile(r"[\x21-\x7e]+")
_RATE_EXAMPLE = "--rate 50/1s"
_FLAGS = {
    "max_concurrency": "--max-concurrency",
    "rate": "--rate",
    "rate.burst": "--burst",
    "deadline": "--deadline",
    "retry.attempts": "--attempts",
}
"""The flag of each field of a batch that has one."""

DEFAULT_KEY_VARIABLE = "PACELINE_KEY"


def parse_duration_flag(flag: str, text: str) -> float:
    """Seconds of `30s`, `250ms`, `2m` or a plain number of seconds; above zero.

    Raises:
        UsageError: anything else.
    """
    try:
        return parse_seconds(_duration(text), flag)
    except FieldError as error:
        raise flag_error(error) from None


def parse_rate_flag(text: str, burst: float | None = None) -> Rate:
    """A window written as `50/1s`, `100/m` or `5000/1h`.

    Raises:
        UsageError: anything else.
    """
    try:
        return parse_rate(_rate_spec(text, burst))
    except FieldError as error:
        raise flag_error(error.with_prefix("rate")) from None


def check_count_flags(*, max_concurrency: int | None = None, attempts: int | None = None) -> None:
    """Check the flags that are plain numbers.

    Raises:
        UsageError: one is out of range.
    """
    try:
        if max_concurrency is not None:
            check_max_concurrency(max_concurrency)
        check_retry(_retry(attempts))
    except FieldError as error:
        raise flag_error(error) from None


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
    if rate is None and burst is not None:
        raise UsageError(f"--burst: belongs to a --rate; add one, as in {_RATE_EXAMPLE}")
    options = BatchOptions(
        strategy=strategy,
        max_concurrency=UNSET if max_concurrency is None else max_concurrency,
        rate=UNSET if rate is None else _rate_spec(rate, burst),
        priority=priority,
        retry=_retry(attempts),
    )
    try:
        deadline_s = MAX_DURATION_S if deadline is None else parse_seconds(_duration(deadline), "deadline")
        return apply_options(options, deadline_s, Tenant(), rate_example=_RATE_EXAMPLE)
    except FieldError as error:
        raise flag_error(error) from None


def flag_error(error: FieldError) -> UsageError:
    """The error of a field as that of the flag it came from, in the same words."""
    flag, rest = _FLAGS.get(error.field), ""
    if flag is None:
        parent, _, name = error.field.rpartition(".")
        flag, rest = (_FLAGS[parent], f"{name} ") if parent in _FLAGS else (error.field, "")
    return UsageError(f"{flag}: {rest}{error.problem}")


def _rate_spec(text: str, burst: float | None) -> RateSpec:
    match = _RATE_PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(f"--rate: {text!r} is not a rate; write it as 50/1s, 100/1m or 5000/1h")
    per = match[2] if match[2][0].isdigit() else f"1{match[2]}"
    return RateSpec(float(match[1]), _duration(per), UNSET if burst is None else burst)


def _duration(text: str) -> Duration:
    """A flag is always text; a plain number is one of seconds, as in a body."""
    return float(text) if _NUMBER_PATTERN.fullmatch(text) else text


def _retry(attempts: int | None) -> ItemRetry:
    return ItemRetry() if attempts is None else ItemRetry(attempts=attempts)


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
            # The value is not repeated: the caller may have given the key itself.
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
