from __future__ import annotations

import asyncio
import signal
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme

from paceline.demo.server import main
from tools.demo_server import DemoUpstream, StartDemo
from tools.processes import LISTENING_PATTERN, start_process


async def talk(upstream: DemoUpstream, sent: bytes) -> bytes:
    """Everything the upstream says to these bytes until it closes."""
    at = urlsplit(upstream.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(sent)
    said = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return said


async def test_requests_above_the_limit_are_refused_and_counted(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=5, per="1m", retry_after=True)
    async with aiohttp.ClientSession() as session:
        statuses = []
        for n in range(8):
            async with session.get(f"{upstream.url}/items/{n}?q=1") as answer:
                statuses.append(answer.status)
                content = await answer.json()
    assert statuses == [200] * 5 + [429] * 3
    assert content == {"error": "rate limit exceeded"}
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    stats = await upstream.stats()
    assert (stats["accepted"], stats["refused"], stats["in_flight"]) == (5, 3, 0)
    assert stats["arrivals"][0] == stats["first_at"] <= stats["last_at"] == stats["arrivals"][-1]
    assert len(stats["arrivals"]) == 5


async def test_an_answer_names_its_path_and_its_number(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=100)
    async with aiohttp.ClientSession() as session:
        for n in (1, 2):
            async with session.post(f"{upstream.url}/items?page=2", data=b"x" * 100_000) as answer:
                assert await answer.json() == {"path": "/items", "n": n}
    assert (await upstream.stats())["connections"] >= 1


async def test_reset_forgets_and_is_not_counted(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=1, per="1m")
    async with aiohttp.ClientSession() as session:
        for expected in (200, 429):
            async with session.get(upstream.url + "/a") as answer:
                assert answer.status == expected
        await upstream.reset()
        assert (await upstream.stats())["accepted"] == 0
        async with session.get(upstream.url + "/a") as answer:
            assert answer.status == 200


async def test_latency_keeps_requests_in_flight(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=100, latency="300ms")
    loop = asyncio.get_running_loop()

    async def get(session: aiohttp.ClientSession) -> float:
        began = loop.time()
        async with session.get(upstream.url + "/slow") as answer:
            await answer.read()
        return loop.time() - began

    async with aiohttp.ClientSession() as session:
        took = await asyncio.gather(*(get(session) for _ in range(4)))
    assert min(took) >= 0.295
    assert (await upstream.stats())["in_flight_max"] >= 2


async def test_pipelined_requests_are_answered_in_order(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=2, per="1m", latency="30ms", jitter="20ms")
    one = b"GET /%d HTTP/1.1\r\nhost: x\r\n%b\r\n"
    said = await talk(upstream, one % (1, b"") + one % (2, b"") + one % (3, b"") + one % (4, b"connection: close\r\n"))
    assert said.count(b"HTTP/1.1 200") == 2
    assert said.count(b"HTTP/1.1 429") == 2
    places = [said.find(b'"path":"/%d"' % n) for n in (1, 2, 3, 4)]
    found = [place for place in places if place >= 0]
    assert found == sorted(found)


async def test_jitter_adds_to_the_latency_and_differs(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=100, latency="100ms", jitter="100ms")
    loop = asyncio.get_running_loop()

    async def get(session: aiohttp.ClientSession) -> float:
        began = loop.time()
        async with session.get(upstream.url + "/slow") as answer:
            await answer.read()
        return loop.time() - began

    async with aiohttp.ClientSession() as session:
        took = await asyncio.gather(*(get(session) for _ in range(16)))
    assert min(took) >= 0.098
    stats = await upstream.stats()
    assert stats["last_at"] - stats["first_at"] > 0.02  # the way there differs too


async def test_a_request_counts_at_its_head_and_is_answered_after_its_body(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=9, latency="10ms")
    at = urlsplit(upstream.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\n")
    while (await upstream.stats())["accepted"] == 0:  # noqa: ASYNC110 - asks another program
        await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.2)
    writer.write(b"hello")
    assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_a_head_request_gets_no_body(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=9)
    said = await talk(upstream, b"HEAD /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200")
    assert said.endswith(b"\r\n\r\n")


async def test_what_is_not_http_closes_the_connection(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=9)
    assert await talk(upstream, b"\x16\x03\x01 nonsense\r\n\r\n") == b""
    assert (await upstream.stats())["accepted"] == 0


async def test_sigterm_answers_what_is_in_flight_and_exits_0(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=9, latency="500ms")
    async with aiohttp.ClientSession() as session:
        flying = asyncio.create_task(session.get(upstream.url + "/late"))
        while (await upstream.stats())["in_flight"] == 0:  # noqa: ASYNC110 - asks another program
            await asyncio.sleep(0.01)
        upstream.process.send_signal(signal.SIGTERM)
        answer = await flying
        assert answer.status == 200
        answer.release()
    assert await upstream.process.wait_for_exit() == 0


async def test_it_serves_https(tmp_path: Path) -> None:
    authority = trustme.CA()
    own = authority.issue_cert("localhost", "127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    own.cert_chain_pems[0].write_to_path(cert)
    own.private_key_pem.write_to_path(key)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with start_process(sys.executable, "-m", "paceline.demo.server", "--tls", str(cert), str(key)) as running:
        url = (await running.wait_for_output(LISTENING_PATTERN))[1]
        assert url.startswith("https://")
        async with aiohttp.ClientSession() as session, session.get(url + "/x", ssl=trusting) as answer:
            assert answer.status == 200


async def test_latency_may_be_a_range(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=100, latency="50ms..250ms", seed="3")
    loop = asyncio.get_running_loop()

    async def get(session: aiohttp.ClientSession) -> float:
        began = loop.time()
        async with session.get(upstream.url + "/slow") as answer:
            await answer.read()
        return loop.time() - began

    async with aiohttp.ClientSession() as session:
        took = await asyncio.gather(*(get(session) for _ in range(20)))
    assert min(took) >= 0.048
    assert max(took) - min(took) > 0.08


async def test_every_limit_binds_and_tokens_are_counted_by_the_query(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=3, per="1m", also="4/1h,1000/1m/tokens")
    async with aiohttp.ClientSession() as session:

        async def status(tokens: int) -> int:
            async with session.get(f"{upstream.url}/x?tokens={tokens}") as answer:
                return answer.status

        assert [await status(tokens) for tokens in (900, 200, 100, 1, 0, 0)] == [200, 429, 200, 429, 200, 429]


async def test_control_changes_the_limit_and_keeps_what_was_counted(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=1, per="1m")
    async with aiohttp.ClientSession() as session:

        async def status() -> int:
            async with session.get(upstream.url + "/x") as answer:
                return answer.status

        assert [await status(), await status()] == [200, 429]
        async with session.post(upstream.url + "/control", json={"limit": 2}) as answer:
            assert answer.status == 200
        assert [await status(), await status()] == [200, 429]
    stats = await upstream.stats()
    assert (stats["limit"], stats["accepted"], stats["refused"]) == (2, 2, 2)
    assert len(stats["refusals"]) == 2


async def test_control_refuses_what_it_does_not_know(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=1)
    async with aiohttp.ClientSession() as session:
        for bad in (b"", b"[]", b'{"limit": 0}', b'{"speed": 1}', b'{"stall": "soon"}'):
            async with session.post(upstream.url + "/control", data=bad) as answer:
                assert answer.status == 400, bad
                assert (await answer.json())["error"], bad
        async with session.get(upstream.url + "/control") as answer:
            assert answer.status == 405


async def test_in_a_stall_nothing_is_counted_and_afterwards_all_at_once(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=100)
    async with aiohttp.ClientSession() as session:
        async with session.post(upstream.url + "/control", json={"stall": "500ms"}) as answer:
            assert answer.status == 200
        await asyncio.sleep(0.1)

        async def get() -> int:
            async with session.get(upstream.url + "/x") as answer:
                return answer.status

        assert await asyncio.gather(*(get() for _ in range(5))) == [200] * 5
    stats = await upstream.stats()
    assert stats["late_max_s"] >= 0.4
    assert stats["connections_made"] >= 5


async def test_each_answer_may_end_its_connection(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=1, close=True)
    made = (await upstream.stats())["connections_made"]
    async with aiohttp.ClientSession() as session:
        for expected in (200, 429):
            async with session.get(upstream.url + "/x") as answer:
                assert answer.status == expected
                assert answer.headers["connection"] == "close"
    assert (await upstream.stats())["connections_made"] == made + 3  # the last one asked for the stats


async def test_other_clients_take_their_share(demo_upstream: StartDemo) -> None:
    upstream = await demo_upstream(limit=1000, per="1s", share="0.3", seed="1")
    async with aiohttp.ClientSession() as session:
        for pause_s in (0.5, 0.0):
            async with session.get(upstream.url + "/x") as answer:
                assert answer.status == 200
            await asyncio.sleep(pause_s)
    stats = await upstream.stats()
    assert stats["accepted"] == 2
    assert stats["others_accepted"] >= 120


@pytest.mark.parametrize(
    "bad",
    [
        ["--limit", "0"],
        ["--per", "soon"],
        ["--per", "0s"],
        ["--latency", "2s..1s"],
        ["--also", "5/1s/tokens/more"],
        ["--also", "0/1s"],
        ["--share", "1.5"],
        ["--mode", "guess"],
    ],
)
def test_bad_options_are_refused_with_a_word(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(bad)
    assert ended.value.code == 2
    assert bad[0] in capsys.readouterr().err
