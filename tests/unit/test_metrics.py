"""Every event is counted once, under labels from closed sets, and what is exposed can be read back."""

from __future__ import annotations

import asyncio
import re
from itertools import pairwise, product
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from paceline import __version__
from paceline.api.middleware.metrics import KNOWN_METHODS, HttpMetricsMiddleware
from paceline.app import Service
from paceline.config import Config
from paceline.errors import AttemptError, Rejected
from paceline.events import AttemptFinished, BatchFinished, BudgetPaused, ItemFinished, RetryScheduled
from paceline.model import (
    Batch,
    Failure,
    Item,
    Outcome,
    OutcomeKind,
    Strategy,
    Summary,
    Timing,
    Verdict,
    WaitReason,
)
from paceline.telemetry.histogram import BUCKET_BOUNDS_S
from paceline.telemetry.metrics import Metrics
from paceline.upstream.snapshot import BudgetState, UpstreamSnapshot, WindowState, snapshot_of
from support.virtual_clock import virtual_time

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def item(kind=OutcomeKind.SUCCESS, code=None, id="0", strategy=Strategy.ADAPTIVE, upstream="github", **waits):
    parts = {"queue_ms": 0.0, "rate_wait_ms": 0.0, "pause_ms": 0.0, "backoff_ms": 0.0, "upstream_ms": 7.0} | waits
    outcome = Outcome(
        id=id,
        index=0,
        upstream=upstream,
        outcome=kind,
        status=None,
        headers={},
        body=None,
        body_encoding="none",
        attempts=1,
        error=Failure(code, "a message", False) if code else None,
        timing=Timing(start_ms=0.0, total_ms=sum(parts.values()), limited_by="upstream", **parts),
    )
    return ItemFinished(strategy, upstream, outcome)


def attempt(verdict=Verdict.SUCCESS, status=200, took_s=0.0042, strategy=Strategy.ADAPTIVE, upstream="github"):
    return AttemptFinished(strategy, upstream, verdict, status, took_s)


def batch(strategy=Strategy.ADAPTIVE, elapsed_s=1.5):
    return BatchFinished(strategy, "b" * 32, "anonymous", Summary(1, 1, 0, 0, 1, 0), elapsed_s)


def upstream_state(name="github", windows=(), rate=None, paused_for_ms=0.0, **given):
    whole = {"paused": False, "in_flight": 3, "queued": 5, "concurrency_limit": 20} | given
    budget = BudgetState("upstream", rate, paused_for_ms, list(windows))
    return UpstreamSnapshot(name=name, base_url=None, engine="aiohttp", budgets=[budget], **whole)


def samples(metrics):
    """Every sample of Paceline's own: (name, labels) to value."""
    text, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(text.decode())
        for sample in family.samples
        if sample.name.startswith("paceline_")
    }


def value(metrics, name, **labels):
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


def of_everything():
    """Metrics that have met every kind of event once."""
    metrics = Metrics()
    for event in (
        attempt(),
        item(rate_wait_ms=1.0),
        item(OutcomeKind.REJECTED, "egress_denied"),
        batch(),
        RetryScheduled("github", "status"),
        BudgetPaused("github", 1.0),
    ):
        metrics.on_event(event)
    metrics.record_http_request("/healthz", "GET", "2xx", 0.001)
    metrics.set_upstreams_source(
        lambda: [upstream_state(windows=[WindowState(80, "1m", "requests", 71)], rate=80 / 60)]
    )
    return metrics


# What is counted


def test_an_item_is_timed_and_counted_by_strategy_upstream_and_outcome():
    metrics = Metrics()
    metrics.on_event(item())
    metrics.on_event(item())
    metrics.on_event(item(OutcomeKind.TIMEOUT, "item_timeout", strategy=Strategy.BOUNDED))
    adaptive = {"strategy": "adaptive", "upstream": "github", "outcome": "success"}
    assert value(metrics, "paceline_items_total", **adaptive) == 2
    assert value(metrics, "paceline_item_duration_seconds_count", **adaptive) == 2
    assert value(metrics, "paceline_item_duration_seconds_sum", **adaptive) == pytest.approx(0.014)
    assert value(metrics, "paceline_items_total", strategy="bounded", upstream="github", outcome="timeout") == 1


