"""Structured log lines, one a batch, without secrets.

structlog has no global set-up: the logger made here is passed to what logs. Of the standard library's loggers only
those of the server, the engines and Paceline are configured.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from paceline.events import BatchFinished, BudgetPaused, Event

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["json", "console"]

_LIBRARY_LOGGERS = ("asyncio", "aiohttp", "httpx2", "paceline")
"""Logged from a warning on: below it engines write whole URLs and headers. `paceline` logs its internal errors."""

_USERINFO = re.compile(r"://[^\s/?#@]*@")
_QUERY = re.compile(r"[?#]\S+")
_CREDENTIAL = re.compile(r"\b(bearer|basic)[ \t]+\S+", re.IGNORECASE)


def configure_logging(
    level: LogLevel = "info", format: LogFormat = "json", stream: TextIO | None = None
) -> FilteringBoundLogger:
    """Create the process's logger, which writes to `stream` (standard error); it also gets the server's records.

    Start uvicorn with `log_config=None`, or it replaces these handlers by its own. Its access log is off: it writes
    whole URLs, and the metrics count requests.
    """
    stream = stream or sys.stderr
    processors: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,  # plain: a traceback that shows local variables shows secrets
        _redact_secrets,
        structlog.processors.JSONRenderer() if format == "json" else _console_renderer(stream),
    ]
    log: FilteringBoundLogger = structlog.wrap_logger(
        _LineWriter(stream), processors=processors, wrapper_class=structlog.make_filtering_bound_logger(level)
    ).bind()
    _route_library_logs(log, getattr(logging, level.upper()))
    return log


class LoggingListener:
    """Logs a line when a batch has finished, and a warning when a throttle pauses an upstream."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._paused_until: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchFinished):
            summary = event.summary
            self._log.info(
                "batch finished",
                batch_id=event.batch_id,
                strategy=event.strategy,
                tenant=event.tenant,
                total=summary.total,
                succeeded=summary.succeeded,
                failed=summary.failed,
                rejected=summary.rejected,
                attempts=summary.attempts,
                retries=summary.retries,
                elapsed_ms=round(event.elapsed_s * 1000, 1),
            )
        elif isinstance(event, BudgetPaused):
            self._log_pause(event)

    def _log_pause(self, event: BudgetPaused) -> None:
        """Warn of a pause, and again only where it grows by more than a second: every throttle of a burst renews it."""
        until = time.perf_counter() + event.duration_s
        known = self._paused_until.get(event.upstream)
        if known is None or until > known + 1.0:
            self._paused_until[event.upstream] = until
            self._log.warning("budget paused", upstream=event.upstream, for_ms=round(event.duration_s * 1000, 1))


class _LineWriter:
    """Writes whole lines to a stream. A line that cannot be written is lost: logging must never end a batch."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = msg


class _ForwardingHandler(logging.Handler):
    """Forwards the standard library's records to the process's logger."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        level = min(logging.CRITICAL, record.levelno // 10 * 10)
        self._log.log(level, message, logger=record.name, exc_info=record.exc_info)


def _route_library_logs(log: FilteringBoundLogger, level: int) -> None:
    forward = _ForwardingHandler(log)
    for name, min_level in (
        ("uvicorn", level),
        *((library, max(level, logging.WARNING)) for library in _LIBRARY_LOGGERS),
    ):
        logger = logging.getLogger(name)
        logger.handlers = [forward]
        logger.propagate = False
        logger.setLevel(min_level)
    errors = logging.getLogger("uvicorn.error")
    errors.handlers, errors.propagate = [], True
    errors.setLevel(logging.NOTSET)
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [logging.NullHandler()], False


def _redact_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Redact queries, user names and passwords of URLs, and credentials in every value; put the head first."""
    head = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    return {key: _redact(value) for key, value in (head | dict(event)).items()}


def _redact(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = _QUERY.sub("?***", _USERINFO.sub("://***@", str(value)))
    return _CREDENTIAL.sub(r"\1 ***", text)


def _console_renderer(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )
