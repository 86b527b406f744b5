"""Load shedding: how many items and bytes of bodies and responses the service holds, and who may add to them.

It is full when it holds as many items as `server.max_in_flight_items`, or the bodies or the answers of as many whole
batches as that makes. A caller is over its share when the service is more than half full and the caller, who holds
something already, would hold more than its weight's part of the whole. Everything here is synchronous: no await
between a check and what it allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

from msgspec import Struct

from paceline.api.errors import OverShare, TooLarge, Unavailable
from paceline.api.problem_code import ProblemCode
from paceline.config.server import ServerConfig
from paceline.model import Tenant

DECODED_BYTE_WEIGHT = 4
"""Times that a byte of a body counts unless it is payload: decoded, it takes that much more memory."""

_DRAINING_HEADERS = {"retry-after": "5"}
_OVERLOADED_HEADERS = {"retry-after": "1"}


class Capacity(Struct, frozen=True):
    """The maximum that the service holds at one time."""

    items: int
    body_bytes: int
    response_bytes: int
    total_weight: float
    """Sum of the weights of all API keys; 0 without any, when all callers are one tenant."""


def compute_capacity(limits: ServerConfig) -> Capacity:
    """Items as configured, and the bytes of as many whole batches as they make; one batch always fits."""
    batches = max(1, -(-limits.max_in_flight_items // limits.max_items))
    return Capacity(
        limits.max_in_flight_items,
        max(batches, DECODED_BYTE_WEIGHT) * limits.max_body,
        batches * limits.max_batch_response,
        sum(key.weight for key in limits.api_keys),
    )


class Usage(Struct):
    """What is held, for one tenant or for all."""

    items: int = 0
    body_bytes: int = 0
    response_bytes: int = 0


class LoadShedder:
    """Counts what is in the service, from the acceptance of a request until its response is delivered."""

    def __init__(self) -> None:
        self.is_accepting = self.is_ready = False
        self.usage = Usage()
        self._usage_by_tenant: dict[str, Usage] = {}
        self._limits: ServerConfig | None = None
        self._capacity = Capacity(0, 0, 0, 0)
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_response_memory_full = False
        """The responses that wait to be read fill their share of memory."""
        self.response_memory_listeners: dict[Reservation, Callable[[], None]] = {}
        """Called when `is_response_memory_full` changes."""

    @property
    def items(self) -> int:
        return self.usage.items

    def start_accepting(self) -> None:
        """Become ready and accept requests."""
        self.is_accepting = self.is_ready = True

    def mark_unready(self) -> None:
        """Become unready, so that load balancers send no more requests; those that still come are accepted."""
        self.is_ready = False

    def stop_accepting(self) -> None:
        """Refuse new requests; those that were accepted continue."""
        self.is_accepting = self.is_ready = False

    def reserve(self, tenant: Tenant, limits: ServerConfig) -> Reservation:
        """Accept a request before its body is read; leaving the reservation's context releases all of it.

        Raises:
            OverShare, Unavailable: not even one item more would be taken.
        """
        self.check_accepting()
        capacity = self._get_capacity(limits)
        tenant_usage = self._usage_by_tenant.setdefault(tenant.name, Usage())
        _check_capacity(tenant_usage.items, self.usage.items, 1, capacity.items, _compute_share(tenant, capacity))
        if self.usage.response_bytes >= capacity.response_bytes:
            raise Unavailable(
                "the service holds as many answers as it may; send it again shortly", headers=_OVERLOADED_HEADERS
            )
        return Reservation(self, tenant, capacity, tenant_usage)

    def check_accepting(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            Unavailable: the service is shutting down.
        """
        if not self.is_accepting:
            raise Unavailable(
                "the service is shutting down; send it again, to another instance if there is one",
                code=ProblemCode.DRAINING,
                headers=_DRAINING_HEADERS,
            )

    def update_idle(self) -> None:
        """Notify `wait_idle` after the number of items has changed."""
        if self.usage.items:
            self._idle.clear()
        else:
            self._idle.set()

    def update_response_memory(self) -> None:
        """Update `is_response_memory_full`, which stays true until an eighth is free: notifying takes time."""
        max_bytes = self._capacity.response_bytes
        is_full = self.usage.response_bytes >= (
            max_bytes - max_bytes // 8 if self.is_response_memory_full else max_bytes
        )
        if is_full is not self.is_response_memory_full:
            self.is_response_memory_full = is_full
            for listener in list(self.response_memory_listeners.values()):
                listener()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until every response is delivered; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _get_capacity(self, limits: ServerConfig) -> Capacity:
        if limits is not self._limits:
            self._limits, self._capacity = limits, compute_capacity(limits)
        return self._capacity