def test_an_attempt_is_timed_by_verdict_and_its_answer_counted_by_class():
    metrics = Metrics()
    metrics.on_event(attempt())
    metrics.on_event(attempt(Verdict.THROTTLED, 429))
    metrics.on_event(attempt(Verdict.TRANSIENT, None))
    for verdict in ("success", "throttled", "transient"):
        labels = {"strategy": "adaptive", "upstream": "github", "verdict": verdict}
        assert value(metrics, "paceline_attempts_total", **labels) == 1
        assert value(metrics, "paceline_attempt_duration_seconds_sum", **labels) == pytest.approx(0.0042)
    answers = {labels: count for (name, labels), count in samples(metrics).items() if "responses" in name}
    assert answers == {
        (("status_class", "2xx"), ("upstream", "github")): 1,
        (("status_class", "4xx"), ("upstream", "github")): 1,
    }


@pytest.mark.parametrize(
    ("part", "reason"),
    [("queue_ms", "concurrency"), ("rate_wait_ms", "rate"), ("backoff_ms", "backoff"), ("pause_ms", "pause")],
)
def test_each_part_of_a_receipt_is_its_own_wait(part, reason):
    metrics = Metrics()
    metrics.on_event(item(**{part: 250.0}))
    sums = {
        dict(labels)["reason"]: total
        for (name, labels), total in samples(metrics).items()
        if "wait_seconds_sum" in name
    }
    assert sums == {reason: 0.25}


def test_an_item_that_did_not_wait_is_no_wait_of_zero():
    metrics = Metrics()
    metrics.on_event(item())
    assert not any("wait" in name for name, _ in samples(metrics))


def test_a_rejection_is_counted_by_code_and_other_failures_are_none():
    metrics = Metrics()
    metrics.on_event(item(OutcomeKind.REJECTED, "egress_denied", upstream="other"))
    metrics.on_event(item(OutcomeKind.CONNECT_ERROR, "connect_failed"))
    rejections = {labels: count for (name, labels), count in samples(metrics).items() if "rejections" in name}
    assert rejections == {(("code", "egress_denied"), ("upstream", "other")): 1}


def test_retries_and_batches_are_counted():
    metrics = Metrics()
    metrics.on_event(RetryScheduled("github", "throttled"))
    metrics.on_event(batch())
    assert value(metrics, "paceline_retries_total", upstream="github", reason="throttled") == 1
    assert value(metrics, "paceline_batch_duration_seconds_sum", strategy="adaptive") == 1.5


def test_buckets_resolve_a_millisecond_to_a_minute():
    assert BUCKET_BOUNDS_S[0] == 0.001
    assert BUCKET_BOUNDS_S[-1] == 60
    assert all(1 < above / below <= 2.5 for below, above in pairwise(BUCKET_BOUNDS_S))


@given(st.lists(st.floats(0, 200) | st.sampled_from(BUCKET_BOUNDS_S), min_size=1, max_size=30))
def test_a_bucket_holds_what_is_at_most_its_bound(durations):
    metrics = Metrics()
    for took_s in durations:
        metrics.on_event(attempt(took_s=took_s))
    counted = {
        float(dict(labels)["le"]): count
        for (name, labels), count in samples(metrics).items()
        if name == "paceline_attempt_duration_seconds_bucket"
    }
    assert counted == {
        bound: sum(took_s <= bound for took_s in durations) for bound in (*BUCKET_BOUNDS_S, float("inf"))
    }


def test_two_apps_in_one_process_share_nothing():
    one, other = Metrics(), Metrics()
    one.on_event(item())
    assert not any("items" in name for name, _ in samples(other))


# Gauges


