"""A policy is a layer: it gets a request and the rest of the pipeline, and returns a response or raises."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from paceline.model import Request, Response, Send


class Layer(Protocol):
    async def __call__(self, request: Request, call_next: Send) -> Response: ...


def compose(layers: Sequence[Layer], send: Send) -> Send:
    """Fold layers round `send`; the first is outermost."""
    for layer in reversed(layers):
        send = partial(layer, call_next=send)
    return send
