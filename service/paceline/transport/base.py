"""The contract of an HTTP engine: what every engine guarantees, whatever its library does.

An engine sends one request over one connection and returns the whole response. It follows no redirect, stores no
cookie, reads no proxy from the environment, closes the socket of a cancelled call at once, and raises nothing but
`AttemptError` and `EgressDenied` (`CancelledError` propagates). tests/integration/transport checks every engine.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from paceline.header_values import ENGINE_HEADER_PREFIX, ENGINE_HEADERS
from paceline.model import Headers, Request, Response


class TransportOptions(Struct, frozen=True):
    """How to reach an upstream; seconds and bytes."""

    allow_private: bool = False
    declared: bool = True
    """Declared by the operator: any port, and private addresses with `allow_private`."""
    dns_timeout_s: float = 2.0
    connect_timeout_s: float = 3.0
    max_response: int = 10 * 1024 * 1024
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    proxy: str | None = None


class Transport(Protocol):
    """One engine, open for one upstream."""

    async def send(self, request: Request) -> Response:
        """Send once and read the whole response.

        Fills `request.exchange` on the way. The caller limits the time by cancelling.

        Raises:
            EgressDenied: an address that the egress guard denies.
            AttemptError: any other failure to get a whole response; `sent` is false only when certain.
        """
        ...

    async def close(self) -> None:
        """Close every connection; calls still in flight fail."""
        ...


_DROPPED_HEADERS = ENGINE_HEADERS | {"paceline-key"}
"""What no engine sends on from a caller: also the key to this service."""


def forwardable_headers(headers: Headers) -> list[tuple[str, str]]:
    """The caller's headers without those that belong to one hop, the framing or the engine.

    Fields that a Connection header names are dropped too.
    """
    connection_tokens: frozenset[str] = frozenset()
    for name, value in headers:
        if name.lower() == "connection":
            connection_tokens |= {token.strip().lower() for token in value.split(",")}
    return [
        (name, value)
        for name, value in headers
        if (low := name.lower()) not in _DROPPED_HEADERS
        and low not in connection_tokens
        and not low.startswith(ENGINE_HEADER_PREFIX)
    ]
