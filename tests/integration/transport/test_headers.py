"""What of the caller's fields goes out, what comes back, and what is refused before a socket is opened."""

from __future__ import annotations

import pytest

from paceline import __version__
from paceline.errors import ConnectFailed, InvalidRequest
from support.raw_http_server import OK_RESPONSE, build_response, reply_with, serve_raw
from support.request_factory import build_request


async def test_the_fields_of_one_hop_and_of_the_engine_are_dropped(transport):
    theirs = (
        ("Host", "evil.example"),
        ("Connection", "X-Secret, keep-alive"),
        ("X-Secret", "1"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Trailer", "X"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("Content-Length", "999"),
        ("Expect", "100-continue"),
        ("Accept-Encoding", "zstd"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Connection", "keep-alive"),
        ("X-Kept", "yes"),
    )
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        await transport.send(build_request(server.url("/p?q=1"), "POST", theirs, b"body"))
        (seen,) = server.requests
    assert seen.line == "POST /p?q=1 HTTP/1.1"
    assert seen.body == b"body"
    assert seen.header_values("host") == [f"127.0.0.1:{server.port}"]
    assert seen.header_values("accept-encoding") == ["gzip, deflate, br"]
    assert seen.header_values("content-length") == ["4"]
    assert seen.header_values("x-kept") == ["yes"]
    allowed = {"host", "accept-encoding", "content-length", "x-kept", "user-agent", "connection"}
    assert {name.lower() for name, _ in seen.header_fields} <= allowed
    assert seen.header_values("connection") in ([], ["close"])


async def test_the_user_agent_is_ours_unless_given(transport):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        await transport.send(build_request(server.url()))
        await transport.send(build_request(server.url(), headers=(("user-agent", "curl/8"),)))
        assert [seen.header_values("user-agent") for seen in server.requests] == [
            [f"paceline/{__version__}"],
            ["curl/8"],
        ]


@pytest.mark.parametrize(("method", "length"), [("GET", []), ("DELETE", []), ("POST", ["0"]), ("PUT", ["0"])])
async def test_an_empty_body_has_a_length_where_a_body_is_expected(transport, method, length):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        await transport.send(build_request(server.url(), method))
        assert server.requests[0].header_values("content-length") == length


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "PROPFIND", "M-SEARCH"])
async def test_any_method_may_have_a_body(transport, method):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        await transport.send(build_request(server.url(), method, body=b"{}"))
        assert server.requests[0].line.startswith(f"{method} /")
        assert server.requests[0].body == b"{}"


async def test_a_large_body_arrives_whole(transport):
    body = bytes(range(256)) * 4096 * 4
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        await transport.send(build_request(server.url(), "PUT", body=body))
        assert server.requests[0].body == body


async def test_field_values_travel_as_latin_1_both_ways(transport):
    async with serve_raw(reply_with(build_response(b"", "X-Name: Zo\xeb", "X-Raw: \x80\xff"))) as server:
        answer = await transport.send(build_request(server.url(), headers=(("X-Name", "Zo\xeb"), ("X-Utf", "\u65e5"))))
        (seen,) = server.requests
    assert answer.header("x-name") == "Zo\xeb"
    assert answer.header("x-raw") == "\x80\xff"
    assert seen.header_values("x-name") == ["Zo\xeb"]
    assert seen.header_values("x-utf") == ["\u65e5".encode().decode("latin-1")]


async def test_repeated_fields_stay_repeated_in_order_with_lower_case_names(transport):
    reply = build_response(b"", "Set-Cookie: a=1", "Vary: X", "SET-COOKIE: b=2")
    async with serve_raw(reply_with(reply)) as server:
        answer = await transport.send(build_request(server.url(), headers=(("X", "1"), ("X", "2"))))
        assert server.requests[0].header_values("x") == ["1", "2"]
    assert answer.headers == (("set-cookie", "a=1"), ("vary", "X"), ("set-cookie", "b=2"), ("content-length", "0"))


@pytest.mark.parametrize("char", ["\r", "\n", "\0", "\x1f", "\x7f", "\r\nX-Injected: yes"])
async def test_a_control_character_in_a_value_is_refused_and_nothing_is_sent(transport, char):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        with pytest.raises(InvalidRequest, match="X-Mine") as caught:
            await transport.send(build_request(server.url(), headers=(("X-Mine", f"a{char}b"),)))
        assert not caught.value.sent
        assert server.connections == 0


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "\xe9"])
async def test_a_name_that_is_no_token_is_refused(transport, name):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        with pytest.raises(InvalidRequest, match="header name"):
            await transport.send(build_request(server.url(), headers=((name, "x"),)))
        assert server.connections == 0


@pytest.mark.parametrize("method", ["CONNECT", "connect", "", "GE T", "GET\r\n", "G\xcbT"])
async def test_connect_and_what_is_no_method_are_refused_before_a_socket_is_opened(transport, method):
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        with pytest.raises(InvalidRequest, match="method"):
            await transport.send(build_request(server.url(), method))
        assert server.connections == 0


async def test_a_target_travels_as_it_is_written(transport):
    target = "/%7Ea/../b//c%2F[]?q=%20&r=a+b&s=%E9"
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        await transport.send(build_request(server.url(target)))
        assert server.requests[0].line == f"GET {target} HTTP/1.1"


async def test_a_very_long_url_is_sent_or_refused(transport, engine_name):
    request = build_request("http://127.0.0.1:1/" + "x" * 70_000)
    with pytest.raises((InvalidRequest, ConnectFailed)) as caught:
        await transport.send(request)
    assert isinstance(caught.value, InvalidRequest) == (engine_name == "httpx")
    assert not caught.value.sent


async def test_no_redirect_is_followed(transport):
    async with serve_raw(reply_with(build_response(b"", "Location: /elsewhere", status="302 Found"))) as server:
        answer = await transport.send(build_request(server.url()))
        assert (answer.status, answer.header("location")) == (302, "/elsewhere")
        assert len(server.requests) == 1


async def test_no_cookie_is_kept(transport):
    async with serve_raw(reply_with(build_response(b"", "Set-Cookie: session=1; Path=/"))) as server:
        for _ in range(2):
            await transport.send(build_request(server.url()))
        assert [seen.header_values("cookie") for seen in server.requests] == [[], []]


async def test_no_proxy_and_no_credentials_come_from_the_environment(open_transport, monkeypatch, tmp_path):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with serve_raw(reply_with(OK_RESPONSE)) as server:
        assert (await open_transport().send(build_request(server.url()))).body == b"ok"
        assert server.requests[0].header_values("authorization") == []
