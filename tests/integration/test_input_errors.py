"""The same mistake has the same words in a body, on a line of `paceline run` and behind a flag."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from paceline.api.routes.strategies import STRATEGIES
from paceline.cli.flag_parsing import batch_from_flags
from paceline.cli.io.ndjson_reader import NdjsonReader
from paceline.cli.io.output_file import open_output
from paceline.cli.io.output_writer import OutputWriter
from paceline.cli.local_backend import LocalBackend
from paceline.cli.usage_error import UsageError
from paceline.config import Config
from paceline.model import Strategy
from support.in_process_api import start_api

MISTAKEN_ITEMS: dict[str, bytes] = {
    "unknown field, near another": b'{"urll":"http://a/"}',
    "unknown field, far from all": b'{"url":"http://a/","surprise":1}',
    "unknown field of retry": b'{"url":"http://a/","retry":{"tries":1}}',
    "text for a list": b'{"url":"http://a/","depends_on":"b"}',
    "number for text": b'{"id":7,"url":"http://a/"}',
    "number in a map": b'{"url":"http://a/","headers":{"a":"b","c":1}}',
    "null in a list in a map": b'{"url":"http://a/","params":{"c":["b",null]}}',
    "text for a boolean": b'{"url":"http://a/","idempotent":"yes"}',
    "a word of no enumeration": b'{"url":"http://a/","expect":"xml"}',
    "fraction for a whole number": b'{"url":"http://a/","retry":{"attempts":1.5}}',
    "no object": b'"http://a/"',
    "negative timeout": b'{"url":"http://a/","timeout":-1}',
    "zero timeout": b'{"url":"http://a/","timeout":"0s"}',
    "timeout without a unit": b'{"url":"http://a/","timeout":"5"}',
    "timeout of no duration": b'{"url":"http://a/","timeout":"soon"}',
    "timeout of the wrong type": b'{"url":"http://a/","timeout":true}',
    "two bodies": b'{"url":"http://a/","json":{},"body":"x"}',
    "two bodies, one of them null": b'{"url":"http://a/","json":null,"body_base64":"eA=="}',
    "cost of nothing": b'{"url":"http://a/","cost":0}',
    "cost of a strange unit": b'{"url":"http://a/","cost":{"A b":1}}',
    "cost of a negative amount": b'{"url":"http://a/","cost":{"tokens":-1}}',
    "no attempt": b'{"url":"http://a/","retry":{"attempts":0}}',
    "fewer than no throttles": b'{"url":"http://a/","retry":{"throttles":-1}}',
    "dependencies in both spellings": b'{"url":"http://a/","depends_on":["b"],"dependsOn":["b"]}',
    "a large number": b'{"url":"http://a/","cost":1e400}',
    "unknown field before more mistakes": b'{"urll":1, bad',
    "JSON that ends early": b'{"url":"http://a/"',
    "no JSON": b"{url}",
    "text after the JSON": b'{"url":"http://a/"} {}',
    "not UTF-8": b'{"url":"http://a/\xff"}',
    "not UTF-8, in a payload": b'{"url":"http://a/","json":"\xff"}',
    "too deep": b'{"url":"http://a/","json":' + b"[" * 5000 + b"]" * 5000 + b"}",
}
"""By what is wrong with it: an item as a body of `POST /v1/fetch`, in a batch, and on a line."""


def is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


async def words_over_http() -> tuple[dict[str, str], dict[str, str]]:
    """What a fetch and a batch say of each mistake, the batch only where the item does not break the body around it."""
    fetched: dict[str, str] = {}
    batched: dict[str, str] = {}
    async with start_api({}) as api:
        for mistake, item in MISTAKEN_ITEMS.items():
            answer = await api.request("POST", "/v1/fetch", item)
            assert answer.status in (400, 422), mistake
            fetched[mistake] = answer.body["detail"]
            if is_json(item):
                answer = await api.request("POST", "/v1/batch", b'{"requests":[%b]}' % item)
                assert answer.status == 422, mistake
                batched[mistake] = answer.body["detail"]
    return fetched, batched


async def words_of_run(folder: Path, *lines: bytes) -> list[str]:
    """What a run of `paceline run` says of each line that it rejects."""
    (folder / "in.ndjson").write_bytes(b"\n".join(lines))
    fd = os.open(folder / "in.ndjson", os.O_RDONLY)
    reader = NdjsonReader(fd)
    output, _ = open_output(str(folder / "out.ndjson"), resume=False)
    writer = OutputWriter(output, 100)
    backend = LocalBackend(Config.model_validate({}), batch_from_flags(attempts=1))
    writing = asyncio.create_task(writer.write_until_finished())
    try:
        await backend.run(reader, writer)
        writer.finish()
        await writing
    finally:
        await backend.close()
        output.close()
        reader.close()
        os.close(fd)
    outcomes = [json.loads(line) for line in (folder / "out.ndjson").read_bytes().splitlines()]
    outcomes.sort(key=lambda outcome: outcome["index"])
    assert [outcome["index"] for outcome in outcomes] == list(range(len(lines)))
    messages: list[str] = []
    for number, outcome in enumerate(outcomes, 1):
        if outcome["error"]["code"] == "invalid_request":
            assert outcome["outcome"] == "rejected"
            assert outcome["error"]["message"].startswith(f"line {number}: ")
            messages.append(outcome["error"]["message"].removeprefix(f"line {number}: "))
    return messages


async def test_a_mistake_in_an_item_has_the_same_words_over_http_and_in_run(tmp_path: Path):
    fetched, batched = await words_over_http()
    messages = await words_of_run(tmp_path, *MISTAKEN_ITEMS.values())
    of_run = dict(zip(MISTAKEN_ITEMS, messages, strict=True))
    # The whole that was read is a body there and a line here; a fetch has two fields more to name.
    assert of_run == {
        mistake: re.sub("^the body ", "the line ", words).removesuffix(", deadline, priority")
        for mistake, words in fetched.items()
    }
    assert batched == {
        mistake: re.sub("^the line ", "requests[0] ", words)
        if words.startswith("the line ")
        else f"requests[0].{words}"
        for mistake, words in of_run.items()
        if mistake in batched
    }


async def test_an_id_given_twice_has_the_same_words_over_http_and_in_run(tmp_path: Path):
    item = b'{"id":"a","url":"http://127.0.0.1/"}'
    async with start_api({}) as api:
        answer = await api.request("POST", "/v1/batch", b'{"requests":[%b,%b]}' % (item, item))
    [words] = await words_of_run(tmp_path, item, item)
    assert f"requests[1].{words}".replace("an earlier line", "requests[0]") == answer.body["detail"]


MISTAKEN_FLAGS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"max_concurrency": 0}, {"max_concurrency": 0}, "--max-concurrency: "),
    ({"max_concurrency": 2_000_000_000}, {"max_concurrency": 2_000_000_000}, "--max-concurrency: "),
    ({"strategy": Strategy.CONCURRENT, "max_concurrency": 3}, {"max_concurrency": 3}, "--max-concurrency: "),
    ({"strategy": Strategy.SEQUENTIAL, "max_concurrency": 3}, {"max_concurrency": 3}, "--max-concurrency: "),
    ({"strategy": Strategy.BOUNDED, "rate": "5/1s"}, {"rate": {"limit": 5, "per": "1s"}}, "--rate: "),
    ({"rate": "0/1s"}, {"rate": {"limit": 0, "per": "1s"}}, "--rate: limit "),
    ({"rate": "5000000000/1s"}, {"rate": {"limit": 5_000_000_000, "per": "1s"}}, "--rate: limit "),
    ({"rate": "5/0s"}, {"rate": {"limit": 5, "per": "0s"}}, "--rate: per "),
    ({"rate": "5/1y"}, {"rate": {"limit": 5, "per": "1y"}}, "--rate: per "),
    ({"rate": "5/0.5ms"}, {"rate": {"limit": 5, "per": "0.5ms"}}, "--rate: per "),
    ({"rate": "5/1s", "burst": 6.0}, {"rate": {"limit": 5, "per": "1s", "burst": 6}}, "--burst: "),
    ({"deadline": "0s"}, {"deadline": "0s"}, "--deadline: "),
    ({"deadline": "-1"}, {"deadline": -1}, "--deadline: "),
    ({"deadline": "soon"}, {"deadline": "soon"}, "--deadline: "),
    ({"deadline": "400d"}, {"deadline": "400d"}, "--deadline: "),
    ({"attempts": 0}, {"retry": {"attempts": 0}}, "--attempts: "),
]
"""Flags, the fields they stand for, and what the command says in the place of the field's name."""


