"""respx mocks the httpx engine under the whole runner: no sockets, no server, the usual way of writing such tests."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import httpx2
import pytest

from paceline.app import Service
from paceline.config import Config
from paceline.model import Batch, Item
from support.in_memory_upstream import outcome_codes, run_batch

_TAKEN_OVER = ("httpx", "httpcore", "respx")


@pytest.fixture
def respx() -> Iterator[ModuleType]:
    """respx over httpx2.

    It comes with a pytest plugin, so it has been imported over httpx long before: both are put aside for the test.
    """
    aside = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in _TAKEN_OVER}
    finders = list(sys.meta_path)
    for name in aside:
        del sys.modules[name]
    httpx2.alias_httpx()
    import respx

    yield respx
    for name in [name for name in sys.modules if name.partition(".")[0] in _TAKEN_OVER]:
        del sys.modules[name]
    sys.modules.update(aside)
    sys.meta_path[:] = finders


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    upstreams = {"api": {"base_url": "https://api.example/v1", "engine": "httpx", "retry": {"base": "1ms"}}}
    service = Service(Config.model_validate({"upstreams": upstreams}), [lambda _: None])
    yield service
    await service.close()


def api(path: str, **fields: Any) -> Item:
    return Item(upstream="api", path=path, **fields)


async def test_a_mocked_answer_becomes_an_outcome(respx: ModuleType, service: Service):
    with respx.mock:
        route = respx.post("https://api.example/v1/things").respond(201, json={"id": 7})
        (outcome,) = await run_batch(service, Batch([api("/things", method="POST", body="hello")]))
    assert (outcome.status, bytes(outcome.body)) == (201, b'{"id":7}')
    assert route.calls.last.request.content == b"hello"


async def test_a_mocked_failure_is_tried_again(respx: ModuleType, service: Service):
    with respx.mock:
        route = respx.get("https://api.example/v1/flaky")
        route.side_effect = [httpx2.ConnectError("refused"), httpx2.Response(503), httpx2.Response(200, text="ok")]
        (outcome,) = await run_batch(service, Batch([api("/flaky")]))
    assert (outcome.body, outcome.attempts, route.call_count) == ("ok", 3, 3)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx2.ConnectTimeout, "connect_failed"),
        (httpx2.ReadTimeout, "attempt_timeout"),
        (httpx2.RemoteProtocolError, "protocol_error"),
        (httpx2.ReadError, "protocol_error"),
    ],
)
async def test_a_mocked_error_has_its_code(respx: ModuleType, service: Service, error: type[Exception], code: str):
    with respx.mock:
        respx.get("https://api.example/v1/x").mock(side_effect=error)
        assert outcome_codes(await run_batch(service, Batch([api("/x")]))) == [code]


async def test_a_mocked_batch_has_an_outcome_for_each_item(respx: ModuleType, service: Service):
    with respx.mock:
        respx.get(path__regex=r"/v1/\d+").respond(200, text="fine")
        respx.get("https://api.example/v1/bad").respond(404)
        outcomes = await run_batch(service, Batch([*(api(f"/{number}") for number in range(9)), api("/bad")]))
    assert outcome_codes(outcomes) == ["success"] * 9 + ["http_status"]


def test_outside_the_fixture_httpx_is_itself():
    import httpx

    assert httpx is not httpx2
