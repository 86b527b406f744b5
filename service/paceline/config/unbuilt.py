"""Settings that are part of the plan but have nothing behind them yet: refused by name, never accepted and ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from paceline.config.key_path import KeyPath


def remove_unbuilt(document: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Remove each of them from the document and name it with what is wrong, so that it is told once and only so."""
    if "store" in document:
        del document["store"]
        yield ("store",), "is not built yet"
