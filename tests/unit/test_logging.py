"""One line a batch, for machines or for people, and no secret in any of them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config

import pytest
from uvicorn.config import LOGGING_CONFIG

from paceline.app import Service
from paceline.config import Config
from paceline.events import AttemptFinished, BatchFinished, BudgetPaused, RetryScheduled
from paceline.model import Batch, Item, ItemRetry, Strategy, Summary, Verdict
from paceline.telemetry.logging import LoggingListener, configure_logging
from paceline.telemetry.metrics import Metrics
from support.virtual_clock import virtual_time

ROUTED = ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "aiohttp", "httpx2")


@pytest.fixture(autouse=True)
def _loggers_as_they_were():
    kept = {
        name: (logger.handlers, logger.propagate, logger.level)
        for name in ROUTED
        if (logger := logging.getLogger(name)) is not None
    }
    yield
    for name, (handlers, propagate, level) in kept.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def finished(tenant="ci"):
    summary = Summary(total=4, succeeded=2, failed=1, rejected=1, attempts=5, retries=2)
    return BatchFinished(Strategy.ADAPTIVE, "b1", tenant, summary, 0.81239)


def test_a_batch_is_one_line_with_its_numbers():
    stream = io.StringIO()
    LoggingListener(configure_logging(stream=stream))(finished())
    (line,) = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "batch finished",
        "batch_id": "b1",
        "strategy": "adaptive",
        "tenant": "ci",
        "total": 4,
        "succeeded": 2,
        "failed": 1,
        "rejected": 1,
        "attempts": 5,
        "retries": 2,
        "elapsed_ms": 812.4,
    }


def test_a_line_for_people_says_the_same_without_colours_in_a_pipe():
    stream = io.StringIO()
    LoggingListener(configure_logging("info", "console", stream))(finished())
    (line,) = stream.getvalue().splitlines()
    assert "batch finished" in line
    assert "succeeded=2" in line
    assert "\x1b" not in line


def test_attempts_and_retries_write_nothing():
    stream = io.StringIO()
    log = LoggingListener(configure_logging("debug", stream=stream))
    log(AttemptFinished(Strategy.ADAPTIVE, "github", Verdict.SUCCESS, 200, 0.1))
    log(RetryScheduled("github", "status"))
    assert stream.getvalue() == ""


def test_below_the_level_nothing_is_written():
    stream = io.StringIO()
    LoggingListener(configure_logging("warning", stream=stream))(finished())
    assert stream.getvalue() == ""


@virtual_time
async def test_a_pause_is_a_warning_and_the_answers_that_renew_it_are_not():
    stream = io.StringIO()
    log = LoggingListener(configure_logging(stream=stream))
    for _ in range(200):
        log(BudgetPaused("github", 60.0))
        await asyncio.sleep(0.001)
    log(BudgetPaused("shopify", 60.0))
    await asyncio.sleep(120)
    log(BudgetPaused("github", 0.1))
    assert [(line["level"], line["event"], line["upstream"], line["for_ms"]) for line in lines(stream)] == [
        ("warning", "budget paused", "github", 60_000.0),
        ("warning", "budget paused", "shopify", 60_000.0),
        ("warning", "budget paused", "github", 100.0),
    ]


@virtual_time
async def test_a_pause_that_grows_is_told_again():
    stream = io.StringIO()
    log = LoggingListener(configure_logging(stream=stream))
    log(BudgetPaused("github", 1.0))
    log(BudgetPaused("github", 60.0))
    assert [line["for_ms"] for line in lines(stream)] == [1_000.0, 60_000.0]


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    LoggingListener(configure_logging(stream=Broken()))(finished())
    closed = io.StringIO()
    log = LoggingListener(configure_logging(stream=closed))
    closed.close()
    log(finished())


def test_a_name_with_a_line_break_stays_one_line():
    stream = io.StringIO()
    LoggingListener(configure_logging(stream=stream))(finished(tenant='a\n{"event": "forged"}'))
    (line,) = lines(stream)
    assert line["event"] == "batch finished"


# The server's and the libraries' own loggers


@pytest.mark.parametrize("name", ["uvicorn", "uvicorn.error", "asyncio", "aiohttp.client", "httpx2"])
def test_a_librarys_warning_goes_through_the_same_lines(name):
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger(name).warning("%d things", 3)
    (line,) = lines(stream)
    assert (line["level"], line["event"], line["logger"]) == ("warning", "3 things", name)


def test_the_servers_own_progress_is_heard_and_the_engines_is_not():
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("httpx2").info("HTTP Request: GET https://api.example.com/?key=hidden")
    logging.getLogger("aiohttp.client").debug("headers")
    assert [line["event"] for line in lines(stream)] == ["Started server process"]


def test_the_access_log_is_silent():
    stream = io.StringIO()
    configure_logging("debug", stream=stream)
    logging.getLogger("uvicorn.access").error("GET /v1/batch?token=hidden")
    assert stream.getvalue() == ""


def test_configuring_twice_writes_each_line_once():
    stream = io.StringIO()
    configure_logging(stream=io.StringIO())
    configure_logging(stream=stream)
    logging.getLogger("uvicorn.error").warning("once")
    assert len(lines(stream)) == 1


def test_what_the_server_set_up_for_itself_is_replaced():
    theirs, stream = io.StringIO(), io.StringIO()
    logging.config.dictConfig(LOGGING_CONFIG)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).addHandler(logging.StreamHandler(theirs))
    configure_logging("debug", stream=stream)
    logging.getLogger("uvicorn.error").debug("once")
    logging.getLogger("uvicorn.access").info("never")
    assert [line["event"] for line in lines(stream)] == ["once"]
    assert theirs.getvalue() == ""


def test_nothing_else_of_the_process_is_touched():
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    configure_logging(stream=io.StringIO())
    assert (list(root.handlers), root.level) == before


@pytest.mark.parametrize("style", ["json", "console"])
def test_a_traceback_is_logged_without_local_variables(style):
    stream = io.StringIO()
    configure_logging("info", style, stream)

    def fails(credential):
        raise RuntimeError("a bug")

    try:
        fails("hun" + "ter2")
    except RuntimeError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    assert "RuntimeError: a bug" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_a_record_whose_arguments_do_not_fit_is_still_a_line():
    stream = io.StringIO()
    configure_logging(stream=stream)
    logging.getLogger("uvicorn.error").log(35, "%d", "no number")
    (line,) = lines(stream)
    assert (line["level"], line["event"]) == ("warning", "%d")


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        "GET https://api.example.com/x?token=hidden failed",
        "GET https://user:hidden@api.example.com/x failed",
        "GET 'https://api.example.com/x?hidden' failed",
        "GET /v1/x?a=1&key=hidden failed",
        "https://api.example.com/cb#access_token=hidden",
        "Authorization: Bearer hidden",
        "{'authorization': 'basic hidden'}",
        "?q=it's-hidden",
    ],
)
@pytest.mark.parametrize("style", ["json", "console"])
def test_no_query_password_or_credential_is_written(style, text):
    stream = io.StringIO()
    log = configure_logging("info", style, stream)
    log.info(text)
    log.info("event", field=text, nested={"deep": [text]}, listed=[text], error=RuntimeError(text))
    try:
        raise ConnectionError(text)
    except ConnectionError:
        logging.getLogger("uvicorn.error").exception(text)
    assert len(stream.getvalue()) > 100
    assert "hidden" not in stream.getvalue()


async def test_a_batch_full_of_secrets_leaves_none_in_logs_or_metrics():
    stream, metrics = io.StringIO(), Metrics()
    config = Config.model_validate(
        {
            "upstreams": {
                "closed": {
                    "base_url": "http://127.0.0.1:9/base",
                    "allow_private": True,
                    "auth": {"bearer": "hidden-token"},
                    "headers": {"x-key": "hidden-header"},
                }
            }
        }
    )
    service = Service(config, [metrics.on_event, LoggingListener(configure_logging("debug", stream=stream))])
    metrics.set_upstreams_source(list)
    items = [
        Item(id="hidden-id", upstream="closed", path="/hidden-path?key=hidden-query", headers={"cookie": "hidden"}),
        Item(url="https://hidden:hidden@api.example.com/"),
        Item(url="http://10.0.0.1/?key=hidden"),
        Item(upstream="hidden-upstream", path="/"),
        Item(upstream="closed", path="/", method="hidden method", body="hidden"),
    ]
    outcomes = []
    await service.runner.run(Batch(items=items, retry=ItemRetry(attempts=1)), outcomes.append)
    await service.close()
    assert len(outcomes) == 5
    (line,) = lines(stream)
    assert line["total"] == 5
    for text in (
        stream.getvalue(),
        *(metrics.render(kind)[0].decode() for kind in ("", "application/openmetrics-text")),
    ):
        assert "hidden" not in text
