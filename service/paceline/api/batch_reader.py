"""The body of a batch, whatever its size: a large one is decoded and checked in slices, so that others need not wait.

Eight megabytes of short headers take a quarter of a second to decode; their outline (where each item begins and ends)
takes a few milliseconds, and the items are then decoded one by one.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import msgspec
from fastapi import Depends
from msgspec import UNSET, Raw
from starlette.requests import Request

from paceline.api.dependencies import ReservationDep, service_of, tenant_of
from paceline.api.errors import Invalid
from paceline.api.load_shedding import DECODED_BYTE_WEIGHT, Reservation
from paceline.api.request_body import LARGE_REQUEST_BYTES, read_body
from paceline.api.schemas.requests import BatchOutline, BatchWithRawItems, ItemOutline
from paceline.batch.batch_request import BatchOptions, BatchRequest, FetchRequest
from paceline.batch.input_errors import FieldError
from paceline.batch.json_decoding import check_utf8, decode_json, decode_part
from paceline.batch.validation import build_batch, build_fetch_batch, check_item, check_item_count
from paceline.config.server import ServerConfig
from paceline.model import Batch, Defaults, Item, Tenant
from paceline.units import format_size

_MAX_SINGLE_PASS_BYTES = 256 * 1024
"""Up to this size a batch without a large part is decoded in one call."""

_MAX_ENVELOPE_BYTES = 256 * 1024
"""Bytes that a batch may have in addition to its items, white space included."""

_MAX_HEAD_FIELD_BYTES = LARGE_REQUEST_BYTES
_HEAD_FIELDS = ("url", "path", "headers", "params", "cost")

_MAX_SLICE_S = 0.005
"""Seconds of decoding between two turns of the event loop."""

_batch_decoder = msgspec.json.Decoder(BatchRequest)
_fetch_decoder = msgspec.json.Decoder(FetchRequest)
_outline_decoder = msgspec.json.Decoder(BatchOutline)
_options_decoder = msgspec.json.Decoder(BatchWithRawItems)
_item_decoder = msgspec.json.Decoder(Item)
_defaults_decoder = msgspec.json.Decoder(Defaults)
_item_outline_decoder = msgspec.json.Decoder(ItemOutline)


async def read_batch(request: Request, reservation: ReservationDep) -> Batch:
    """Read, decode and check a batch; reserve room for its body and for its items.

    Raises:
        UnsupportedMediaType, TooLarge, Invalid, InputError: the body is refused, or is not a valid batch.
        OverShare, Unavailable: there is no room for it.
        ClientDisconnected: the caller disconnected while sending it.
    """
    limits = service_of(request).config.server
    body = await read_body(request, limits.max_body, reservation)
    batch = await _decode_batch(body, reservation, limits, tenant_of(request))
    reservation.reserve_items(len(batch.items))
    return batch


async def read_fetch(request: Request, reservation: Reservation) -> Batch:
    """Read a single request, as the batch of one that it is. Raises what `read_batch` does."""
    limits = service_of(request).config.server
    body = await read_body(request, limits.max_body, reservation)
    batch = build_fetch_batch(_decode_fetch(body, reservation), tenant_of(request), limits)
    reservation.reserve_items(1)
    return batch


BatchDep = Annotated[Batch, Depends(read_batch)]


async def _decode_batch(body: bytes, reservation: Reservation, limits: ServerConfig, tenant: Tenant) -> Batch:
    check_utf8(body)
    if len(body) > LARGE_REQUEST_BYTES:
        outline = decode_part(body, _outline_decoder)
        check_item_count(len(outline.requests), limits)
        if (
            len(body) > _MAX_SINGLE_PASS_BYTES
            or max(map(_count_bytes, (outline.defaults, *outline.requests))) > LARGE_REQUEST_BYTES
        ):
            return build_batch(await _decode_in_slices(body, outline, reservation), tenant, limits, items_checked=True)
    reservation.reserve_body(DECODED_BYTE_WEIGHT * len(body))
    return build_batch(decode_part(body, _batch_decoder), tenant, limits)


def _decode_fetch(body: bytes, reservation: Reservation) -> FetchRequest:
    if len(body) > LARGE_REQUEST_BYTES:
        check_utf8(body)
        _check_field_sizes(body, "")
        fetch = decode_part(body, _fetch_decoder)
        reservation.reserve_body(
            DECODED_BYTE_WEIGHT * len(body) - (DECODED_BYTE_WEIGHT - 1) * _count_payload_bytes(fetch)
        )
        return fetch
    reservation.reserve_body(DECODED_BYTE_WEIGHT * len(body))
    return decode_json(body, _fetch_decoder)


async def _decode_in_slices(body: bytes, outline: BatchOutline, reservation: Reservation) -> BatchRequest:
    if len(body) - sum(map(_count_bytes, outline.requests)) > _MAX_ENVELOPE_BYTES:
        raise Invalid(
            f"what stands beside the items is larger than {format_size(_MAX_ENVELOPE_BYTES)}; make it smaller"
        )
    await asyncio.sleep(0)
    options = decode_part(body, _options_decoder)
    defaults = _decode_defaults(outline.defaults)
    items: list[Item] = []
    payload_bytes = 0
    began_at = time.perf_counter()
    for index, raw in enumerate(outline.requests):
        item = _decode_item(raw, f"requests[{index}]")
        items.append(item)
        payload_bytes += _count_payload_bytes(item)
        if time.perf_counter() - began_at > _MAX_SLICE_S:
            await asyncio.sleep(0)
            began_at = time.perf_counter()
    reservation.reserve_body(DECODED_BYTE_WEIGHT * len(body) - (DECODED_BYTE_WEIGHT - 1) * payload_bytes)
    shared = {name: getattr(options, name) for name in BatchOptions.__struct_fields__}
    return BatchRequest(requests=items, defaults=defaults, **shared)


def _decode_defaults(raw: Raw) -> Defaults:
    if not _count_bytes(raw):
        return Defaults()
    _check_field_sizes(raw, "defaults")
    return decode_part(raw, _defaults_decoder, "defaults")


def _decode_item(raw: Raw, path: str) -> Item:
    if _count_bytes(raw) > LARGE_REQUEST_BYTES:
        _check_field_sizes(raw, path)
    item = decode_part(raw, _item_decoder, path)
    try:
        check_item(item)
    except FieldError as error:
        raise error.with_prefix(path) from None
    return item


def _check_field_sizes(raw: bytes | Raw, path: str) -> None:
    """Only a payload may be large: a head of this size takes long to read and to send, and no upstream takes it."""
    outline = decode_part(raw, _item_outline_decoder, path)
    for name in _HEAD_FIELDS:
        if _count_bytes(getattr(outline, name)) > _MAX_HEAD_FIELD_BYTES:
            field = f"{path}.{name}" if path else name
            raise Invalid(f"{field} is larger than {format_size(_MAX_HEAD_FIELD_BYTES)}; make it smaller", field=field)
    payload_bytes = _count_bytes(outline.json) + _count_bytes(outline.body) + _count_bytes(outline.body_base64)
    if _count_bytes(raw) - payload_bytes > _MAX_ENVELOPE_BYTES:
        limit = format_size(_MAX_ENVELOPE_BYTES)
        detail = f"{path or 'the item'} is larger than {limit} without its payload; make it smaller"
        raise Invalid(detail, field=path or UNSET)


def _count_payload_bytes(item: Item) -> int:
    size = _count_bytes(item.json)
    if item.body is not UNSET:
        size += len(item.body)
    if item.body_base64 is not UNSET:
        size += len(item.body_base64)
    return size


def _count_bytes(raw: bytes | Raw) -> int:
    return memoryview(raw).nbytes
