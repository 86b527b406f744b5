"""Large bodies go on a few at a time, and only so many wait."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from paceline.batch.cpu_slicing import BodyWorkQueue

KIB = 1024


async def test_bodies_that_arrive_together_are_spread_over_turns_of_the_loop():
    turns = BodyWorkQueue()
    went: list[int] = []

    async def look(number: int) -> None:
        await turns.wait_turn(200 * KIB)
        went.append(number)

    tasks = [asyncio.create_task(look(number)) for number in range(9)]
    seen = []
    while len(went) < 9:
        await asyncio.sleep(0)
        seen.append(len(went))
    assert went == list(range(9))
    assert max(after - before for before, after in pairwise(seen)) == 3
    await asyncio.gather(*tasks)


async def test_past_what_may_wait_a_body_goes_on_at_once():
    turns = BodyWorkQueue()
    waiting = [asyncio.create_task(turns.wait_turn(4096 * KIB)) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(StopIteration):
        turns.wait_turn(1).send(None)  # it ends without having waited
    assert not any(task.done() for task in waiting)
    await asyncio.gather(*waiting)


async def test_one_that_is_cancelled_makes_room_and_keeps_nobody_waiting():
    turns = BodyWorkQueue()
    first, second = (asyncio.create_task(turns.wait_turn(9000 * KIB)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait_for(second, 5)
    again = asyncio.create_task(turns.wait_turn(9000 * KIB))
    await asyncio.sleep(0)
    assert not again.done()  # the room is free again, so it waits for its turn
    await again
