"""One connection to the demo API: requests are parsed, and answered in their order however long each one takes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from paceline.cli.demo_api import DemoUpstream, Own, later


class _Call:
    """One request's place in its connection's line of answers."""

    __slots__ = ("body", "complete", "head_only", "own", "ready")

    def __init__(self, *, head_only: bool, own: Own | None) -> None:
        self.head_only = head_only
        self.own = own
        self.body = b""
        self.ready: bytes | None = None
        self.complete = False


class Connection(asyncio.Protocol):
    """Parses one connection's requests and answers them in order, however they were delayed."""

    def __init__(self, upstream: DemoUpstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._line: deque[_Call] = deque()
        self._url = b""
        self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.connections.add(self)
        self._upstream.stats.connections_made += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.connections.discard(self)
        self._upstream.stats.in_flight -= sum(call.own is None for call in self._line)
        self._line.clear()

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
        call = _Call(head_only=method == b"HEAD", own=self._upstream.own(method, path))
        self._line.append(call)
        if call.own is not None:
            return
        stats = self._upstream.stats
        stats.in_flight += 1
        stats.in_flight_max = max(stats.in_flight_max, stats.in_flight)
        self._after(self._jitter_s(), lambda: self._count(call, path, query))

    def on_body(self, body: bytes) -> None:
        call = self._line[-1]
        if call.own is not None:
            call.body += body

    def on_message_complete(self) -> None:
        call = self._line[-1]
        call.complete = True
        if call.own is not None:
            call.ready = call.own(call.body)
        if not self._parser.should_keep_alive() or (call.own is None and self._upstream.options.close):
            self._last = True
        self._flush()

    def close_when_idle(self) -> None:
        self._last = True
        if not self._line:
            self._transport.close()

    def _jitter_s(self) -> float:
        return self._upstream.options.jitter.draw(self._upstream.draw)

    def _count(self, call: _Call, path: str, query: str) -> None:
        content = self._upstream.count(path, query)
        delay_s = self._upstream.options.latency.draw(self._upstream.draw) + self._jitter_s()
        self._after(delay_s, lambda: self._give(call, content))

    def _after(self, delay_s: float, then: Callable[[], None]) -> None:
        if delay_s:
            later(delay_s, then)
        else:
            then()

    def _give(self, call: _Call, content: bytes) -> None:
        call.ready = content
        self._flush()

    def _flush(self) -> None:
        """Write every answer that is ready and whose turn it is."""
        line = self._line
        while line and line[0].complete and (content := line[0].ready) is not None:
            call = line.popleft()
            if call.head_only:
                content = content[: content.index(b"\r\n\r\n") + 4]
            if call.own is None:
                self._upstream.stats.in_flight -= 1
            self._transport.write(content)
        if self._last and not line:
            self._transport.close()