def test_gauges_are_read_at_the_scrape():
    metrics = Metrics()
    now = [upstream_state(in_flight=1)]
    metrics.set_upstreams_source(lambda: now)
    assert value(metrics, "paceline_in_flight", upstream="github") == 1
    now[0] = upstream_state(in_flight=2)
    assert value(metrics, "paceline_in_flight", upstream="github") == 2


def test_a_window_is_labelled_as_it_was_declared():
    metrics = Metrics()
    windows = [
        WindowState(80, "1m", "requests", 71),
        WindowState(1_500_000, "1h", "requests", 1_499_999),
        WindowState(0.5, "1s", "requests", 0),
        WindowState(5000, "1h", "requests", 4000, source="header"),
    ]
    metrics.set_upstreams_source(lambda: [upstream_state(windows=windows)])
    remaining = {
        dict(labels)["window"]: left
        for (name, labels), left in samples(metrics).items()
        if name == "paceline_rate_remaining"
    }
    assert remaining == {"80/1m": 71, "1500000/1h": 1_499_999, "0.5/1s": 0, "header": 4000}


def test_undeclared_hosts_are_added_up_and_the_least_remaining_is_shown():
    metrics = Metrics()
    window = WindowState(10, "1s", "requests", 9)
    nearly_spent = WindowState(10, "1s", "requests", 2)
    metrics.set_upstreams_source(
        lambda: [
            upstream_state("other", [window], 10.0),
            upstream_state("other", [nearly_spent], 10.0, paused_for_ms=100.0),
            upstream_state("other", [window], 10.0),
        ]
    )
    assert value(metrics, "paceline_in_flight", upstream="other") == 9
    assert value(metrics, "paceline_queued", upstream="other") == 15
    assert value(metrics, "paceline_concurrency_limit", upstream="other") == 60
    assert value(metrics, "paceline_rate_limit_per_second", upstream="other") == 30
    assert value(metrics, "paceline_rate_remaining", upstream="other", window="10/1s") == 2
    assert value(metrics, "paceline_budget_paused", upstream="other") == 1


@pytest.mark.parametrize(
    ("state", "paused"),
    [({}, 0), ({"paused": True}, 1), ({"paused_for_ms": 1.0}, 1)],
    ids=["open", "operator", "throttle"],
)
def test_a_pause_shows_whoever_ordered_it(state, paused):
    metrics = Metrics()
    metrics.set_upstreams_source(lambda: [upstream_state(**state)])
    assert value(metrics, "paceline_budget_paused", upstream="github") == paused


def test_an_upstream_without_a_rate_has_no_rate_gauges():
    metrics = Metrics()
    metrics.set_upstreams_source(lambda: [upstream_state()])
    assert not any("rate" in name for name, _ in samples(metrics))


# The exposition


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain, application/openmetrics-text", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "text/html;q=0.9, Application/OpenMetrics-Text;q=0.8",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (
            "application/openmetrics-text; version=nonsense",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        ("text/plain; version=..", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_format_is_what_is_accepted(accept, kind):
    text, content_type = of_everything().render(accept)
    assert content_type == kind
    assert text.endswith(b"# EOF\n") is kind.startswith("application/openmetrics")


def test_both_formats_say_the_same():
    metrics = of_everything()
    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(metrics.render(OPENMETRICS)[0].decode())
        for sample in family.samples
        if sample.name.startswith("paceline_")
    }
    assert read == samples(metrics)
    assert len(read) > 100


def test_the_running_version_is_shown():
    (labels,) = [dict(labels) for name, labels in samples(Metrics()) if name == "paceline_build_info"]
    assert labels["version"] == __version__
    assert re.fullmatch(r"3\.\d+\.\d+.*", labels["python"])


