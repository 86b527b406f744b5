"""What several of these tests need and what takes long to make."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from support.containers import Image, built_image


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def image() -> AsyncIterator[Image]:
    """The image of deploy/Dockerfile, built once."""
    async with built_image() as built:
        yield built
