"""`GET /v1/strategies`: each strategy, its layers and its parameters."""

from __future__ import annotations

from paceline.model import Strategy
from support.in_process_api import start_api


async def test_every_strategy_is_described():
    async with start_api({}) as api:
        listed = (await api.request("GET", "/v1/strategies")).body["strategies"]
    assert {each["name"] for each in listed} == set(Strategy)
    assert [each["name"] for each in listed if each["default"]] == ["adaptive"]
    layers = {each["name"]: each["layers"] for each in listed}
    assert layers["token_bucket"] == [
        "deadline",
        "retry",
        "semaphore",
        "token bucket",
        "admission",
        "attempt timeout",
        "send",
    ]
    required = {each["name"]: [p["name"] for p in each["parameters"] if p["required"]] for each in listed}
    assert required["token_bucket"] == ["rate"]
