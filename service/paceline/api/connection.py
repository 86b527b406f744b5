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

from paceline.api.errors import PROBLEM_TYPE, ApiError, HeadTooLarge, TooSlow, phrase, problem_of
from paceline.api.not_http import not_http
from paceline.api.taking import Taking

MAX_HEAD = 64 * 1024
MAX_AHEAD = 64 * 1024
SLOWEST_SENT = 64 * 1024
"""Bytes a second below which a caller is too slow. A body holds room before it is here, so it may take less time."""

_LINGER_S = 0.5
"""How long a refused caller may go on sending: bytes that nobody reads would reset the connection, and the refusal."""


class Patience(Struct, frozen=True):
    """How long callers may take; seconds."""

    receive_s: float = 30.0
    take_s: float = 30.0
    """Between two looks at how much a caller has taken of what waits for it."""


class Connection(HttpToolsProtocol):
    """A subclass because that is how uvicorn lets its protocol be replaced."""

    def __init__(self, *args: Any, patience: Patience, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patience = patience
        self._open: list[RequestResponseCycle] = []
        """The requests that have no whole answer yet, in order; only the last of them may still be arriving."""
        self._refused = False
        self._arrival: asyncio.TimerHandle | None = None
        self._begun = False
        self._arriving_since = 0.0
        self._arrived = 0
        self._undelivered = 0
        self._head_size = 0
        self._ahead = 0
        self._taking: Taking  # from `connection_made` on
        self._piece = b""
        self._plain_head: bytes | None = None
        """The head of a request that offered an upgrade, without the offer: what is to be read in its place."""
        self._offer_ends = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._taking = Taking(transport, self._patience.take_s)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_arrival()
        self._taking.stop()
        self._unset_keepalive_if_required()
        self._tell_gone()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._watch_arrival()
        self._arrived += len(data)
        self._undelivered += len(data)
        if self._answering():
            self._ahead += len(data)
        self._read(data)
        if self._undelivered > MAX_HEAD and not self._refused:
            self._refuse_head()
        if self.pipeline and self._ahead <= MAX_AHEAD:
            self.flow.resume_reading()

    def _read(self, data: bytes) -> None:
        self._piece = data
        super().data_received(data)
        left = memoryview(data)
        while (head := self._plain_head) is not None:
            self._plain_head = None
            left = left[self._offer_ends :]
            self.parser = httptools.HttpRequestParser(self)  # the old one may take the connection to be at its end
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            super().data_received(head)
            super().data_received(left)  # type: ignore[arg-type] # the parser takes any buffer, and this is no copy
        self._piece = b""

    def on_message_begin(self) -> None:
        self._head_size = 0
        self._begun = True
        self._watch_arrival()  # two may be in one piece
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head_size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_size += len(name) + len(value) + 4
        if self._head_size > MAX_HEAD and not self._refused:  # before its end, or in the trailers after the body
            self._refuse_head()
        if not self._refused:
            self._undelivered = 0
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._undelivered = 0
        if self._refused:
            return
        if self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers):
            self._plain_head = self._without_offer()
            return
        super().on_headers_complete()
        self._open = [cycle for cycle in self._open if not cycle.response_complete]
        self._open.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        self._undelivered = 0
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._undelivered = 0
        if self._plain_head is not None:  # the parser ends it here; it is read once more
            return
        self._begun = False
        self._stop_arrival()
        if not self._refused:
            super().on_message_complete()
            self.cycle.more_body = False  # uvicorn leaves it where the answer was there before the body

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._ahead = 0
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._taking.watch()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():  # a close would wait for this caller to take it
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking.watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taking.stop()

    def send_400_response(self, msg: str) -> None:
        """What the parser refuses."""
        if not self._refused:
            self._refuse(not_http(sys.exception(), self._piece))

    def _unsupported_upgrade_warning(self) -> None:
        offer = sys.exception()
        assert isinstance(offer, httptools.HttpParserUpgrade)
        self._offer_ends = offer.args[0]

    def _without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode("ascii")
        fields = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version), *fields, b"", b""])

    def _answering(self) -> bool:
        """Is a request that has arrived still without its whole answer?"""
        return any(not cycle.more_body and not cycle.response_complete for cycle in self._open)

    def _watch_arrival(self) -> None:
        if self._arrival is None:
            self._arriving_since, self._arrived = time.perf_counter(), 0
            self._arrival = self.loop.call_later(self._patience.receive_s, self._look_at_arrival)

    def _stop_arrival(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _look_at_arrival(self) -> None:
        allowed_s = self._patience.receive_s + self._arrived / SLOWEST_SENT
        left_s = self._arriving_since + allowed_s - time.perf_counter()
        if self.flow.read_paused or self._answering():
            left_s = self._patience.receive_s
            self._arriving_since = time.perf_counter()
        if left_s > 0:
            self._arrival = self.loop.call_later(left_s, self._look_at_arrival)
        elif not self._begun:
            self.transport.close()  # nothing was asked, so nothing is answered
        else:
            self._refuse(
                TooSlow(f"the request did not arrive within {allowed_s:.3g} s; send it faster, or less at a time")
            )

    def _tell_gone(self) -> None:
        """End every request that has no answer; uvicorn would tell the last one only."""
        for cycle in self._open:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _refuse_head(self) -> None:
        self._refuse(HeadTooLarge(f"the head of a request is at most {MAX_HEAD // 1024} KiB; send smaller headers"))

    def _refuse(self, error: ApiError) -> None:
        """Say why and end the connection; where an answer is due or begun, only the latter."""
        self._refused = True
        self._stop_arrival()
        if self._answering() or any(cycle.response_started for cycle in self._open):
            self.transport.abort()
            return
        self._tell_gone()
        self.transport.write(_refusal(error, self.server_state.default_headers))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.abort)


def connections(patience: Patience) -> Callable[..., asyncio.Protocol]:
    """What makes a connection for each caller, called as uvicorn calls its own protocol."""

    def connection(*args: Any, **options: Any) -> Connection:
        return Connection(*args, patience=patience, **options)

    return connection


def _refusal(error: ApiError, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    body = msgspec.json.encode(problem_of(error))
    lines = [
        f"HTTP/1.1 {error.status} {phrase(error.status)}".encode("ascii"),
        *(name + b": " + value for name, value in fields if name != b"connection"),
        f"content-type: {PROBLEM_TYPE}".encode("ascii"),
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    return b"\r\n".join([*lines, b"", body])
