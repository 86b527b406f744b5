"""URLs that are fetched, and what is said of those that are not."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paceline.errors import InvalidRequest
from paceline.model import Url
from paceline.transport import url as module
from paceline.transport.url import parse_url, remove_dot_segments


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "target"),
    [
        ("http://api.example", "http", "api.example", 80, "/"),
        ("https://api.example/", "https", "api.example", 443, "/"),
        ("https://api.example:8443/a/b?c=d&e=%20f", "https", "api.example", 8443, "/a/b?c=d&e=%20f"),
        ("http://127.0.0.1:9000/x", "http", "127.0.0.1", 9000, "/x"),
        ("http://localhost", "http", "localhost", 80, "/"),
        ("HTTPS://API.Example/Path", "https", "api.example", 443, "/Path"),
        ("http://api.example.", "http", "api.example", 80, "/"),
        ("http://my_host-1.example/", "http", "my_host-1.example", 80, "/"),
        ("http://1password.example/", "http", "1password.example", 80, "/"),
        ("http://a.1x/", "http", "a.1x", 80, "/"),
        ("http://api.example?q=1", "http", "api.example", 80, "/?q=1"),
        ("http://api.example#top", "http", "api.example", 80, "/"),
        ("http://api.example/a#b?c", "http", "api.example", 80, "/a"),
        ("http://api.example/a b?c d", "http", "api.example", 80, "/a%20b?c%20d"),
        ("http://api.example/é?ü=日", "http", "api.example", 80, "/%C3%A9?%C3%BC=%E6%97%A5"),
        ("http://api.example/%zz%", "http", "api.example", 80, "/%zz%"),
        ("http://api.example/a[]=1|2{3}", "http", "api.example", 80, "/a[]=1%7C2%7B3%7D"),
        ("http://api.example/?a[]=@x:y", "http", "api.example", 80, "/?a[]=@x:y"),
        ("http://api.example/../a/./b", "http", "api.example", 80, "/../a/./b"),
        ("http://bücher.example/", "http", "xn--bcher-kva.example", 80, "/"),
        ("http://例え.テスト/", "http", "xn--r8jz45g.xn--zckzah", 80, "/"),
        ("http://[2001:DB8::1]:8080/x", "http", "2001:db8::1", 8080, "/x"),
        ("http://[::1]", "http", "::1", 80, "/"),
        ("http://api.example:080/", "http", "api.example", 80, "/"),
        ("http://api.example:65535/", "http", "api.example", 65535, "/"),
    ],
)
def test_a_usable_url_is_read(text, scheme, host, port, target):
    assert parse_url(text) == Url(scheme, host, port, target)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not an absolute URL"),
        ("/path", "not an absolute URL"),
        ("api.example/path", "not an absolute URL"),
        ("http:api.example", "not an absolute URL"),
        ("http:/api.example", "not an absolute URL"),
        ("ftp://api.example/", "its scheme is ftp"),
        ("file:///etc/passwd", "its scheme is file"),
        ("gopher://api.example/", "its scheme is gopher"),
        ("http://user@api.example/", "user name or password"),
        ("http://user:secret@api.example/", "user name or password"),
        ("http://api.example@evil.example/", "user name or password"),
        ("http://@api.example/", "user name or password"),
        ("http://api.example\\@evil.example/", "backslash"),
        ("http:\\\\api.example/", "backslash"),
        ("http:///path", "host is empty"),
        ("http://", "host is empty"),
        ("http://:80/", "host is empty"),
        ("http://?q", "host is empty"),
        ("http://.", "no host name"),
        ("http://a..b/", "no host name"),
        ("http://.a/", "no host name"),
        ("http://a b/", "no host name"),
        ("http://ex%61mple.com/", "no host name"),
        ("http://a;b/", "no host name"),
        (f"http://{'a' * 64}.example/", "no host name"),
        (f"http://{'a.' * 130}example/", "no host name"),
        ("http://127.1/", "not a plain IPv4 address"),
        ("http://127.0.1/", "not a plain IPv4 address"),
        ("http://2130706433/", "not a plain IPv4 address"),
        ("http://0x7f000001/", "not a plain IPv4 address"),
        ("http://0X7F.1/", "not a plain IPv4 address"),
        ("http://0177.0.0.1/", "not a plain IPv4 address"),
        ("http://127.0.0.01/", "not a plain IPv4 address"),
        ("http://127.0.0.256/", "not a plain IPv4 address"),
        ("http://1.2.3.4.5/", "not a plain IPv4 address"),
        ("http://api.0x7f/", "not a plain IPv4 address"),
        ("http://127.0.0.0x1/", "not a plain IPv4 address"),
        ("http://\uff11\uff12\uff17.1/", "not a plain IPv4 address"),
        ("http://\u2460.1/", "not a plain IPv4 address"),
        ("http://api.example:0/", "its port is '0'"),
        ("http://api.example:65536/", "its port is '65536'"),
        ("http://api.example:99999999999/", "its port is"),
        ("http://api.example:http/", "its port is 'http'"),
        ("http://api.example:/", "its port is ''"),
        ("http://api.example:-1/", "its port is '-1'"),
        ("http://api.example:8\u0660/", "its port is"),
        ("http://2001:db8::1/", "colons in it"),
        ("http://[2001:db8::1/", "no closing bracket"),
        ("http://[2001:db8::1]x/", "follows its IPv6 address"),
        ("http://[fe80::1%eth0]/", "zone"),
        ("http://[fe80::1%25eth0]/", "zone"),
        ("http://[127.0.0.1]/", "no IPv6 address"),
        ("http://[]/", "no IPv6 address"),
        ("http://api.example/a\nb", "control character"),
        ("http://api.example/a\tb", "control character"),
        ("http://api.example/a\r\nHost: evil", "control character"),
        ("http://api.example/\x00", "control character"),
        ("http://api.example/\x7f", "control character"),
        (" http://api.example/", "starts or ends with a space"),
        ("http://api.example/ ", "starts or ends with a space"),
        ("http://xn--a.example.\u2488com/", ""),
    ],
)
def test_an_unusable_url_is_refused_by_what_is_wrong_with_it(text, problem):
    with pytest.raises(InvalidRequest) as caught:
        parse_url(text)
    assert problem in caught.value.message
    assert not caught.value.sent


def test_a_refusal_does_not_repeat_a_password():
    for text in ("http://me:hunter2@api.example/", "http://me:hunter2@api.example:0/\n", "http://me:hunter2@a\\b"):
        with pytest.raises(InvalidRequest) as caught:
            parse_url(text)
        assert "hunter2" not in caught.value.message


labels = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
paths = st.text("abcXYZ019/-._~!$&'()*+,;=:@%?[]", max_size=20)


@given(st.sampled_from(["http", "https"]), st.lists(labels, min_size=1, max_size=4), st.integers(1, 65535), paths)
def test_the_quick_and_the_careful_path_agree(scheme, host, port, path):
    text = f"{scheme}://{'.'.join(host)}:{port}/{path}"
    assert parse_url(text) == module._parse_uncommon_url(text)


@given(st.text())
@example("http://[::ffff:127.0.0.1]/")
def test_any_text_is_read_or_refused_and_what_is_read_is_safe_to_send(text):
    for candidate in (text, f"http://{text}", f"http://api.example/{text}"):
        try:
            url = parse_url(candidate)
        except InvalidRequest:
            continue
        assert re.fullmatch(r"[\x21-\x7e]+", url.target)
        assert url.target.startswith("/")
        assert "#" not in url.target
        assert re.fullmatch(r"[a-z0-9_.:-]+", url.host)
        assert 0 < url.port < 65536
        assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("/", "/"),
        ("", ""),
        ("/a/b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/../../../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e/b", "/a/b"),
        ("/a/..%2fb", "/b"),
        ("/a%2f..%2fb", "/b"),
        ("/a/..\\b", "/b"),
        ("/a/..%5Cb", "/b"),
        ("/a%2fb/c", "/a%2fb/c"),
        ("/a/...", "/a/..."),
        ("/a/..b/.c", "/a/..b/.c"),
        ("/a//b", "/a//b"),
        ("/a//../b", "/a/b"),
        ("/v1.2/x", "/v1.2/x"),
        ("/mid/content=5/../6", "/mid/6"),
        ("/a/b/c/./../../g", "/a/g"),
    ],
)
def test_dot_segments_are_resolved_in_every_spelling(path, resolved):
    assert remove_dot_segments(path) == resolved


@given(
    st.lists(st.sampled_from(["a", "b.c", ".", "..", "%2e", "%2E.", "", "...", "/", "%2f", "%5c", "\\"]), max_size=12)
)
def test_a_resolved_path_has_no_dot_segment_left_and_stays_as_it_is(pieces):
    path = "/" + "/".join(pieces)
    resolved = remove_dot_segments(path)
    decoded = re.sub(r"(?i)%2e", ".", re.sub(r"(?i)%2f|%5c|\\", "/", resolved))
    assert resolved.startswith("/")
    assert not {".", ".."} & set(decoded.split("/"))
    assert remove_dot_segments(resolved) == resolved
