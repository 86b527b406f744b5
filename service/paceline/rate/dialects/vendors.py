"""Every dialect, one table each. What a table leaves out, its upstream does not say."""

from __future__ import annotations

from types import MappingProxyType

from paceline.http_values import number
from paceline.rate.dialects import structured
from paceline.rate.dialects.resets import wait_of
from paceline.rate.dialects.table import Answer, Dialect, Known, WindowNames
from paceline.rate.rate_info import RateWindowInfo

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
_SHOPIFY_DRAIN_S = 20.0
"""A bucket of 40 leaks 2 a second, one of 80 leaks 4, one of 400 leaks 20: each is empty in the same time."""


def _used_of_size(answer: Answer) -> tuple[RateWindowInfo, ...]:
    """Shopify's `32/40`: used first, and it leaks."""
    used_text, slash, size_text = answer.fields.get("x-shopify-shop-api-call-limit", "").partition("/")
    used, size = number(used_text), number(size_text)
    if not slash or used is None or not size:
        return ()
    emptied_s = answer.bounded(min(used, size) / size * _SHOPIFY_DRAIN_S)
    window = RateWindowInfo(
        "default", "requests", size, max(0.0, size - used), emptied_s, _SHOPIFY_DRAIN_S, refills=True
    )
    return (window,)


def _llm(
    *, requests_per_s: float | None = None, tokens_per_s: float | None = None, refills: bool, usual: bool
) -> tuple[WindowNames, ...]:
    """The pair of windows that OpenAI's interface has, and all who speak it."""
    lengths = {"requests": requests_per_s, "tokens": tokens_per_s}
    return tuple(
        WindowNames(
            name=unit,
            unit=unit,
            limit=f"x-ratelimit-limit-{unit}",
            remaining=f"x-ratelimit-remaining-{unit}",
            reset=(f"x-ratelimit-reset-{unit}",),
            per_s=per_s,
            refills=refills,
            usual_per_s=(_MINUTE_S, _DAY_S) if usual else (),
        )
        for unit, per_s in lengths.items()
    )


def _plain(prefix: str, *, used: bool = False, reset_unit_s: float = 1.0) -> WindowNames:
    """The three names that most upstreams copied from one another."""
    return WindowNames(
        limit=f"{prefix}-limit",
        remaining=f"{prefix}-remaining",
        used=f"{prefix}-used" if used else "",
        reset=(f"{prefix}-reset",),
        reset_unit_s=reset_unit_s,
    )


_OPENAI_SIGNS = tuple(name for window in _llm(refills=True, usual=True) for name in window.names())
_ANTHROPIC = "anthropic-ratelimit"
_HUBSPOT = "x-hubspot-ratelimit"

IETF = Dialect(name="ietf", lists=structured.head, list_names=("ratelimit", "ratelimit-policy"), ietf=True)
DRAFT07 = Dialect(name="draft07", lists=structured.draft07, list_names=("ratelimit", "ratelimit-policy"), ietf=True)
INTERIM = Dialect(name="interim2023", lists=structured.interim, list_names=("ratelimit", "ratelimit-policy"), ietf=True)
DRAFT06 = Dialect(
    name="draft06",
    lists=structured.draft06,
    list_names=("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy"),
    signs=("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
    ietf=True,
)

REDDIT = Dialect(
    name="reddit",
    windows=(
        WindowNames(
            remaining="x-ratelimit-remaining",
            used="x-ratelimit-used",
            reset=("x-ratelimit-reset",),
            read_reset=wait_of,
        ),
    ),
)
"""Told by what it lacks: it sends what was used, and no limit."""

TOLD_APART: tuple[Dialect, ...] = (
    Dialect(
        name="anthropic",
        windows=(
            *(
                WindowNames(
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
            WindowNames(name="unified", reset=(f"{_ANTHROPIC}-unified-reset",)),
        ),
        signs=(
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
        lists=_used_of_size,
        list_names=("x-shopify-shop-api-call-limit",),
        signs=("x-shopify-shop-api-call-limit",),
    ),
    Dialect(
        name="hubspot",
        windows=(
            WindowNames(
                name="interval",
                limit=f"{_HUBSPOT}-max",
                remaining=f"{_HUBSPOT}-remaining",
                per_ms=f"{_HUBSPOT}-interval-milliseconds",
            ),
            WindowNames(
                name="secondly",
                limit=f"{_HUBSPOT}-secondly",
                remaining=f"{_HUBSPOT}-secondly-remaining",
                per_s=1.0,
            ),
            WindowNames(name="daily", limit=f"{_HUBSPOT}-daily", remaining=f"{_HUBSPOT}-daily-remaining", per_s=_DAY_S),
        ),
        signs=(
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
        windows=_llm(requests_per_s=_DAY_S, tokens_per_s=_MINUTE_S, refills=True, usual=False),
        signs=("x-groq-region",),
    ),
    Dialect(name="azure", windows=_llm(refills=False, usual=False), signs=("x-ms-region", "apim-request-id")),
    Dialect(name="openai", windows=_llm(refills=True, usual=True), signs=_OPENAI_SIGNS),
    Dialect(
        name="discord",
        windows=(
            WindowNames(
                limit="x-ratelimit-limit",
                remaining="x-ratelimit-remaining",
                # The wait first: it needs no clock.
                reset=("x-ratelimit-reset-after", "x-ratelimit-reset"),
            ),
        ),
        named_by="x-ratelimit-bucket",
        scope="x-ratelimit-scope",
        global_scope="x-ratelimit-global",
        bucket="x-ratelimit-bucket",
        signs=("x-ratelimit-bucket", "x-ratelimit-reset-after", "x-ratelimit-global", "x-ratelimit-scope"),
    ),
    Dialect(
        name="github",
        windows=(_plain("x-ratelimit", used=True),),
        named_by="x-ratelimit-resource",
        known=MappingProxyType(
            {
                "core": Known(_HOUR_S),
                "graphql": Known(_HOUR_S, "points"),
                "search": Known(_MINUTE_S),
                "code_search": Known(_MINUTE_S),
            }
        ),
        signs=("x-ratelimit-resource",),
        unnamed_wait_s=60.0,
    ),
    Dialect(
        name="jira",
        windows=(_plain("x-ratelimit"),),
        reason="ratelimit-reason",
        near_limit="x-ratelimit-nearlimit",
        signs=("ratelimit-reason", "x-ratelimit-nearlimit"),
    ),
    REDDIT,
    Dialect(name="stripe", reason="stripe-rate-limited-reason", signs=("stripe-rate-limited-reason",)),
)
"""Those with a sign of their own, the most particular first."""

GENERIC = Dialect(
    name="generic",
    windows=(_plain("x-ratelimit", used=True), _plain("x-rate-limit")),
    wait="x-ratelimit-retry-after",
    signs=(
        *_plain("x-ratelimit", used=True).names(),
        *_plain("x-rate-limit").names(),
        "x-ratelimit-retry-after",
    ),
)
RFC9110 = Dialect(name="rfc9110")

ALL: tuple[Dialect, ...] = (
    IETF,
    DRAFT07,
    INTERIM,
    DRAFT06,
    Dialect(name="cloudflare", lists=structured.head, list_names=("ratelimit", "ratelimit-policy"), ietf=True),
    *TOLD_APART,
    Dialect(name="x", windows=(_plain("x-rate-limit"),)),
    Dialect(name="prisjakt", windows=(_plain("x-rate-limit", reset_unit_s=0.001),)),
    Dialect(name="slack"),
    Dialect(name="graph"),
    GENERIC,
    RFC9110,
)
