"""Bodies come back whole and decoded, or not at all; never more than `max_response` decoded bytes are held."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import brotli
import pytest

from paceline.errors import BodyTooLarge, ProtocolError
from paceline.transport.content_decoding import open_body_decoder
from support.raw_http_server import ClientConnection, build_response, reply_and_close, reply_with, serve_raw
from support.request_factory import build_request

LIMIT = 100_000


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


PACK = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
}


async def test_the_cap_lets_exactly_its_size_through_and_not_one_byte_more(open_transport):
    transport = open_transport(max_response=LIMIT)
    async with serve_raw(reply_with(build_response(bytes(LIMIT)))) as server:
        assert len((await transport.send(build_request(server.url()))).body) == LIMIT
    async with serve_raw(reply_with(build_response(bytes(LIMIT + 1)))) as server:
        with pytest.raises(BodyTooLarge) as caught:
            await transport.send(build_request(server.url()))
        assert caught.value.sent


async def test_an_endless_body_is_read_no_further_than_the_cap(open_transport):
    sent = 0

    async def script(caller: ClientConnection) -> None:
        nonlocal sent
        await caller.read_request()
        await caller.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await caller.write(b"4000\r\n", bytes(0x4000), b"\r\n")
            sent += 0x4000

    transport = open_transport(max_response=LIMIT)
    async with serve_raw(script) as server:
        with pytest.raises(BodyTooLarge):
            await transport.send(build_request(server.url()))
        await server.wait_all_closed()
    assert sent < LIMIT + (16 << 20)  # socket buffers, not the world


@pytest.mark.parametrize("coding", PACK)
async def test_a_coded_answer_is_decoded_and_loses_the_fields_that_described_it(transport, coding):
    text = b"all work and no play " * 5000
    reply = build_response(PACK[coding](text), f"Content-Encoding: {coding.upper()}", "Content-Type: text/plain")
    async with serve_raw(reply_with(reply)) as server:
        answer = await transport.send(build_request(server.url()))
    assert answer.body == text
    assert answer.headers == (("content-type", "text/plain"),)


async def test_bare_deflate_is_understood_byte_by_byte(transport):
    packed = bare_deflate(b"all work and no play")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in packed) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: deflate\r\n\r\n"
    async with serve_raw(reply_with(head + chunks)) as server:
        assert (await transport.send(build_request(server.url()))).body == b"all work and no play"


async def test_gzip_members_one_after_another_are_one_body(transport):
    reply = build_response(gzip.compress(b"one ") + gzip.compress(b"two"), "Content-Encoding: gzip")
    async with serve_raw(reply_with(reply)) as server:
        assert (await transport.send(build_request(server.url()))).body == b"one two"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_a_decompression_bomb_is_opened_no_further_than_the_cap(open_transport, coding):
    bomb = PACK[coding](bytes(8 << 20))
    assert len(bomb) < LIMIT  # so that only decoded bytes can pass the cap
    transport = open_transport(max_response=LIMIT)
    async with serve_raw(reply_with(build_response(bomb, f"Content-Encoding: {coding}"))) as server:
        with pytest.raises(BodyTooLarge):
            await transport.send(build_request(server.url()))
        await server.wait_all_closed()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_opening_a_bomb_takes_no_more_memory_than_the_cap_allows(coding):
    bomb = PACK[coding](bytes(32 << 20))
    body = open_body_decoder((("content-encoding", coding),), LIMIT)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            body.feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Encoding: gzip, gzip"],
        ["Content-Encoding: gzip", "Content-Encoding: br"],
        ["Content-Encoding: br,gzip"],
    ],
)
async def test_stacked_codings_are_refused(transport, lines):
    reply = build_response(gzip.compress(gzip.compress(b"x")), *lines)
    async with serve_raw(reply_with(reply)) as server:
        with pytest.raises(ProtocolError, match="stacked"):
            await transport.send(build_request(server.url()))


async def test_a_coding_that_was_not_asked_for_is_refused(transport):
    async with serve_raw(reply_with(build_response(b"?", "Content-Encoding: zstd"))) as server:
        with pytest.raises(ProtocolError, match="zstd"):
            await transport.send(build_request(server.url()))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("spoil", [lambda b: b[:-3], lambda b: b + b"garbage", lambda b: b"\xff\x00" + b[2:]])
async def test_a_coding_that_breaks_off_or_has_garbage_in_it_is_an_error(transport, coding, spoil):
    reply = build_response(spoil(PACK[coding](b"all work and no play" * 50)), f"Content-Encoding: {coding}")
    async with serve_raw(reply_with(reply)) as server:
        with pytest.raises(ProtocolError) as caught:
            await transport.send(build_request(server.url()))
        assert caught.value.sent


@pytest.mark.parametrize("coding", ["gzip", "identity", ""])
async def test_an_empty_body_may_name_a_coding(transport, coding):
    async with serve_raw(reply_with(build_response(b"", f"Content-Encoding: {coding}"))) as server:
        assert (await transport.send(build_request(server.url()))).body == b""


async def test_an_answer_to_head_keeps_the_fields_that_describe_the_body_it_has_not(transport):
    reply = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4000000000\r\n\r\n"
    async with serve_raw(reply_with(reply)) as server:
        answer = await transport.send(build_request(server.url(), "HEAD"))
        assert answer.body == b""
        assert answer.header("content-length") == "4000000000"
        assert answer.header("content-encoding") == "gzip"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_status_without_a_body_has_none(transport, status):
    async with serve_raw(reply_with(f"HTTP/1.1 {status}\r\nETag: x\r\n\r\n".encode())) as server:
        answer = await transport.send(build_request(server.url()))
        assert (answer.body, answer.header("etag")) == (b"", "x")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["chunked", "until close", "1.0 until close", "1.0 with length"],
)
async def test_every_framing_of_a_body_is_read_whole(transport, reply):
    async with serve_raw(reply_and_close(reply)) as server:
        assert (await transport.send(build_request(server.url()))).body == b"hello"
        await server.wait_all_closed()


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"220 smtp.example ESMTP\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"",
    ],
)
async def test_what_breaks_off_or_is_not_http_is_a_protocol_error(transport, reply):
    async with serve_raw(reply_and_close(reply)) as server:
        with pytest.raises(ProtocolError) as caught:
            await transport.send(build_request(server.url()))
        assert caught.value.sent
        await server.wait_all_closed()


@pytest.mark.parametrize("line", ["X: " + "x" * 300_000, "X: y\r\n" * 40_000], ids=["one long field", "many fields"])
async def test_a_head_of_no_end_is_a_protocol_error(transport, line):
    async with serve_raw(reply_with(build_response(b"", line))) as server:
        with pytest.raises(ProtocolError):
            await transport.send(build_request(server.url()))
        await server.wait_all_closed()


async def test_a_switch_of_protocols_is_refused(transport):
    reply = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    async with serve_raw(reply_with(reply)) as server:
        with pytest.raises(ProtocolError):
            await transport.send(build_request(server.url()))
        await server.wait_all_closed()
