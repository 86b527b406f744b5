"""Strategies side by side: which one gets the most done, how soon, and at what cost."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import (
    ITEM_DURATION,
    SU,
    TRIED,
    Query,
    R,
    build_dashboard,
    describe,
    heatmap_panel,
    quantile,
    summary_table_panel,
    time_series_panel,
)

RANGE = "[$__range]"


def strategies_dashboard() -> Dashboard:
    items = f"sum by (strategy) (increase(paceline_items_total{{{SU}}}{RANGE}))"
    return build_dashboard(
        "paceline-strategies",
        "Paceline / Strategies",
        "The same upstreams under each strategy: latency, throughput and outcomes side by side.",
        {
            "Side by side": [
                summary_table_panel(
                    "Over the time chosen",
                    describe(
                        "One line for each strategy: what it was given, what came of it, how long items took, how many "
                        "attempts it needed.",
                        "compare lines only where the strategies got the same work; `paceline compare` sees to that.",
                    ),
                    "strategy",
                    [
                        ("items", "none", 0, items),
                        (
                            "succeeded",
                            "percentunit",
                            2,
                            f'sum by (strategy) (increase(paceline_items_total{{outcome="success", {SU}}}{RANGE}))'
                            f" / {items}",
                        ),
                        *(
                            (
                                name,
                                "s",
                                2,
                                quantile(share, ITEM_DURATION, "strategy", over=RANGE, of=TRIED),
                            )
                            for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
                        ),
                        (
                            "attempts an item",
                            "short",
                            2,
                            f"sum by (strategy) (increase(paceline_attempts_total{{{SU}}}{RANGE})) / {items}",
                        ),
                        (
                            "throttled attempts",
                            "percentunit",
                            2,
                            "(sum by (strategy) (increase(paceline_attempts_total"
                            f'{{verdict="throttled", {SU}}}{RANGE})) or 0 * {items})'
                            f" / sum by (strategy) (increase(paceline_attempts_total{{{SU}}}{RANGE}))",
                        ),
                    ],
                ),
            ],
            "Latency": [
                *(
                    time_series_panel(
                        f"{name} of an item",
                        describe(
                            f"{how} of an item's time from its turn to its outcome, waits and retries included. "
                            "Items that were refused or cancelled are not counted.",
                            action,
                        ),
                        Query(
                            quantile(share, ITEM_DURATION, "strategy", of=TRIED),
                            "{{strategy}}",
                        ),
                        unit="s",
                        width=8,
                    )
                    for share, name, how, action in (
                        (
                            0.5,
                            "p50",
                            "The median",
                            "this is what a strategy feels like; take the lowest that also fails least.",
                        ),
                        (
                            0.95,
                            "p95",
                            "The 95th percentile",
                            "where it leaves p50 far behind, the strategy lets items wait or retry.",
                        ),
                        (
                            0.99,
                            "p99",
                            "The 99th percentile",
                            "the tail is what batches wait for: a batch is as slow as its slowest item.",
                        ),
                    )
                ),
                heatmap_panel(
                    "Latency: $strategy",
                    describe(
                        "How many items took how long, over time; brighter is more.",
                        "one band is an even beat; a second, higher one is retries or waits for the next window.",
                    ),
                    Query(
                        f"sum by (le) (increase({ITEM_DURATION}_bucket{{{TRIED}}}{R}))",
                        "{{le}}",
                    ),
                    repeat="strategy",
                ),
            ],
            "Throughput and outcomes": [
                time_series_panel(
                    "Successes a second",
                    describe(
                        "Items that succeeded.",
                        "under a rate limit all paced strategies meet at the limit; one below it leaves quota idle.",
                    ),
                    Query(
                        f'sum by (strategy) (rate(paceline_items_total{{outcome="success", {SU}}}{R}))', "{{strategy}}"
                    ),
                    unit="reqps",
                    width=8,
                ),
                time_series_panel(
                    "Attempts an item",
                    describe(
                        "Attempts that ended, for each item that ended; 1 is without waste.",
                        "above 1.2 much is sent twice: pace it, or see *Upstream* for what fails.",
                    ),
                    Query(
                        f"sum by (strategy) (rate(paceline_attempts_total{{{SU}}}{R}))"
                        f" / (sum by (strategy) (rate(paceline_items_total{{{SU}}}{R})) > 0)",
                        "{{strategy}}",
                    ),
                    unit="short",
                    width=8,
                ),
                time_series_panel(
                    "p95 of a batch",
                    describe(
                        "From a batch's start to its last outcome.",
                        "this is what callers wait for; set it against the batch's size and the limit.",
                    ),
                    Query(
                        quantile(0.95, "paceline_batch_duration_seconds", "strategy", of='strategy=~"$strategy"'),
                        "{{strategy}}",
                    ),
                    unit="s",
                    width=8,
                ),
                time_series_panel(
                    "Outcomes: $strategy",
                    describe(
                        "What became of this strategy's items, a second.",
                        "failures that only some strategies have are of their own making; those that all have, the "
                        "upstream's.",
                    ),
                    Query(f"sum by (outcome) (rate(paceline_items_total{{{SU}}}{R}))", "{{outcome}}"),
                    unit="reqps",
                    height=7,
                    stacked=True,
                    repeat="strategy",
                ),
                time_series_panel(
                    "Waiting: $strategy",
                    describe(
                        "Seconds of waiting for each item, by reason.",
                        "rate and concurrency are the price of keeping a limit, backoff and pause of having broken it.",
                    ),
                    Query(
                        f"sum by (reason) (rate(paceline_wait_seconds_sum{{{SU}}}{R}))"
                        f" / on () group_left () (sum(rate(paceline_items_total{{{SU}}}{R})) > 0)",
                        "{{reason}}",
                    ),
                    unit="s",
                    height=7,
                    stacked=True,
                    repeat="strategy",
                ),
            ],
        },
    )
