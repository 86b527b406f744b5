"""A batch's body, whatever its size: a large one is read and checked in slices, so that nobody else has to wait for it.

Eight megabytes of short headers take a quarter of a second to read; the outline of it (where each item begins and ends)
takes a few milliseconds, and the items are then read one by one.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
from msgspec import UNSET, Raw
from starlette.requests import Request

from paceline.api.body import LARGE, check_text, decode, decode_part, read
from paceline.api.checks import batch_of, check_count, check_item
from paceline.api.core import tenant_of
from paceline.api.errors import Invalid
from paceline.api.fields import Wrong
from paceline.api.intake import HEAVIEST, Place
from paceline.api.schemas import BatchBody, FetchBody, Parts, Unread, UnreadBatch
from paceline.config.server import Server
from paceline.model import Batch, Defaults, Item
from paceline.units import write_size

_AT_ONCE = 256 * 1024
"""A batch of no more than this, and without a large part, is read in one go."""

_BESIDE = 256 * 1024
"""What may stand beside the items of a batch, white space included."""

_HEAD_PART = LARGE
_HEAD = ("url", "path", "headers", "params", "cost")

_SLICE_S = 0.005
"""How long reading goes on before the event loop gets a turn."""

_batch = msgspec.json.Decoder(BatchBody)
_fetch = msgspec.json.Decoder(FetchBody)
_unread = msgspec.json.Decoder(Unread)
_frame = msgspec.json.Decoder(UnreadBatch)
_item = msgspec.json.Decoder(Item)
_defaults = msgspec.json.Decoder(Defaults)
_parts = msgspec.json.Decoder(Parts)


async def read_batch(request: Request, place: Place, limits: Server) -> Batch:
    """The batch a caller sends, checked as a whole; `place` holds what it weighs.

    Raises:
        UnsupportedType, TooLarge, BadRequest, Invalid: it cannot be used, and why.
        OverShare, Unavailable: there is no room for it.
        CallerGone: the caller hung up while sending it.
    """
    body = await read(request, limits.max_body, place)
    tenant = tenant_of(request.scope)
    check_text(body)
    if len(body) > LARGE:
        unread = decode_part(body, _unread)
        check_count(len(unread.requests), limits)
        if len(body) > _AT_ONCE or max(map(_size, (unread.defaults, *unread.requests))) > LARGE:
            return batch_of(await _in_slices(body, unread, place), tenant, limits, looked_at=True)
    place.hold_body(HEAVIEST * len(body))
    return batch_of(decode_part(body, _batch), tenant, limits)


async def read_fetch(request: Request, place: Place, limits: Server) -> FetchBody:
    """The one item a caller sends; `place` holds what it weighs. Raises what `read_batch` does."""
    body = await read(request, limits.max_body, place)
    if len(body) > LARGE:
        check_text(body)
        _check_parts(body, "")
        fetch = decode_part(body, _fetch)
        place.hold_body(HEAVIEST * len(body) - (HEAVIEST - 1) * _payload(fetch))
        return fetch
    place.hold_body(HEAVIEST * len(body))
    return decode(body, _fetch)


async def _in_slices(body: bytes, unread: Unread, place: Place) -> BatchBody:
    if len(body) - sum(map(_size, unread.requests)) > _BESIDE:
        raise Invalid(f"what stands beside the items is larger than {write_size(_BESIDE)}; make it smaller")
    await asyncio.sleep(0)
    frame = decode_part(body, _frame)
    defaults = _read_defaults(unread.defaults)
    items: list[Item] = []
    payload = 0
    began_at = time.perf_counter()
    for index, raw in enumerate(unread.requests):
        item = _read_item(raw, f"requests[{index}]")
        items.append(item)
        payload += _payload(item)
        if time.perf_counter() - began_at > _SLICE_S:
            await asyncio.sleep(0)
            began_at = time.perf_counter()
    place.hold_body(HEAVIEST * len(body) - (HEAVIEST - 1) * payload)
    return BatchBody(
        requests=items,
        strategy=frame.strategy,
        max_concurrency=frame.max_concurrency,
        rate=frame.rate,
        deadline=frame.deadline,
        priority=frame.priority,
        on_failure=frame.on_failure,
        retry=frame.retry,
        defaults=defaults,
    )


def _read_defaults(raw: Raw) -> Defaults:
    if not _size(raw):
        return Defaults()
    _check_parts(raw, "defaults")
    return decode_part(raw, _defaults, "defaults")


def _read_item(raw: Raw, within: str) -> Item:
    if _size(raw) > LARGE:
        _check_parts(raw, within)
    item = decode_part(raw, _item, within)
    try:
        check_item(item)
    except Wrong as wrong:
        raise wrong.within(within).told() from None
    return item


def _check_parts(raw: bytes | Raw, within: str) -> None:
    """Only a payload may be large: a head of this size takes long to read and to send, and no upstream takes it."""
    parts = decode_part(raw, _parts, within)
    for name in _HEAD:
        if _size(getattr(parts, name)) > _HEAD_PART:
            field = f"{within}.{name}" if within else name
            raise Invalid(f"{field} is larger than {write_size(_HEAD_PART)}; make it smaller", field=field)
    payload = _size(parts.json) + _size(parts.body) + _size(parts.body_base64)
    if _size(raw) - payload > _BESIDE:
        detail = f"{within or 'the item'} is larger than {write_size(_BESIDE)} without its payload; make it smaller"
        raise Invalid(detail, field=within or UNSET)


def _payload(item: Item) -> int:
    size = _size(item.json)
    if item.body is not UNSET:
        size += len(item.body)
    if item.body_base64 is not UNSET:
        size += len(item.body_base64)
    return size


def _size(raw: bytes | Raw) -> int:
    return memoryview(raw).nbytes
