"""Whatever a caller sends, it is taken or refused in words, and a refusal names a field that the body has."""

from __future__ import annotations

import asyncio
import json
import re
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace
from starlette.requests import Request
from starlette.types import Message

from paceline.api import batch_reader
from paceline.api.batch_reader import read_batch, read_fetch
from paceline.api.errors import ApiError, BadRequest, Invalid, TooLarge, to_api_error
from paceline.api.load_shedding import LoadShedder
from paceline.batch.input_errors import InputError
from paceline.config import Config
from paceline.config.server import ServerConfig
from paceline.model import Batch, Tenant
from support.hypothesis_profiles import examples

LIMITS = ServerConfig(max_items=20)

words = st.text(max_size=6)
numbers = st.one_of(st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([0, -1, 0.5, 1e308]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=12,
)
durations = st.sampled_from(["1s", "0s", "250ms", "1 s", "-1s", "9" * 30 + "s", "1e3s", "", "٣s", 30, 0, -1, 0.001])


def either(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What belongs there, three times in four; else anything at all."""
    return st.one_of(usual, usual, usual, anything)


values = either(st.dictionaries(words, st.one_of(words, st.lists(words, max_size=3)), max_size=3))
costs = either(st.one_of(numbers, st.dictionaries(st.sampled_from(["requests", "tokens", "A b", ""]), numbers)))
retries = either(st.fixed_dictionaries({}, optional={"attempts": either(numbers), "throttles": either(numbers)}))
rates = either(
    st.fixed_dictionaries(
        {"limit": either(numbers), "per": either(durations)},
        optional={"burst": either(numbers), "unit": either(words)},
    )
)
classes = st.sampled_from(["interactive", "normal", "bulk", "Normal", ""])
ids = st.sampled_from(["a", "b", "0", "1", "nobody"])
items = either(
    st.fixed_dictionaries(
        {},
        optional={
            "id": either(ids),
            "method": either(words),
            "url": either(st.just("https://api.example.com/")),
            "upstream": either(words),
            "path": either(words),
            "headers": values,
            "params": values,
            "json": anything,
            "body": either(words),
            "body_base64": either(words),
            "depends_on": either(st.lists(ids, max_size=3)),
            "dependsOn": either(st.lists(ids, max_size=3)),
            "idempotent": either(st.booleans()),
            "cost": costs,
            "timeout": either(durations),
            "retry": retries,
            "expect": either(st.sampled_from(["auto", "text", "none"])),
            "surprise": anything,
        },
    )
)
common = {
    "strategy": either(st.sampled_from(["adaptive", "sequential", "bounded", "token_bucket"])),
    "max_concurrency": either(numbers),
    "rate": rates,
    "deadline": either(durations),
    "priority": either(classes),
    "on_failure": either(st.sampled_from(["continue", "halt"])),
    "retry": retries,
    "defaults": either(
        st.fixed_dictionaries({}, optional={"headers": values, "timeout": either(durations), "cost": costs})
    ),
}
batches = either(
    st.fixed_dictionaries(
        {"requests": either(st.lists(items, max_size=4))}, optional={**common, "surprise": anything, "a.b": anything}
    )
)
fetches = either(
    st.builds(
        lambda item, own: {**item, **own} if isinstance(item, dict) else item,
        items,
        st.fixed_dictionaries({}, optional={"deadline": either(durations), "priority": either(classes)}),
    )
)


def request_of(body: bytes, *, chunk: int) -> Request:
    """The request that brings this body, in chunks, its length untold."""
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]

    async def receive() -> Message:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    app = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(config=Config(server=LIMITS))))
    scope = {"type": "http", "headers": [(b"content-type", b"application/json")], "app": app}
    return Request(scope, receive)


def taken(take: Any, body: bytes) -> Batch | ApiError:
    """The batch a body makes, or the refusal; anything else that is raised would be a 500."""
    intake = LoadShedder()
    intake.start_accepting()

    async def reads() -> Batch:
        with intake.reserve(Tenant(), LIMITS) as place:
            batch: Batch = await take(request_of(body, chunk=4096), place)
            return batch

    try:
        return asyncio.run(reads())
    except ApiError as error:
        return error
    except InputError as error:
        return to_api_error(error)
    finally:
        assert intake.usage.body_bytes == 0


def names_what_is_there(error: Invalid, body: Any) -> bool:
    """The field leads to a value in the body; of one that is missing, all but its last step does."""
    field = error.field
    if not isinstance(field, str):
        return True
    if error.detail.startswith(f"{field} is required"):
        field = field.rpartition(".")[0]
    return leads_somewhere(field.removesuffix("..."), body)


def leads_somewhere(field: str, value: Any) -> bool:
    """Names may have dots and brackets of their own, so each way to read the path counts."""
    if not field:
        return True
    if isinstance(value, list):
        step = re.match(r"\[([0-9]+)\]\.?", field)
        return (
            step is not None and int(step[1]) < len(value) and leads_somewhere(field[step.end() :], value[int(step[1])])
        )
    if isinstance(value, dict):
        for name, inner in value.items():
            rest = field[len(name) :]
            if (
                field.startswith(name)
                and (rest[:1] in ("", ".", "["))
                and leads_somewhere(rest.removeprefix("."), inner)
            ):
                return True
    return False


def read(take: Any, body: Any, *, in_slices: bool) -> Batch | ApiError:
    """What becomes of a body, which is read part by part as a large one would be, or at once."""
    with pytest.MonkeyPatch.context() as patch:
        if in_slices:
            patch.setattr(batch_reader, "LARGE_REQUEST_BYTES", 1)
            patch.setattr(batch_reader, "_MAX_SINGLE_PASS_BYTES", 1)
        return taken(take, json.dumps(body).encode())


def judged(answer: Batch | ApiError, body: Any) -> None:
    if isinstance(answer, Invalid):
        assert names_what_is_there(answer, body), (answer.field, answer.detail)
        assert len(answer.detail) < 1000
    else:
        # Python writes NaN and infinities, which are no JSON.
        assert isinstance(answer, Batch | BadRequest | TooLarge), answer


def plain(answer: Batch | ApiError) -> Any:
    if isinstance(answer, ApiError):
        return "refused"  # of several mistakes either may be told
    return msgspec.json.encode(replace(answer, items=[replace(item, json=bytes(item.json)) for item in answer.items]))


@examples(100)
@given(body=batches)
def test_a_batch_is_taken_or_its_refusal_names_a_field_it_has(body: Any):
    at_once, in_slices = (read(read_batch, body, in_slices=each) for each in (False, True))
    judged(at_once, body)
    judged(in_slices, body)
    assert plain(at_once) == plain(in_slices)


@examples(60)
@given(body=fetches)
def test_a_fetch_is_taken_or_its_refusal_names_a_field_it_has(body: Any):
    at_once, in_slices = (read(read_fetch, body, in_slices=each) for each in (False, True))
    judged(at_once, body)
    judged(in_slices, body)
    assert plain(at_once) == plain(in_slices)


@examples(60)
@given(body=st.one_of(st.binary(max_size=60), batches.map(lambda body: json.dumps(body).encode()[:-1])))
def test_bytes_that_are_no_json_are_refused_as_that(body: bytes):
    assert isinstance(taken(read_batch, body), BadRequest | Invalid)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"requests": [{"url": "x", "headers": {"a": "x" * 40_000}}]}, "requests[0].headers"),
        ({"requests": [{"url": "x"}], "defaults": {"params": {"a": "x" * 40_000}}}, "defaults.params"),
        ({"requests": [{"url": "x", "depends_on": ["x" * 300_000]}]}, "requests[0]"),
        ({"requests": [{"url": "x"}], "strategy": "x" * 300_000}, UNSET),
        ({"requests": [{"url": "x" * 40_000}]}, "requests[0].url"),
        ({"requests": [{"url": "x", "method": "x" * 40_000, "timeout": "x"}]}, "requests[0].timeout"),
        ({"requests": [{}, {"id": "a", "depends_on": ["0"] * 201}]}, "requests[1].depends_on"),
        ({"requests": [{}, {"id": "a", "dependsOn": ["0"] * 201}]}, "requests[1].dependsOn"),
    ],
)
def test_only_a_payload_may_be_large(body: Any, field: str):
    answer = read(read_batch, body, in_slices=False)
    assert isinstance(answer, Invalid)
    assert answer.field == field
    assert len(answer.detail) < 300


def test_a_head_given_twice_is_large_as_well():
    text = b'{"requests":[{"url":"x","headers":{%b},"headers":{}}]}' % b",".join(
        b'"a%d":"1"' % n for n in range(40_000)
    )
    answer = taken(read_batch, text)
    assert isinstance(answer, Invalid)
    assert answer.field == "requests[0]"


def test_a_payload_may_be_large():
    for payload in ({"json": ["x"] * 100_000}, {"body": "x" * 400_000}, {"body_base64": "eHh4" * 100_000}):
        assert isinstance(read(read_batch, {"requests": [{"url": "x", **payload}]}, in_slices=False), Batch)
        assert isinstance(read(read_fetch, {"url": "x", **payload}, in_slices=False), Batch)
