from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paceline.cli.io.id_set import IdSet
from paceline.cli.io.ndjson_reader import MAX_LINE_BYTES, InputLine, InvalidLine, NdjsonReader
from paceline.cli.usage_error import UsageError


@contextmanager
def reading(tmp_path: Path, content: bytes, done: IdSet | None = None) -> Iterator[NdjsonReader]:
    file = tmp_path / "in.ndjson"
    file.write_bytes(content)
    fd = os.open(file, os.O_RDONLY)
    source = NdjsonReader(fd, done)
    try:
        yield source
    finally:
        source.close()
        os.close(fd)


async def everything(source: NdjsonReader, at_once: int = 7) -> list[InputLine | InvalidLine]:
    entries: list[InputLine | InvalidLine] = []
    while taken := await source.read_lines(at_once):
        assert len(taken) <= at_once
        entries += taken
    return entries


async def test_blank_lines_are_skipped_and_do_not_count(tmp_path: Path) -> None:
    with reading(tmp_path, b'\n{"url":"http://a/"}\r\n  \t\n{"url":"http://b/","id":"x"}') as source:
        entries = await everything(source)
    assert [(entry.index, entry.id) for entry in entries] == [(0, "0"), (1, "x")]
    assert all(isinstance(entry, InputLine) for entry in entries)


async def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    with reading(tmp_path, b'\xef\xbb\xbf{"url":"http://a/"}\n') as source:
        assert [type(entry) for entry in await everything(source)] == [InputLine]


@pytest.mark.parametrize(
    ("line", "name", "said"),
    [
        (b"{bad", "line-2", "not JSON"),
        (b'"text"', "line-2", "must be an object"),
        (b'{"id":"z","urll":"x"}', "z", "urll"),
        (b'{"id":7,"url":"x"}', "line-2", "id"),
        (b'{"id":"z","url":"http://a/","timeout":"-1s"}', "z", "timeout"),
        (b'{"id":"z","url":"http://a/","json":1,"body":"x"}', "z", "keep one"),
        (b'{"id":"z","url":"http://a/","depends_on":["first"]}', "z", "POST /v1/batch"),
        (b'{"id":"z","url":"http://a/","dependsOn":["first"]}', "z", "POST /v1/batch"),
        (b'{"id":"first","url":"http://a/"}', "first", "earlier line"),
        (b'{"id":"z","urll":"x",', "line-2", "urll"),
        (b'{"urll":' + b"[" * 100_000, "line-2", "urll"),
        (b'{"url":"\xff"}', "line-2", "not UTF-8"),
        (b'{"url":"http://a/","json":"\xff"}', "line-2", "not UTF-8"),
        (b'{"json":' + b"[" * 100_000, "line-2", "nested too deeply"),
        (b'{"body":"' + b"x" * MAX_LINE_BYTES + b'"}', "line-2", "larger than 8MiB"),
    ],
    ids=lambda value: str(value[:20]),
)
async def test_a_line_that_is_no_item_says_why_and_stops_nothing(
    tmp_path: Path, line: bytes, name: str, said: str
) -> None:
    content = b'{"id":"first","url":"http://a/"}\n' + line + b'\n{"id":"last","url":"http://a/"}\n'
    with reading(tmp_path, content) as source:
        first, bad, last = await everything(source)
    assert isinstance(first, InputLine)
    assert isinstance(last, InputLine)
    assert isinstance(bad, InvalidLine)
    assert (bad.index, bad.id) == (1, name)
    assert bad.message.startswith("line 2: ")
    assert said in bad.message


async def test_lines_that_span_many_reads_are_whole(tmp_path: Path) -> None:
    bodies = ["x" * size for size in (1, 65_520, 65_536, 200_000, 3)]
    content = "".join(f'{{"url":"http://a/","body":"{body}"}}\n' for body in bodies).encode()
    with reading(tmp_path, content) as source:
        entries = await everything(source)
    assert [entry.item.body for entry in entries if isinstance(entry, InputLine)] == bodies


async def test_a_slow_writer_gets_its_lines_read_as_they_come() -> None:
    read_end, write_end = os.pipe()
    source = NdjsonReader(read_end)
    try:
        os.write(write_end, b'{"url":"http://a/"}\n{"url":')
        [first] = await source.read_lines(10)
        waiting = asyncio.create_task(source.read_lines(10))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        os.write(write_end, b'"http://b/"}\n')
        [second] = await waiting
        assert (first.index, second.index) == (0, 1)
    finally:
        os.close(write_end)
        assert await source.read_lines(1) == []
        source.close()
        os.close(read_end)


async def test_ids_that_are_done_are_skipped_and_keep_their_index(tmp_path: Path) -> None:
    done = IdSet()
    done.add("a")
    with reading(tmp_path, b'{"id":"a","url":"http://a/"}\n{"id":"b","url":"http://a/"}\n', done) as source:
        entries = await everything(source)
        assert [(entry.index, entry.id) for entry in entries] == [(1, "b")]
        assert source.lines_skipped == 1


async def test_a_line_without_an_id_cannot_be_resumed(tmp_path: Path) -> None:
    with (
        reading(tmp_path, b'{"id":"a","url":"http://a/"}\n{"url":"http://a/"}\n', IdSet()) as source,
        pytest.raises(UsageError, match=r"line 2 .* no id"),
    ):
        await everything(source)
