"""Every dialect, one table each. A table leaves out what its upstream does not send."""

from __future__ import annotations

from types import MappingProxyType

from paceline.header_values import number
from paceline.rate.dialects import ietf
from paceline.rate.dialects.dialect import Dialect, KnownWindow, RateHeaders, WindowFields
from paceline.rate.dialects.reset_values import parse_wait
from paceline.rate.rate_info import RateWindowInfo

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
_SHOPIFY_DRAIN_S = 20.0
"""A bucket of 40 leaks 2 a second, one of 80 leaks 4, one of 400 leaks 20: each is empty in the same time."""


def _parse_shopify_call_limit(headers: RateHeaders) -> tuple[RateWindowInfo, ...]:
    """Shopify's `32/40`: used units and bucket size; the bucket drains steadily."""
    used_text, slash, size_text = headers.fields.get("x-shopify-shop-api-call-limit", "").partition("/")
    used, size = number(used_text), number(size_text)
    if not slash or used is None or not size:
        return ()
    drained_after_s = headers.clamp_wait(min(used, size) / size * _SHOPIFY_DRAIN_S)
    window = RateWindowInfo(
        "default", "requests", size, max(0.0, size - used), drained_after_s, _SHOPIFY_DRAIN_S, refills=True
    )
    return (window,)


def _openai_style_windows(
    *, requests_per_s: float | None = None, tokens_per_s: float | None = None, refills: bool, infer_length: bool
) -> tuple[WindowFields, ...]:
    """The two windows of OpenAI's API and of the APIs that follow it."""
    length_by_unit = {"requests": requests_per_s, "tokens": tokens_per_s}
    return tuple(
        WindowFields(
            name=unit,
            unit=unit,
            limit=f"x-ratelimit-limit-{unit}",
            remaining=f"x-ratelimit-remaining-{unit}",
            reset=(f"x-ratelimit-reset-{unit}",),
            per_s=per_s,
            refills=refills,
            candidate_per_s=(_MINUTE_S, _DAY_S) if infer_length else (),
        )
        for unit, per_s in length_by_unit.items()
    )


def _x_ratelimit_window(prefix: str, *, used: bool = False, reset_unit_s: float = 1.0) -> WindowFields:
    """The three names that most upstreams share."""
    return WindowFields(
        limit=f"{prefix}-limit",
        remaining=f"{prefix}-remaining",
        used=f"{prefix}-used" if used else "",
        reset=(f"{prefix}-reset",),
        reset_unit_s=reset_unit_s,
    )


_OPENAI_SIGNATURE_FIELDS = tuple(
    name for window in _openai_style_windows(refills=True, infer_length=True) for name in window.field_names()
)
_ANTHROPIC = "anthropic-ratelimit"
_HUBSPOT = "x-hubspot-ratelimit"