def test_every_metric_is_documented_with_its_type_and_labels():
    exposed = {}
    for family in parse_text(of_everything().render()[0].decode()):
        name = family.name + "_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exposed[name] = (family.type, labels)
    rows = re.findall(r"^\| `(paceline_\w+)` \| (\w+) \| ([^|]*) \| [^|]+ \|$", DOCS.read_text(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert {name: told for name, told in exposed.items() if name.startswith("paceline_")} == documented
    process = set(re.findall(r"`(process_\w+)`", DOCS.read_text()))
    assert {name for name in exposed if not name.startswith("paceline_")} <= process


def test_every_value_of_a_closed_set_is_documented():
    closed = {
        "strategy": set(Strategy),
        "outcome": set(OutcomeKind),
        "verdict": set(Verdict),
        "reason` of a wait": set(WaitReason),
        "reason` of a retry": {"throttled", "status", *_codes(AttemptError)} - {"body_too_large"},
        "code": _codes(Rejected),
        "method": {*KNOWN_METHODS, "other"},
    }
    for label, values in closed.items():
        (row,) = re.findall(rf"^\| `{re.escape(label)}`? ?\| (.*) \|$", DOCS.read_text(), re.MULTILINE)
        assert values <= set(re.findall(r"`(\w+)`", row)), label


def _codes(error):
    return {leaf.code for leaf in error.__subclasses__()}


# The number of series


@virtual_time
async def test_no_host_id_url_or_upstream_name_becomes_a_series():
    metrics = Metrics()
    config = Config.model_validate({"upstreams": {"known": {"base_url": "https://api.example.com"}}})
    service = Service(config, [metrics.on_event])
    metrics.set_upstreams_source(
        lambda: [snapshot_of(each, 0.0) for each in (*service.registry, *service.registry.undeclared)]
    )

    async def run(start):
        items = []
        for number in range(start, start + 50):
            items += [
                Item(id=f"denied-{number}", url=f"http://10.0.0.{number}/secret?token={number}"),
                Item(id=f"unusable-{number}", url=f"nonsense-{number}"),
                Item(id=f"unknown-{number}", upstream=f"upstream-{number}", path="/"),
                Item(id=f"method-{number}", url=f"https://api.example.com/{number}", method=f"BAD {number}"),
            ]
        outcomes = []
        await service.runner.run(Batch(items=items), outcomes.append)
        assert {outcome.outcome for outcome in outcomes} == {OutcomeKind.REJECTED}
        return set(samples(metrics))

    first = await run(0)
    assert await run(50) == first
    upstreams = {label for _, labels in first for key, label in labels if key == "upstream"}
    assert upstreams <= {"known", "other"}
    await service.close()


def test_the_most_series_there_can_be_are_fixed_by_the_upstreams_declared():
    def fed(rounds):
        metrics = Metrics()
        for turn in range(rounds):
            for strategy, upstream in product(Strategy, ("github", "other")):
                for kind in OutcomeKind:
                    event = item(kind, "halted", f"{turn}", strategy, upstream, queue_ms=1, pause_ms=1, backoff_ms=1)
                    metrics.on_event(event)
                for verdict in Verdict:
                    for status in (None, *range(0, 1000, 7), 65_535):
                        metrics.on_event(attempt(verdict, status, turn / 3, strategy, upstream))
        return set(samples(metrics))

    once = fed(1)
    assert fed(3) == once
    assert {dict(labels).get("status_class") for name, labels in once if "responses" in name} == {
        *("1xx", "2xx", "3xx", "4xx", "5xx", "other")
    }


# The service's own requests


def served(metrics):
    return {
        (dict(labels)["route"], dict(labels)["method"], dict(labels)["status_class"]): count
        for (name, labels), count in samples(metrics).items()
        if name == "paceline_http_request_duration_seconds_count"
    }


def an_api():
    router = APIRouter(prefix="/v1/upstreams")

    @router.get("/{name}")
    async def one(name: str) -> dict[str, str]:
        return {"name": name}

    app = FastAPI()
    app.include_router(router)

    @app.get("/healthz")
    async def health() -> dict[str, str]:
        return {}

    return app


async def call(app, path, method="GET", receive=None):
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"token=hidden",
        "root_path": "",
        "headers": [],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
    }
    sent = []

    async def nothing():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive or nothing, send)
    return sent


