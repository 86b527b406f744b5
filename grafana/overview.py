"""Overview: is it healthy, does it use the quota, and what are items waiting for?"""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.panels import (
    ITEM_DURATION,
    SU,
    TRIED,
    Query,
    R,
    U,
    bar_gauge_panel,
    build_dashboard,
    describe,
    quantile,
    quantiles,
    stat_panel,
    state_timeline_panel,
    time_series_panel,
)

BREAKER_STATES = {0: ("closed", "green"), 1: ("half open", "yellow"), 2: ("open", "red")}
PAUSE_STATES = {0: ("free", "green"), 1: ("paused", "orange")}

BREAKER_STATE_QUERY = Query(
    f'2 * (max by (upstream) (paceline_breaker_state{{state="open", {U}}}) >bool 0) > 0'
    f' or (max by (upstream) (paceline_breaker_state{{state="half_open", {U}}}) >bool 0) > 0'
    f' or 0 * max by (upstream) (paceline_breaker_state{{state="closed", {U}}})',
    "{{upstream}}",
)
BUDGET_PAUSED_QUERY = Query(f"max by (upstream) (paceline_budget_paused{{{U}}})", "{{upstream}}")


def overview_dashboard() -> Dashboard:
    return build_dashboard(
        "paceline-overview",
        "Paceline / Overview",
        "Is it healthy? Is it using the quota? What are items waiting for?",
        {
            "Is it healthy?": [
                stat_panel(
                    "Items that succeed",
                    describe(
                        "The share of items that end as a success, of all strategies and upstreams chosen above.",
                        "below 99 %, see by which outcome in the panel below, then open *Upstream*.",
                    ),
                    Query(
                        f'sum(rate(paceline_items_total{{outcome="success", {SU}}}{R}))'
                        f" / sum(rate(paceline_items_total{{{SU}}}{R}))"
                    ),
                    unit="percentunit",
                    thresholds={0: "red", 0.95: "orange", 0.99: "green"},
                ),
                stat_panel(
                    "Items a second",
                    describe(
                        "Items that got their outcome.",
                        "nought while callers send means that they wait: see the last row but one.",
                    ),
                    Query(f"sum(rate(paceline_items_total{{{SU}}}{R}))"),
                    unit="reqps",
                ),
                stat_panel(
                    "p95 of an item",
                    describe(
                        "How long 95 of 100 items take at most, from their turn to their outcome, waits included.",
                        "when it grows, find out what they wait for in *Waiting, by reason*.",
                    ),
                    Query(quantile(0.95, ITEM_DURATION, of=TRIED)),
                    unit="s",
                    decimals=2,
                ),
                stat_panel(
                    "5xx of the API",
                    describe(
                        "Requests to Paceline itself that got a 5xx; a failing upstream is none of them.",
                        "503 is a full or ending service, 500 a fault: see the log, and the page *The API fails*.",
                    ),
                    Query(
                        '(sum(rate(paceline_http_request_duration_seconds_count{status_class="5xx"}[$__rate_interval]))'
                        " or vector(0)) / sum(rate(paceline_http_request_duration_seconds_count[$__rate_interval]))"
                    ),
                    unit="percentunit",
                    thresholds={0: "green", 0.001: "orange", 0.0144: "red"},
                    decimals=2,
                ),
                stat_panel(
                    "Open breakers",
                    describe(
                        "Upstreams that get trials only, because they failed.",
                        "see which in *Breaker*, and tell their owners; a trial that succeeds closes it.",
                    ),
                    Query(
                        f'count(max by (upstream) (paceline_breaker_state{{state!="closed", {U}}}) > 0) or vector(0)'
                    ),
                    unit="short",
                    thresholds={0: "green", 1: "red"},
                    decimals=0,
                ),
                stat_panel(
                    "Instances",
                    describe(
                        "Instances that give metrics.",
                        "fewer than you run means one is down or not scraped: see the targets of Prometheus.",
                    ),
                    Query("count(paceline_build_info)"),
                    unit="short",
                    decimals=0,
                ),
                time_series_panel(
                    "Items, by outcome",
                    describe(
                        "What became of items, a second.",
                        "a colour other than green that stays is a cause to look for; its name says where.",
                    ),
                    Query(f"sum by (outcome) (rate(paceline_items_total{{{SU}}}{R}))", "{{outcome}}"),
                    unit="reqps",
                    stacked=True,
                ),
                time_series_panel(
                    "How long items take",
                    describe(
                        "Half, 95 and 99 of 100 items are done within this, waits and retries included.",
                        "p99 far from p50 is waiting or retrying, and a matter of limits; p50 grows when the upstream "
                        "is slower.",
                    ),
                    *quantiles(ITEM_DURATION),
                    unit="s",
                ),
            ],
            "Is it using the quota?": [
                time_series_panel(
                    "Rate used, of its limit",
                    describe(
                        "Attempts a second, as a share of what the tightest window allows in the long run.",
                        "near 100 % with a queue, the quota is what holds you; far below with a queue, something else "
                        "does: see the next row.",
                    ),
                    Query(
                        f"sum by (upstream) (rate(paceline_attempts_total{{{U}}}{R}))"
                        f" / (sum by (upstream) (paceline_rate_limit_per_second{{{U}}}) > 0)",
                        "{{upstream}}",
                    ),
                    unit="percentunit",
                ),
                time_series_panel(
                    "Waiting for admission",
                    describe(
                        "Attempts that wait now, by upstream.",
                        "growing without end, more is asked for than the limits let through: send less, or ask for "
                        "a larger quota.",
                    ),
                    Query(f"sum by (upstream) (paceline_queued{{{U}}})", "{{upstream}}"),
                    unit="short",
                ),
            ],
            "What are items waiting for?": [
                time_series_panel(
                    "Waiting, by reason",
                    describe(
                        "Seconds waited a second: how many items wait on average for tokens of a window (rate), "
                        "a permit (concurrency), the next attempt (backoff), or the end of a throttle (pause).",
                        "rate: the quota is the limit. concurrency: allow more in flight. backoff: look at failures. "
                        "pause: the upstream throttles, declare less.",
                    ),
                    Query(f"sum by (reason) (rate(paceline_wait_seconds_sum{{{SU}}}{R}))", "{{reason}}"),
                    unit="short",
                    stacked=True,
                ),
                bar_gauge_panel(
                    "Most waited for",
                    describe(
                        "The ten pairs of upstream and reason that cost the most waiting now, as items that wait.",
                        "open *Upstream* for the longest bar.",
                    ),
                    Query(
                        f"topk(10, sum by (upstream, reason) (rate(paceline_wait_seconds_sum{{{SU}}}{R})) > 0.01)",
                        "{{upstream}}: {{reason}}",
                    ),
                    unit="short",
                ),
                state_timeline_panel(
                    "Breaker",
                    describe(
                        "Whether an upstream is called (closed), tried (half open) or left alone (open).",
                        "open for more than a minute: the upstream is down; see *Upstream* for how it fails.",
                    ),
                    BREAKER_STATE_QUERY,
                    BREAKER_STATES,
                ),
                state_timeline_panel(
                    "Paused",
                    describe(
                        "Whether an upstream's own throttle, or an operator, holds everything back.",
                        "paused again and again: declare a lower rate than the upstream enforces.",
                    ),
                    BUDGET_PAUSED_QUERY,
                    PAUSE_STATES,
                ),
            ],
            "The service": [
                time_series_panel(
                    "Requests to the API",
                    describe(
                        "Requests a second, by route.",
                        "compare with the callers' own figures when they say that they get no answer.",
                    ),
                    Query(
                        "sum by (route) (rate(paceline_http_request_duration_seconds_count[$__rate_interval]))",
                        "{{route}}",
                    ),
                    unit="reqps",
                    width=8,
                ),
                time_series_panel(
                    "Memory",
                    describe(
                        "Resident memory of each instance.",
                        "near the container's limit: lower `server.max_in_flight_items` or `max_batch_response`, or "
                        "allow more.",
                    ),
                    Query("process_resident_memory_bytes and on (job, instance) paceline_build_info", "{{instance}}"),
                    unit="bytes",
                    width=8,
                ),
                time_series_panel(
                    "Processor",
                    describe(
                        "Cores in use by each instance; one instance can use one.",
                        "near 1, latency is Paceline's own: add an instance, and divide the limits.",
                    ),
                    Query(
                        "rate(process_cpu_seconds_total[$__rate_interval]) and on (job, instance) paceline_build_info",
                        "{{instance}}",
                    ),
                    unit="short",
                    width=8,
                ),
            ],
        },
    )