IETF = Dialect(
    name="ietf",
    windows_parser=ietf.parse_current_draft,
    parsed_fields=("ratelimit", "ratelimit-policy"),
    is_ietf=True,
)
DRAFT07 = Dialect(
    name="draft07",
    windows_parser=ietf.parse_draft07,
    parsed_fields=("ratelimit", "ratelimit-policy"),
    is_ietf=True,
)
INTERIM = Dialect(
    name="interim2023",
    windows_parser=ietf.parse_interim2023,
    parsed_fields=("ratelimit", "ratelimit-policy"),
    is_ietf=True,
)
DRAFT06 = Dialect(
    name="draft06",
    windows_parser=ietf.parse_draft06,
    parsed_fields=("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy"),
    signature_fields=("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
    is_ietf=True,
)

REDDIT = Dialect(
    name="reddit",
    windows=(
        WindowFields(
            remaining="x-ratelimit-remaining",
            used="x-ratelimit-used",
            reset=("x-ratelimit-reset",),
            reset_parser=parse_wait,
        ),
    ),
)
"""Identified by what is absent: it sends what was used, and no limit."""

WITH_SIGNATURE: tuple[Dialect, ...] = (
    Dialect(
        name="anthropic",
        windows=(
            *(
                WindowFields(
                    name=unit,
                    unit=unit,
                    limit=f"{_ANTHROPIC}-{unit}-limit",
                    remaining=f"{_ANTHROPIC}-{unit}-remaining",
                    reset=(f"{_ANTHROPIC}-{unit}-reset",),
                    per_s=_MINUTE_S,
                    refills=True,
                )
                for unit in ("requests", "tokens", "input-tokens", "output-tokens")
            ),
            WindowFields(name="unified", reset=(f"{_ANTHROPIC}-unified-reset",)),
        ),
        signature_fields=(
            f"{_ANTHROPIC}-unified-reset",
            *(
                f"{_ANTHROPIC}-{unit}-{what}"
                for unit in ("requests", "tokens", "input-tokens", "output-tokens")
                for what in ("limit", "remaining", "reset")
            ),
        ),
    ),
    Dialect(
        name="shopify",
        windows_parser=_parse_shopify_call_limit,
        parsed_fields=("x-shopify-shop-api-call-limit",),
        signature_fields=("x-shopify-shop-api-call-limit",),
    ),
    Dialect(
        name="hubspot",
        windows=(
            WindowFields(
                name="interval",
                limit=f"{_HUBSPOT}-max",
                remaining=f"{_HUBSPOT}-remaining",
                per_ms=f"{_HUBSPOT}-interval-milliseconds",
            ),
            WindowFields(
                name="secondly",
                limit=f"{_HUBSPOT}-secondly",
                remaining=f"{_HUBSPOT}-secondly-remaining",
                per_s=1.0,
            ),
            WindowFields(
                name="daily", limit=f"{_HUBSPOT}-daily", remaining=f"{_HUBSPOT}-daily-remaining", per_s=_DAY_S
            ),
        ),
        signature_fields=(
            f"{_HUBSPOT}-max",
            f"{_HUBSPOT}-remaining",
            f"{_HUBSPOT}-secondly",
            f"{_HUBSPOT}-secondly-remaining",
            f"{_HUBSPOT}-daily",
            f"{_HUBSPOT}-daily-remaining",
        ),
    ),
    Dialect(
        name="groq",
        windows=_openai_style_windows(requests_per_s=_DAY_S, tokens_per_s=_MINUTE_S, refills=True, infer_length=False),
        signature_fields=("x-groq-region",),
    ),
    Dialect(
        name="azure",
        windows=_openai_style_windows(refills=False, infer_length=False),
        signature_fields=("x-ms-region", "apim-request-id"),
    ),
    Dialect(
        name="openai",
        windows=_openai_style_windows(refills=True, infer_length=True),
        signature_fields=_OPENAI_SIGNATURE_FIELDS,
    ),
    Dialect(
        name="discord",
        windows=(
            WindowFields(
                limit="x-ratelimit-limit",
                remaining="x-ratelimit-remaining",
                # The wait first: it needs no clock.
                reset=("x-ratelimit-reset-after", "x-ratelimit-reset"),
            ),
        ),
        window_name="x-ratelimit-bucket",
        scope="x-ratelimit-scope",
        global_scope="x-ratelimit-global",
        bucket="x-ratelimit-bucket",
        signature_fields=("x-ratelimit-bucket", "x-ratelimit-reset-after", "x-ratelimit-global", "x-ratelimit-scope"),
    ),
    Dialect(
        name="github",
        windows=(_x_ratelimit_window("x-ratelimit", used=True),),
        window_name="x-ratelimit-resource",
        known_windows=MappingProxyType(
            {
                "core": KnownWindow(_HOUR_S),
                "graphql": KnownWindow(_HOUR_S, "points"),
                "search": KnownWindow(_MINUTE_S),
                "code_search": KnownWindow(_MINUTE_S),
            }
        ),
        signature_fields=("x-ratelimit-resource",),
        default_wait_s=60.0,
    ),
    Dialect(
        name="jira",
        windows=(_x_ratelimit_window("x-ratelimit"),),
        reason="ratelimit-reason",
        near_limit="x-ratelimit-nearlimit",
        signature_fields=("ratelimit-reason", "x-ratelimit-nearlimit"),
    ),
    REDDIT,
    Dialect(name="stripe", reason="stripe-rate-limited-reason", signature_fields=("stripe-rate-limited-reason",)),
)
"""Those with a signature of their own, the most specific first."""

GENERIC = Dialect(
    name="generic",
    windows=(_x_ratelimit_window("x-ratelimit", used=True), _x_ratelimit_window("x-rate-limit")),
    vendor_wait="x-ratelimit-retry-after",
    signature_fields=(
        *_x_ratelimit_window("x-ratelimit", used=True).field_names(),
        *_x_ratelimit_window("x-rate-limit").field_names(),
        "x-ratelimit-retry-after",
    ),
)
RFC9110 = Dialect(name="rfc9110")

ALL_DIALECTS: tuple[Dialect, ...] = (
    IETF,
    DRAFT07,
    INTERIM,
    DRAFT06,
    Dialect(
        name="cloudflare",
        windows_parser=ietf.parse_current_draft,
        parsed_fields=("ratelimit", "ratelimit-policy"),
        is_ietf=True,
    ),
    *WITH_SIGNATURE,
    Dialect(name="x", windows=(_x_ratelimit_window("x-rate-limit"),)),
    Dialect(name="prisjakt", windows=(_x_ratelimit_window("x-rate-limit", reset_unit_s=0.001),)),
    Dialect(name="slack"),
    Dialect(name="graph"),
    GENERIC,
    RFC9110,
)
