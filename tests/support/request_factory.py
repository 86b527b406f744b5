"""A `Request` as the layers get it, from a URL."""

from __future__ import annotations

from paceline.model import Exchange, Headers, Receipt, Request, RetryPolicy
from paceline.transport.url import parse_url


def build_request(url: str, method: str = "GET", headers: Headers = (), body: bytes = b"") -> Request:
    return Request(method, parse_url(url), headers, body, float("inf"), Receipt(), Exchange(), RetryPolicy())