class Reservation:
    """What one request holds."""

    __slots__ = ("_capacity", "_load_shedder", "_share", "_tenant_usage", "_usage")

    def __init__(self, load_shedder: LoadShedder, tenant: Tenant, capacity: Capacity, tenant_usage: Usage) -> None:
        self._load_shedder = load_shedder
        self._capacity = capacity
        self._share = _compute_share(tenant, capacity)
        self._tenant_usage = tenant_usage
        self._usage = Usage()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def reserve_body(self, total_bytes: int) -> None:
        """Hold this many bytes for the body, before it is read or as it grows; fewer than before releases the rest.

        Raises:
            OverShare, Unavailable: there is none for now.
        """
        tenant_usage, total_usage = self._tenant_usage, self._load_shedder.usage
        delta_bytes = total_bytes - self._usage.body_bytes
        if delta_bytes > 0:
            _check_capacity(
                tenant_usage.body_bytes, total_usage.body_bytes, delta_bytes, self._capacity.body_bytes, self._share
            )
        tenant_usage.body_bytes += delta_bytes
        total_usage.body_bytes += delta_bytes
        self._usage.body_bytes = total_bytes

    def reserve_items(self, count: int) -> None:
        """Hold room for the items of the request, once.

        Raises:
            TooLarge: more than the service ever holds at one time.
            OverShare, Unavailable: there is none for now, or nothing is taken any more.
        """
        self._load_shedder.check_accepting()
        max_items = self._capacity.items
        if count > max_items:
            raise TooLarge(
                f"{count} items are more than the {max_items} this service holds at one time; send smaller batches",
                field="requests",
            )
        tenant_usage, total_usage = self._tenant_usage, self._load_shedder.usage
        _check_capacity(tenant_usage.items, total_usage.items, count, max_items, self._share)
        tenant_usage.items += count
        total_usage.items += count
        self._usage.items += count
        self._load_shedder.update_idle()

    def reserve_response(self, size_bytes: int, *, force: bool = False) -> bool:
        """Hold more bytes of a response; False, with nothing held, if there is no room and `force` is not set."""
        total_usage = self._load_shedder.usage
        if not force and total_usage.response_bytes + size_bytes > self._capacity.response_bytes:
            return False
        total_usage.response_bytes += size_bytes
        self._usage.response_bytes += size_bytes
        self._load_shedder.update_response_memory()
        return True

    def release_response(self, size_bytes: int) -> None:
        """Release bytes of the response that were handed over."""
        self._load_shedder.usage.response_bytes -= size_bytes
        self._usage.response_bytes -= size_bytes
        self._load_shedder.update_response_memory()

    @property
    def is_response_memory_full(self) -> bool:
        """As the load shedder has it."""
        return self._load_shedder.is_response_memory_full

    def add_response_memory_listener(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever `is_response_memory_full` changes, until the release."""
        self._load_shedder.response_memory_listeners[self] = listener

    def release(self) -> None:
        """Release everything."""
        usage, tenant_usage, total_usage = self._usage, self._tenant_usage, self._load_shedder.usage
        tenant_usage.items -= usage.items
        tenant_usage.body_bytes -= usage.body_bytes
        total_usage.items -= usage.items
        total_usage.body_bytes -= usage.body_bytes
        total_usage.response_bytes -= usage.response_bytes
        self._usage = Usage()
        self._load_shedder.response_memory_listeners.pop(self, None)
        self._load_shedder.update_response_memory()
        self._load_shedder.update_idle()


def _compute_share(tenant: Tenant, capacity: Capacity) -> float:
    return min(1.0, tenant.weight / capacity.total_weight) if capacity.total_weight else 1.0


def _check_capacity(tenant_used: int, total_used: int, requested: int, capacity: int, share: float) -> None:
    """Raise if there is no room for `requested` more; a tenant that holds nothing is never over its share."""
    total_after = total_used + requested
    if tenant_used and share < 1 and total_after > capacity / 2 and tenant_used + requested > capacity * share:
        raise OverShare(
            "the service is more than half full and this API key holds its share of it; send it again when some of its "
            "requests are answered",
            headers=_OVERLOADED_HEADERS,
        )
    if total_after > capacity:
        raise Unavailable("the service holds as much as it may; send it again shortly", headers=_OVERLOADED_HEADERS)
