"""One caller's connection: uvicorn's protocol, and what it lets a slow or hostile caller do without end.

* A request is here within `receive_s` of its first byte (one that keeps `SLOWEST_SENT` has longer), else 408. While we
  ourselves do not read (a body that must wait, an earlier request of the connection), the caller is not to blame.
* A head, or anything else a body is framed by, is at most `MAX_HEAD`, else 431.
* A caller that does not take its answer is hung up on (`Taking`).
* A request that offers to upgrade the connection is read as if it did not: the parser would take it to have no body,
  and clients that prefer HTTP/2 (Java's, curl --http2) offer it with every first one.
* A caller that hangs up ends every request it has sent, also those that wait for an earlier one. To notice it, up to
  `MAX_AHEAD` bytes are read ahead of an answer; one that has sent more is noticed when its answer is written.

A caller that only closes its own direction cannot be told from one that has gone, and counts as gone.
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
"""Bytes a second below which a caller is too slow. A body holds room before it is here, so it may take less time."""

_LINGER_S = 0.5
"""How long a refused caller may go on sending: bytes that nobody reads would reset the connection, and the refusal."""


class SlowClientTimeouts(Struct, frozen=True):
    """How long callers may take; seconds."""

    receive_s: float = 30.0
    read_check_interval_s: float = 30.0
    """Between two looks at how much a caller has taken of what waits for it."""


class HardenedProtocol(HttpToolsProtocol):
    """A subclass because that is how uvicorn lets its protocol be replaced."""

    def __init__(self, *args: Any, timeouts: SlowClientTimeouts, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timeouts = timeouts
        self._open_cycles: list[RequestResponseCycle] = []
        """The requests that have no whole answer yet, in order; only the last of them may still be arriving."""
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
        """The head of a request that offered an upgrade, without the offer: what is to be read in its place."""
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
            self.cycle.more_body = False  # uvicorn leaves it where the answer was there before the body

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._read_ahead_bytes = 0
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._slow_reader_guard.start()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # a close would wait for this caller to take it
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._slow_reader_guard.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._slow_reader_guard.stop()

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses."""
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
        """Is a request that has arrived still without its whole answer?"""
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
            self.transport.close()  # nothing was asked, so nothing is answered
        else:
            self._reject(
                RequestTimeout(
                    f"the request did not arrive within {format_seconds(allowed_s, 3)}; "
                    "send it faster, or less at a time"
                )
            )

    def _disconnect_open_cycles(self) -> None:
        """End every request that has no answer; uvicorn would tell the last one only."""
        for cycle in self._open_cycles:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _reject_head(self) -> None:
        self._reject(
            HeadTooLarge(f"the head of a request is at most {MAX_HEAD_BYTES // 1024} KiB; send smaller headers")
        )

    def _reject(self, error: ApiError) -> None:
        """Say why and end the connection; where an answer is due or begun, only the latter."""
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
    """What makes a connection for each caller, called as uvicorn calls its own protocol."""

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
