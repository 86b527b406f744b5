"""The httpx engine takes any httpx transport, so that mocks and ASGI apps stand in for an upstream."""

from __future__ import annotations

import gzip
import subprocess
import sys
import time

import httpx2
import pytest

from paceline.errors import BodyTooLarge, InvalidRequest
from paceline.transport.base import TransportOptions
from paceline.transport.egress import EgressGuard
from paceline.transport.httpx import HttpxTransport
from support.request_factory import build_request


async def test_a_mock_transport_answers_and_the_exchange_is_filled():
    def reply(request: httpx2.Request) -> httpx2.Response:
        assert request.headers["x"] == "1"
        return httpx2.Response(201, json={"path": request.url.path, "body": request.content.decode()})

    transport = HttpxTransport(TransportOptions(), EgressGuard(), httpx2.MockTransport(reply))
    request = build_request("http://api.example/p?q", "POST", (("X", "1"),), b"hello")
    before = time.perf_counter()
    answer = await transport.send(request)
    assert (answer.status, answer.body) == (201, b'{"path":"/p","body":"hello"}')
    assert before <= request.exchange.written_at <= request.exchange.answered_at
    await transport.close()


async def test_a_mock_s_body_is_decoded_and_capped_like_any_other():
    def reply(request: httpx2.Request) -> httpx2.Response:
        packed = gzip.compress(b"x" * 1000)
        return httpx2.Response(200, headers={"content-encoding": "gzip"}, stream=httpx2.ByteStream(packed))

    wide = HttpxTransport(TransportOptions(), EgressGuard(), httpx2.MockTransport(reply))
    assert (await wide.send(build_request("http://api.example/"))).body == b"x" * 1000
    narrow = HttpxTransport(TransportOptions(max_response=999), EgressGuard(), httpx2.MockTransport(reply))
    with pytest.raises(BodyTooLarge):
        await narrow.send(build_request("http://api.example/"))


async def test_an_asgi_app_answers():
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-path", scope["path"].encode())]})
        await send({"type": "http.response.body", "body": b"from the app"})

    transport = HttpxTransport(TransportOptions(), EgressGuard(), httpx2.ASGITransport(app))
    answer = await transport.send(build_request("http://app.example/here"))
    assert (answer.body, answer.header("x-path")) == (b"from the app", "/here")


async def test_a_request_that_is_refused_never_reaches_the_mock():
    def reply(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError("refused before it was sent")

    transport = HttpxTransport(TransportOptions(), EgressGuard(), httpx2.MockTransport(reply))
    with pytest.raises(InvalidRequest):
        await transport.send(build_request("http://api.example/", "CONNECT"))


RESPX = """
import asyncio, httpx2
httpx2.alias_httpx()
import respx
from paceline.model import Exchange, Receipt, Request, RetryPolicy
from paceline.transport.base import TransportOptions
from paceline.transport.egress import EgressGuard
from paceline.transport.httpx import HttpxTransport
from paceline.transport.url import parse_url

def ask(text):
    return Request("GET", parse_url(text), (), b"", 1e9, Receipt(), Exchange(), RetryPolicy())

async def main():
    with respx.mock:
        respx.get("http://api.example/everywhere").mock(return_value=httpx2.Response(200, text="patched"))
        patched = HttpxTransport(TransportOptions(), EgressGuard())
        assert (await patched.send(ask("http://api.example/everywhere"))).body == b"patched"
    router = respx.Router()
    router.get("http://api.example/here").respond(418, text="plugged")
    plugged = HttpxTransport(TransportOptions(), EgressGuard(), httpx2.MockTransport(router.async_handler))
    assert (await plugged.send(ask("http://api.example/here"))).body == b"plugged"

asyncio.run(main())
"""


def test_respx_mocks_the_engine_as_it_is_and_as_a_transport_put_in():
    # In a process of its own: httpx2 takes httpx's name before anything has imported that.
    subprocess.run([sys.executable, "-W", "error", "-c", RESPX], check=True)
