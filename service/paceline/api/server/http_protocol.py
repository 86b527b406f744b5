"""The protocol of one connection: uvicorn's, with bounds on what a slow or hostile client can do.

* A request must arrive within `receive_s` of its first byte, longer if it keeps `MIN_UPLOAD_BYTES_PER_S`, else 408.
  Time in which the server does not read (a body that must wait, an earlier request) is not counted.
* A head, or anything else that frames a body, is at most `MAX_HEAD_BYTES`, else 431.
* A client that does not read its response is disconnected (`SlowReaderGuard`).
* A request that offers to upgrade the connection is read as if it did not: the parser would take it to have no body,
  and clients that prefer HTTP/2 (Java's, curl --http2) offer it with every first request.
* A client that disconnects ends every request it has sent, also those that wait for an earlier one. To notice it, up to
  `MAX_READ_AHEAD_BYTES` are read ahead of a response; a client that has sent more is noticed when its response is
  written.

A client that closes only its own direction cannot be told from one that has gone, and counts as gone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import httptools
import msgspec
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from paceline.api.errors import PROBLEM_TYPE, ApiError, HeadTooLarge, RequestTimeout, reason_phrase, to_problem
from paceline.api.server.malformed_request import explain_malformed_request
from paceline.api.server.slow_readers import SlowReaderGuard
from paceline.units import format_seconds

MAX_HEAD_BYTES = 64 * 1024
MAX_READ_AHEAD_BYTES = 64 * 1024
MIN_UPLOAD_BYTES_PER_S = 64 * 1024
"""Bytes a second below which a client is too slow: a body holds its reservation while it arrives."""

_LINGER_S = 0.5
"""Seconds for which a rejected client may still send: unread bytes would reset the connection, and the rejection."""


class SlowClientTimeouts(Struct, frozen=True):
    """How long clients may take; seconds."""

    receive_s: float = 30.0
    read_check_interval_s: float = 30.0
    """Between two checks of how much a client has read."""


class HardenedProtocol(HttpToolsProtocol):
    """uvicorn's protocol is replaced by a subclass: it has no other place for this."""

    def __init__(self, *args: Any, timeouts: SlowClientTimeouts, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timeouts = timeouts
        self._open_cycles: list[RequestResponseCycle] = []
        """The requests without a complete response, in order; only the last of them may still be arriving."""
        self._is_rejected = False
        self._receive_timer: asyncio.TimerHandle | None = None
        self._is_receiving = False
        self._receiving_since = 0.0
        self._received_bytes = 0
        self._undelivered_bytes = 0
        self._head_bytes = 0
        self._read_ahead_bytes = 0
        self._slow_reader_guard: SlowReaderGuard  # from `connection_made` on
        self._current_data = b""
        self._head_without_upgrade: bytes | None = None
        """The head of a request that offered an upgrade, without the offer: it is parsed in its place."""
        self._upgrade_end = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._slow_reader_guard = SlowReaderGuard(transport, self._timeouts.read_check_interval_s)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_receive_timer()
        self._slow_reader_guard.stop()
        self._unset_keepalive_if_required()
        self._disconnect_open_cycles()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_rejected:
            return
        self._start_receive_timer()
        self._received_bytes += len(data)
        self._undelivered_bytes += len(data)
        if self._has_pending_response():
            self._read_ahead_bytes += len(data)
        self._feed_parser(data)
        if self._undelivered_bytes > MAX_HEAD_BYTES and not self._is_rejected:
            self._reject_head()
        if self.pipeline and self._read_ahead_bytes <= MAX_READ_AHEAD_BYTES:
            self.flow.resume_reading()

    def _feed_parser(self, data: bytes) -> None:
        self._current_data = data
        super().data_received(data)
        remaining = memoryview(data)
        while (head := self._head_without_upgrade) is not None:
            self._head_without_upgrade = None
            remaining = remaining[self._upgrade_end :]
            self.parser = httptools.HttpRequestParser(self)  # the old one may take the connection to be at its end
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            super().data_received(head)
            super().data_received(remaining)  # type: ignore[arg-type] # the parser takes any buffer, and this is no copy
        self._current_data = b""

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._is_receiving = True
        self._start_receive_timer()  # two may be in one piece
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if (
            self._head_bytes > MAX_HEAD_BYTES and not self._is_rejected
        ):  # before its end, or in the trailers after the body
            self._reject_head()
        if not self._is_rejected:
            self._undelivered_bytes = 0
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._undelivered_bytes = 0
        if self._is_rejected:
            return
        if self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers):
            self._head_without_upgrade = self._render_head_without_upgrade()
            return
        super().on_headers_complete()
        self._open_cycles = [cycle for cycle in self._open_cycles if not cycle.response_complete]
        self._open_cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._undelivered_bytes = 0
        if not self._is_rejected:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._undelivered_bytes = 0
        if self._head_without_upgrade is not None:  # the parser ends it here; it is read once more
            return
        self._is_receiving = False
        self._stop_receive_timer()
        if not self._is_rejected:
            super().on_message_complete()
            self.cycle.more_body = False  # uvicorn leaves it true if the response was complete before the body

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._read_ahead_bytes = 0
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._slow_reader_guard.start()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # a close would wait for this client to read it
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._slow_reader_guard.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._slow_reader_guard.stop()

    def send_400_response(self, msg: str) -> None:
        """Reject what the parser cannot read."""
        if not self._is_rejected:
            self._reject(explain_malformed_request(sys.exception(), self._current_data))

    def _unsupported_upgrade_warning(self) -> None:
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)
        self._upgrade_end = upgrade.args[0]

    def _render_head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode("ascii")
        headers = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version), *headers, b"", b""])

    def _has_pending_response(self) -> bool:
        """Whether a request that has arrived is without its complete response."""
        return any(not cycle.more_body and not cycle.response_complete for cycle in self._open_cycles)

    def _start_receive_timer(self) -> None:
        if self._receive_timer is None:
            self._receiving_since, self._received_bytes = time.perf_counter(), 0
            self._receive_timer = self.loop.call_later(self._timeouts.receive_s, self._check_receive_timeout)

    def _stop_receive_timer(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _check_receive_timeout(self) -> None:
        allowed_s = self._timeouts.receive_s + self._received_bytes / MIN_UPLOAD_BYTES_PER_S
        remaining_s = self._receiving_since + allowed_s - time.perf_counter()
        if self.flow.read_paused or self._has_pending_response():
            remaining_s = self._timeouts.receive_s
            self._receiving_since = time.perf_counter()
        if remaining_s > 0:
            self._receive_timer = self.loop.call_later(remaining_s, self._check_receive_timeout)
        elif not self._is_receiving:
            self.transport.close()  # there is no request to respond to
        else:
            self._reject(
                RequestTimeout(
                    f"the request did not arrive within {format_seconds(allowed_s, 3)}; "
                    "send it faster, or less at a time"
                )
            )

    def _disconnect_open_cycles(self) -> None:
        """End every request without a complete response; uvicorn would notify the last one only."""
        for cycle in self._open_cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _reject_head(self) -> None:
        self._reject(
            HeadTooLarge(f"the head of a request is at most {MAX_HEAD_BYTES // 1024} KiB; send smaller headers")
        )

    def _reject(self, error: ApiError) -> None:
        """Send why and close the connection; where a response is due or has begun, only close it."""
        self._is_rejected = True
        self._stop_receive_timer()
        if self._has_pending_response() or any(cycle.response_started for cycle in self._open_cycles):
            self.transport.abort()
            return
        self._disconnect_open_cycles()
        self.transport.write(_render_rejection(error, self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)


def make_protocol_factory(timeouts: SlowClientTimeouts) -> Callable[..., asyncio.Protocol]:
    """Make what uvicorn calls for each connection in place of its own protocol class."""

    def create_protocol(*args: Any, **options: Any) -> HardenedProtocol:
        return HardenedProtocol(*args, timeouts=timeouts, **options)

    return create_protocol


def _render_rejection(error: ApiError, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    body = msgspec.json.encode(to_problem(error))
    lines = [
        f"HTTP/1.1 {error.status} {reason_phrase(error.status)}".encode("ascii"),
        *(name + b": " + value for name, value in default_headers if name != b"connection"),
        f"content-type: {PROBLEM_TYPE}".encode("ascii"),
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", body])
