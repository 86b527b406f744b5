"""Settings that are planned but not built yet: rejected by name, never accepted and ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paceline.config.key_path import KeyPath


def remove_unbuilt(document: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Remove each of them from the document and yield its path and problem, so that it is reported once."""
    if "store" in document:
        del document["store"]
        yield ("store",), "is not built yet"
