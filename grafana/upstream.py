"""One upstream, or some: what its limits let through, what it refuses, how it fails, and how Paceline takes it."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.overview import BREAKER, BREAKER_STATE, BUDGET_PAUSED, PAUSED
from grafana.parts import SU, Q, R, U, board, lines, quantiles, states, told


def upstream() -> Dashboard:
    return board(
        "paceline-upstream",
        "Paceline / Upstream",
        "What an upstream's limits let through, what it refuses, how it fails, and how Paceline takes it.",
        {
            "Rate": [
                lines(
                    "Rate used against its limit",
                    told(
                        "Attempts a second, and dashed what the tightest window allows in the long run.",
                        "touching the limit is right while items wait; far below it with a queue, see *Waiting, by "
                        "reason*.",
                    ),
                    Q(f"sum by (upstream) (rate(paceline_attempts_total{{{U}}}{R}))", "{{upstream}}"),
                    Q(f"sum by (upstream) (paceline_rate_limit_per_second{{{U}}})", "limit of {{upstream}}"),
                    unit="reqps",
                    dashed="/^limit of /",
                ),
                lines(
                    "Remaining in each window",
                    told(
                        "Tokens that are free; of several instances their sum.",
                        "at nought for long, that window is the one that holds: spread the work, or ask for more.",
                    ),
                    Q(f"sum by (upstream, window) (paceline_rate_remaining{{{U}}})", "{{upstream}} {{window}}"),
                    unit="short",
                ),
                lines(
                    "Throttles",
                    told(
                        "Attempts a second that the upstream refused for rate (429 and its likes).",
                        "above nought although a rate is declared: it allows less, or others use the same quota.",
                    ),
                    Q(
                        f'sum by (upstream) (rate(paceline_attempts_total{{verdict="throttled", {SU}}}{R}))',
                        "{{upstream}}",
                    ),
                    unit="reqps",
                    width=8,
                ),
                lines(
                    "Waiting, by reason",
                    told(
                        "How many items wait on average for tokens, a permit, the next attempt or the end of a pause.",
                        "rate: ask for more quota. concurrency: allow more in flight. backoff: see *Failures*. pause: "
                        "declare a lower rate.",
                    ),
                    Q(f"sum by (reason) (rate(paceline_wait_seconds_sum{{{SU}}}{R}))", "{{reason}}"),
                    unit="short",
                    width=8,
                    stacked=True,
                ),
                states(
                    "Paused",
                    told(
                        "Whether the upstream's own throttle, or an operator, holds everything back.",
                        "see `GET /v1/upstreams/NAME` for how long, and for what the upstream said last.",
                    ),
                    BUDGET_PAUSED,
                    PAUSED,
                    width=8,
                    height=8,
                ),
            ],
            "Concurrency": [
                lines(
                    "In flight against the concurrency limit",
                    told(
                        "Attempts in flight, and dashed how many may be; an adaptive limit moves.",
                        "touching it with a free rate: raise it, or make it adaptive. An adaptive limit that falls "
                        "protects an upstream that got slower.",
                    ),
                    Q(f"sum by (upstream) (paceline_in_flight{{{U}}})", "{{upstream}}"),
                    Q(f"sum by (upstream) (paceline_concurrency_limit{{{U}}})", "limit of {{upstream}}"),
                    unit="short",
                    dashed="/^limit of /",
                    width=8,
                ),
                lines(
                    "Waiting for admission",
                    told(
                        "Attempts that wait now.",
                        "growing without end: send less, or raise what holds them.",
                    ),
                    Q(f"sum by (upstream) (paceline_queued{{{U}}})", "{{upstream}}"),
                    unit="short",
                    width=8,
                ),
                lines(
                    "How long attempts take",
                    told(
                        "From the grant of an attempt to the end of its answer, without waits.",
                        "this is the upstream's own speed; near `timeout.attempt` they are cut off and sent again.",
                    ),
                    *quantiles("paceline_attempt_duration_seconds"),
                    unit="s",
                    width=8,
                ),
            ],
            "Failures": [
                lines(
                    "Attempts, by verdict",
                    told(
                        "How attempts ended: well, throttled, failed in a way that may pass (transient), or for good "
                        "(permanent).",
                        "transient above a tenth for long: tell its owners. permanent: look at what callers send.",
                    ),
                    Q(f"sum by (verdict) (rate(paceline_attempts_total{{{SU}}}{R}))", "{{verdict}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
                lines(
                    "Answers, by status class",
                    told(
                        "What the upstream answered; an attempt without an answer is in none of them.",
                        "fewer answers than attempts means it cannot be reached, or not in time.",
                    ),
                    Q(f"sum by (status_class) (rate(paceline_responses_total{{{U}}}{R}))", "{{status_class}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
                states(
                    "Breaker",
                    told(
                        "Whether it is called (closed), tried (half open) or left alone (open).",
                        "open: it fails; nothing to do here. After a repair it closes within `breaker.max_open`.",
                    ),
                    BREAKER_STATE,
                    BREAKER,
                    width=8,
                    height=8,
                ),
                lines(
                    "Retries, by reason",
                    told(
                        "Further attempts a second, by what the one before it met.",
                        "connect, dns and tls are the network or the address; status is the upstream; attempt_timeout, "
                        "that it is slow.",
                    ),
                    Q(f"sum by (reason) (rate(paceline_retries_total{{{U}}}{R}))", "{{reason}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
                lines(
                    "Retry budget",
                    told(
                        "Retries that are allowed now.",
                        "at nought, failures go to callers as they are; that protects the upstream. Raise "
                        "`retry.budget_ratio` only if it can take the load.",
                    ),
                    Q(f"min by (upstream) (paceline_retry_budget_remaining{{{U}}})", "{{upstream}}"),
                    unit="short",
                    width=8,
                ),
                lines(
                    "Rejections, by code",
                    told(
                        "Items a second that were refused and never sent.",
                        "circuit_open, deadline_unreachable and overloaded follow from limits; the other codes are "
                        "mistakes of callers, or not allowed to them.",
                    ),
                    Q(f"sum by (code) (rate(paceline_rejections_total{{{U}}}{R}))", "{{code}}"),
                    unit="reqps",
                    width=8,
                    stacked=True,
                ),
            ],
        },
    )
