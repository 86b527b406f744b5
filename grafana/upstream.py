"""One upstream, or some: what its limits let through, what it refuses, how it fails, and how Paceline takes it."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.overview import BREAKER_STATE_QUERY, BREAKER_STATES, BUDGET_PAUSED_QUERY, PAUSE_STATES
from grafana.panels import (
    SU,
    Query,
    R,
    U,
    build_dashboard,
    describe,
    quantiles,
    state_timeline_panel,
    time_series_panel,
)


def upstream_dashboard() -> Dashboard:
    return build_dashboard(
        "paceline-upstream",
        "Paceline / Upstream",
        "What an upstream's limits let through, what it refuses, how it fails, and how Paceline takes it.",
        {
            "Rate": [
                time_series_panel(
                    "Rate used against its limit",
                    describe(
                        "Attempts a second, and dashed what the tightest window allows in the long run.",
                        "touching the limit is right while items wait; far below it with a queue, see *Waiting, by "
                        "reason*.",
                    ),
                    Query(f"sum by (upstream) (rate(paceline_attempts_total{{{U}}}{R}))", "{{upstream}}"),
                    Query(f"sum by (upstream) (paceline_rate_limit_per_second{{{U}}})", "limit of {{upstream}}"),
                    unit="reqps",
                    dashed="/^limit of /",
                ),
                time_series_panel(
                    "Remaining in each window",
                    describe(
                        "Tokens that are free; of several instances their sum.",
                        "at nought for long, that window is the one that holds: spread the work, or ask for more.",
                    ),
                    Query(f"sum by (upstream, window) (paceline_rate_remaining{{{U}}})", "{{upstream}} {{window}}"),
                    unit="short",
                ),
                time_series_panel(
                    "Throttles",
                    describe(
                        "Attempts a second that the upstream refused for rate (429 and its likes).",
                        "above nought although a rate is declared: it allows less, or others use the same quota.",
                    ),
                    Query(
                        f'sum by (upstream) (rate(paceline_attempts_total{{verdict="throttled", {SU}}}{R}))',
                        "{{upstream}}",
                    ),
                    unit="reqps",
                    width=8,
                ),
                time_series_panel(
                    "Waiting, by reason",
                    describe(
                        "How many items wait on average for tokens, a permit, the next attempt or the end of a pause.",
                        "rate: ask for more quota. concurrency: allow more in flight. backoff: see *Failures*. pause: "
                        "declare a lower rate.",
                    ),
                    Query(f"sum by (reason) (rate(paceline_wait_seconds_sum{{{SU}}}{R}))", "{{reason}}"),
                    unit="short",
                    width=8,
                    stacked=True,
                ),
                state_timeline_panel(
                    "Paused",
                    describe(
                        "Whether the upstream's own throttle, or an operator, holds everything back.",
                        "see `GET /v1/upstreams/NAME` for how long, and for what the upstream said last.",
                    ),
                    BUDGET_PAUSED_QUERY,
                    PAUSE_STATES,
                    width=8,
                    height=8,
                ),
            ],
            "Concurrency": [
                time_series_panel(
                    "In flight against the concurrency limit",
                    describe(
                        "Attempts in flight, and dashed how many may be; an adaptive limit moves.",
                        "touching it with a free rate: raise it, or make it adaptive. An adaptive limit that falls "
                        "protects an upstream that got slower.",
                    ),
                    Query(f"sum by (upstream) (paceline_in_flight{{{U}}})", "{{upstream}}"),
                    Query(f"sum by (upstream) (paceline_concurrency_limit{{{U}}})", "limit of {{upstream}}"),
                    unit="short",
                    dashed="/^limit of /",
                    width=8,
                ),
                time_series_panel(
                    "Waiting for admission",
                    describe(
                        "Attempts that wait now.",
                        "growing without end: send less, or raise what holds them.",
                    ),
                    Query(f"sum by (upstream) (paceline_queued{{{U}}})", "{{upstream}}"),
                    unit="short",
                    width=8,
                ),
                time_series_panel(
                    "How long attempts take",
                    describe(
                        "From the grant of an attempt to the end of its answer, without waits.",
                        "this is the upstream's own speed; near `timeout.attempt` they are cut off and sent again.",
                    ),
                    *quantiles("paceline_attempt_duration_seconds"),
                    unit="s",
                    width=8,
                ),
            ],
            "Failures": [
                time_series_panel(
                    "Attempts, by verdict",
                    describe(
                        "How attempts ended: well, throttled, failed in a way that may pass (transient), or for good "
                        "(permanent).",
                        "transient above a tenth for long: tell its owners. permanent: look at what callers send.",
                    ),
                    Query(f"sum by (verdict) (rate(paceline_attempts_total{{{SU}}}{R}))", "{{verdict}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
                time_series_panel(
                    "Answers, by status class",
                    describe(
                        "What the upstream answered; an attempt without an answer is in none of them.",
                        "fewer answers than attempts means it cannot be reached, or not in time.",
                    ),
                    Query(f"sum by (status_class) (rate(paceline_responses_total{{{U}}}{R}))", "{{status_class}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
                state_timeline_panel(
                    "Breaker",
                    describe(
                        "Whether it is called (closed), tried (half open) or left alone (open).",
                        "open: it fails; nothing to do here. After a repair it closes within `breaker.max_open`.",
                    ),
                    BREAKER_STATE_QUERY,
                    BREAKER_STATES,
                    width=8,
                    height=8,
                ),
                time_series_panel(
                    "Retries, by reason",
                    describe(
                        "Further attempts a second, by what the one before it met.",
                        "connect, dns and tls are the network or the address; status is the upstream; attempt_timeout, "
                        "that it is slow.",
                    ),
                    Query(f"sum by (reason) (rate(paceline_retries_total{{{U}}}{R}))", "{{reason}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
                time_series_panel(
                    "Retry budget",
                    describe(
                        "Retries that are allowed now.",
                        "at nought, failures go to callers as they are; that protects the upstream. Raise "
                        "`retry.budget_ratio` only if it can take the load.",
                    ),
                    Query(f"min by (upstream) (paceline_retry_budget_remaining{{{U}}})", "{{upstream}}"),
                    unit="short",
                    width=8,
                ),
                time_series_panel(
                    "Rejections, by code",
                    describe(
                        "Items a second that were refused and never sent.",
                        "circuit_open, deadline_unreachable and overloaded follow from limits; the other codes are "
                        "mistakes of callers, or not allowed to them.",
                    ),
                    Query(f"sum by (code) (rate(paceline_rejections_total{{{U}}}{R}))", "{{code}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
            ],
        },
    )
