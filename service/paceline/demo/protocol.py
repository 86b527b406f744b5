"""One connection to the demo API: requests are parsed, and answered in their order however long each one takes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from paceline.demo.rate_limited_api import ControlHandler, RateLimitedApi, call_later


class _PendingResponse:
    """The response that one request waits for, in the order of its connection."""

    __slots__ = ("body", "content", "handler", "is_head_only", "is_request_complete")

    def __init__(self, *, is_head_only: bool, handler: ControlHandler | None) -> None:
        self.is_head_only = is_head_only
        self.handler = handler
        self.body = b""
        self.content: bytes | None = None
        self.is_request_complete = False


class DemoHttpProtocol(asyncio.Protocol):
    """Parses one connection's requests and answers them in order, however they were delayed."""

    def __init__(self, api: RateLimitedApi) -> None:
        self._api = api
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[_PendingResponse] = deque()
        self._url = b""
        self._close_when_flushed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._api.connections.add(self)
        self._api.stats.connections_made += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._api.connections.discard(self)
        self._api.stats.in_flight -= sum(call.handler is None for call in self._pending)
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours, not of the caller's bytes
        except httptools.HttpParserError:
            self._transport.abort()

    def pause_writing(self) -> None:
        # A caller that pipelines and does not read is not read from either.
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def on_message_begin(self) -> None:
        self._url = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_headers_complete(self) -> None:
        method = self._parser.get_method()
        path, _, query = self._url.decode("latin-1").partition("?")
        pending = _PendingResponse(is_head_only=method == b"HEAD", handler=self._api.handler_for(method, path))
        self._pending.append(pending)
        if pending.handler is not None:
            return
        stats = self._api.stats
        stats.in_flight += 1
        stats.in_flight_max = max(stats.in_flight_max, stats.in_flight)
        self._call_after(self._sample_jitter_s(), lambda: self._handle_request(pending, path, query))

    def on_body(self, body: bytes) -> None:
        pending = self._pending[-1]
        if pending.handler is not None:
            pending.body += body

    def on_message_complete(self) -> None:
        pending = self._pending[-1]
        pending.is_request_complete = True
        if pending.handler is not None:
            pending.content = pending.handler(pending.body)
        if not self._parser.should_keep_alive() or (pending.handler is None and self._api.options.close_connections):
            self._close_when_flushed = True
        self._write_ready()

    def close_when_idle(self) -> None:
        self._close_when_flushed = True
        if not self._pending:
            self._transport.close()

    def _sample_jitter_s(self) -> float:
        return self._api.options.jitter.sample(self._api.random)

    def _handle_request(self, pending: _PendingResponse, path: str, query: str) -> None:
        content = self._api.handle_request(path, query)
        delay_s = self._api.options.latency.sample(self._api.random) + self._sample_jitter_s()
        self._call_after(delay_s, lambda: self._set_response(pending, content))

    def _call_after(self, delay_s: float, callback: Callable[[], None]) -> None:
        if delay_s:
            call_later(delay_s, callback)
        else:
            callback()

    def _set_response(self, pending: _PendingResponse, content: bytes) -> None:
        pending.content = content
        self._write_ready()

    def _write_ready(self) -> None:
        """Write every answer that is ready and whose turn it is."""
        queue = self._pending
        while queue and queue[0].is_request_complete and (content := queue[0].content) is not None:
            pending = queue.popleft()
            if pending.is_head_only:
                content = content[: content.index(b"\r\n\r\n") + 4]
            if pending.handler is None:
                self._api.stats.in_flight -= 1
            self._transport.write(content)
        if self._close_when_flushed and not queue:
            self._transport.close()
