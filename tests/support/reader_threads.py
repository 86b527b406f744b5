"""The threads that read the input of a run.

A cancelled read may still be ahead of one: a test that closes the descriptor waits for its thread, or else the next
file that is opened, which gets the same number, loses its first lines to it.
"""

from __future__ import annotations

import asyncio
import threading


async def wait_for_reader_threads() -> None:
    """Wait until each of these threads, which were asked to end, has ended."""
    for thread in threading.enumerate():
        if thread.name == "input":
            await asyncio.to_thread(thread.join)
