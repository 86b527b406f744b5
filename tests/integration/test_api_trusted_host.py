"""The Host check: which names the API answers to, on loopback and beyond it."""

from __future__ import annotations

import pytest

from support.in_process_api import start_api


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("LOCALHOST:1", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:80", 421),
        ("10.0.0.1", 421),
        ("", 421),
        ("localhost:80:80", 421),
    ],
)
async def test_on_loopback_only_its_names_are_answered(host: str, status: int):
    async with start_api({}) as api:
        for path in ("/v1/strategies", "/healthz"):
            answer = await api.request("GET", path, host=host)
            assert answer.status == status
            if status == 421:
                assert answer.body["code"] == "misdirected"


async def test_beyond_loopback_the_configured_names_are_answered():
    config = {"server": {"hosts": ["paceline.example", "10.1.2.3"]}}
    async with start_api(config, loopback=False) as api:
        statuses = [
            (await api.request("GET", "/v1/strategies", host=host)).status
            for host in ("paceline.example:8080", "Paceline.Example", "10.1.2.3", "localhost", "evil.example")
        ]
    assert statuses == [200, 200, 200, 421, 421]


async def test_beyond_loopback_any_name_is_answered_where_none_are_configured():
    async with start_api({}, loopback=False) as api:
        assert (await api.request("GET", "/v1/strategies", host="any.example")).status == 200