async def test_a_mistake_in_a_flag_has_the_words_of_its_field():
    async with start_api({}) as api:
        for flags, fields, flag in MISTAKEN_FLAGS:
            body = {"requests": [{"url": "http://a/"}], "strategy": flags.get("strategy", "adaptive"), **fields}
            answer = await api.request("POST", "/v1/batch", body)
            assert answer.status == 422, fields
            with pytest.raises(UsageError) as refused:
                batch_from_flags(**flags)
            assert refused.value.message == flag + answer.body["detail"].removeprefix(answer.body["field"] + " ")


async def test_a_rate_that_is_missing_has_the_same_words_but_for_its_notation():
    async with start_api({}) as api:
        body = {"requests": [{"url": "http://a/"}], "strategy": "token_bucket"}
        answer = await api.request("POST", "/v1/batch", body)
    with pytest.raises(UsageError) as refused:
        batch_from_flags(strategy=Strategy.TOKEN_BUCKET)
    words = answer.body["detail"].replace('{"limit": 50, "per": "1s"}', "--rate 50/1s")
    assert refused.value.message == words.replace("rate is", "--rate: is", 1)


def test_the_strategies_that_take_a_cap_or_a_rate_are_those_described():
    for described in STRATEGIES.strategies:
        parameters = {parameter.name for parameter in described.parameters}
        assert described.name.takes_max_concurrency == ("max_concurrency" in parameters)
        assert described.name.takes_rate == ("rate" in parameters)