async def test_a_request_is_timed_by_its_routes_template():
    metrics = Metrics()
    app = HttpMetricsMiddleware(an_api(), metrics.record_http_request)
    await call(app, "/v1/upstreams/github")
    await call(app, "/v1/upstreams/shopify")
    await call(app, "/healthz")
    await call(app, "/healthz", "POST")
    assert served(metrics) == {
        ("/v1/upstreams/{name}", "GET", "2xx"): 2,
        ("/healthz", "GET", "2xx"): 1,
        ("/healthz", "POST", "4xx"): 1,
    }


async def test_no_path_or_method_of_a_caller_becomes_a_series():
    metrics = Metrics()
    app = HttpMetricsMiddleware(an_api(), metrics.record_http_request)
    for number in range(100):
        await call(app, f"/v1/upstreams/{number}")
        await call(app, f"/nowhere/{number}")
        await call(app, "/healthz", f"M{number}")
        await call(app, f"//{number}/../\x00", "get")
    assert served(metrics) == {
        ("/v1/upstreams/{name}", "GET", "2xx"): 100,
        ("unmatched", "GET", "4xx"): 100,
        ("/healthz", "other", "4xx"): 100,
        ("unmatched", "other", "4xx"): 100,
    }


async def test_a_failure_of_the_app_counts_as_the_500_the_server_sends():
    async def broken(scope, receive, send):
        raise RuntimeError("a bug")

    metrics = Metrics()
    with pytest.raises(RuntimeError):
        await call(HttpMetricsMiddleware(broken, metrics.record_http_request), "/")
    assert served(metrics) == {("unmatched", "GET", "5xx"): 1}


async def test_a_failure_after_the_answer_began_keeps_the_status_that_was_sent():
    async def breaks_off(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("a bug")

    metrics = Metrics()
    with pytest.raises(RuntimeError):
        await call(HttpMetricsMiddleware(breaks_off, metrics.record_http_request), "/")
    assert served(metrics) == {("unmatched", "GET", "2xx"): 1}


async def test_a_caller_that_left_before_an_answer_is_disconnected():
    async def gives_up(scope, receive, send):
        if (await receive())["type"] == "http.disconnect":
            raise ConnectionError("the caller left")

    async def leave():
        return {"type": "http.disconnect"}

    metrics = Metrics()
    with pytest.raises(ConnectionError):
        await call(HttpMetricsMiddleware(gives_up, metrics.record_http_request), "/", receive=leave)
    assert served(metrics) == {("unmatched", "GET", "disconnected"): 1}


async def test_a_cancelled_request_is_counted_and_stays_cancelled():
    async def waits(scope, receive, send):
        await asyncio.Event().wait()

    metrics = Metrics()
    task = asyncio.create_task(call(HttpMetricsMiddleware(waits, metrics.record_http_request), "/"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert served(metrics) == {("unmatched", "GET", "disconnected"): 1}


@virtual_time
async def test_a_stream_is_timed_to_its_end():
    async def drips(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(3)
        await send({"type": "http.response.body", "body": b"x"})

    metrics = Metrics()
    await call(HttpMetricsMiddleware(drips, metrics.record_http_request), "/")
    name = "paceline_http_request_duration_seconds_sum"
    assert value(metrics, name, route="unmatched", method="GET", status_class="2xx") == 3


async def test_bodies_pass_through_as_they_are():
    received = {"type": "http.request", "body": b"in", "more_body": False}
    sent = [
        {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]},
        {"type": "http.response.body", "body": b"out"},
    ]

    async def echo(scope, receive, send):
        assert await receive() is received
        for message in sent:
            await send(message)

    async def receive():
        return received

    passed = await call(HttpMetricsMiddleware(echo, Metrics().record_http_request), "/", receive=receive)
    assert all(mine is theirs for mine, theirs in zip(passed, sent, strict=True))


async def test_what_is_no_request_is_left_alone():
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["type"], receive, send))

    metrics = Metrics()
    await HttpMetricsMiddleware(app, metrics.record_http_request)({"type": "lifespan"}, "receive", "send")
    assert seen == [("lifespan", "receive", "send")]
    assert served(metrics) == {}
