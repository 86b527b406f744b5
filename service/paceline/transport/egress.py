"""Where requests may go: a name is looked up once, every answer is judged, and one bad answer denies them all.

The engines dial an address of the list that `Guard.resolve` gives back and nothing else, so what was judged is what is
dialled, and a name that changes its answer between the check and the connection gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, NoReturn

from paceline.errors import DnsFailed, EgressDenied
from paceline.transport.addresses import EgressVerdict, embedded, judge, network
from paceline.transport.base import Wire
from paceline.transport.lookup import SystemLookup

__all__ = ["EgressVerdict", "Guard", "judge"]

Lookup = Callable[[str], Awaitable[list[str]]]
Listener = tuple[str, int]


class _Rules:
    """Names and ranges of one `allow` or `deny` list."""

    def __init__(self, entries: Sequence[str]) -> None:
        ranges = [(entry, network(entry)) for entry in entries]
        self._networks = [found for _, found in ranges if found is not None]
        self._names = frozenset(entry.lower().removesuffix(".") for entry, found in ranges if found is None)

    def names(self, host: str) -> bool:
        return host in self._names

    def holds(self, ip: IPv4Address | IPv6Address) -> bool:
        return any(ip in each for each in self._networks)

    def singles_out(self, ip: IPv4Address | IPv6Address) -> bool:
        """Written as this one address, not as a range that happens to hold it."""
        return any(each.num_addresses == 1 and ip in each for each in self._networks)


class Guard:
    """The egress rules of one process.

    `deny` always wins. Paceline's own listeners are never dialled. Undeclared hosts must be public or in `allow`, on
    one of `ports`, and under `mode: declared` in `allow`. A declared upstream may use any port, and with
    `allow_private` any private address. Metadata addresses open only to an `allow` entry that is exactly that address.

    Raises:
        ValueError: an entry of `allow` or `deny` is a malformed range.
    """

    def __init__(
        self,
        *,
        mode: Literal["public", "declared"] = "public",
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        ports: Collection[int] = (80, 443),
        listeners: Sequence[Listener] = (),
        lookup: Lookup | None = None,
    ) -> None:
        self._mode = mode
        self._allow = _Rules(allow)
        self._deny = _Rules(deny)
        self._ports = frozenset(ports)
        self._listeners = tuple(listeners)
        self._lookup = lookup or SystemLookup()

    async def resolve(self, host: str, port: int, wire: Wire) -> list[str]:
        """The judged addresses of `host`, in the resolver's order; at most one lookup, within `wire.dns_timeout_s`.

        Raises:
            EgressDenied: the host, its port or one of its addresses is refused.
            DnsFailed: no answer, or none in time.
        """
        literal = self.admit(host, port, wire)
        if literal is not None:
            return [literal]
        addresses = await self._addresses(host, wire)
        for address in addresses:
            self._judge(host, port, address, wire)
        return addresses

    def admit(self, host: str, port: int, wire: Wire) -> str | None:
        """Judge what needs no lookup: the name, the port, and an address written out (which is given back).

        Raises:
            EgressDenied: what is refused, why, and which setting would allow it.
        """
        if self._deny.names(host):
            _deny(host, "the operator denies it", "it is in egress.deny")
        literal = host if ":" in host or (host[-1:].isdigit() and _is_address(host)) else None
        if not wire.declared:
            named = self._allow.names(host) or (literal is not None and self._allow.holds(ip_address(literal)))
            if self._mode == "declared" and not named:
                _deny(host, "it is no declared upstream", "declare it under upstreams, or add it to egress.allow")
            if port not in self._ports:
                _deny(f"{host} port {port}", "undeclared hosts are fetched on few ports", "add it to egress.ports")
        if literal is not None:
            self._judge(host, port, literal, wire)
        return literal

    async def _addresses(self, host: str, wire: Wire) -> list[str]:
        try:
            async with asyncio.timeout(wire.dns_timeout_s):
                addresses = await self._lookup(host)
        except TimeoutError as error:
            raise DnsFailed(f"{host}: no answer from the resolver within {wire.dns_timeout_s:g} s") from error
        except (OSError, UnicodeError) as error:
            raise DnsFailed(f"{host}: {getattr(error, 'strerror', None) or error}") from error
        if not addresses:
            raise DnsFailed(f"{host}: the name has no address")
        return addresses

    def _judge(self, host: str, port: int, address: str, wire: Wire) -> None:
        ip = ip_address(address)
        readings: list[IPv4Address | IPv6Address] = [ip]
        if isinstance(ip, IPv6Address):
            readings += embedded(ip)
        shown = host if host == address else f"{host} ({address})"
        if any(self._deny.holds(each) for each in readings):
            _deny(shown, "the operator denies its address", "it is in egress.deny")
        if any(self._is_own(each, port) for each in readings):
            _deny(shown, "it is Paceline's own listener", "no setting allows it")
        verdict = judge(ip)
        if verdict is EgressVerdict.PUBLIC:
            return
        if verdict.openable:
            if (wire.declared and wire.allow_private) or self._allow.names(host):
                return
            if any(self._allow.holds(each) for each in readings):
                return
            fix = "declare it as an upstream with allow_private: true, or add it to egress.allow"
        elif any(self._allow.singles_out(each) for each in readings):
            return
        else:
            fix = f"only an entry in egress.allow that is exactly {address} allows it"
        _deny(shown, f"it is {verdict.wording}", fix)

    def _is_own(self, ip: IPv4Address | IPv6Address, port: int) -> bool:
        return any(port == own and _reaches(ip, host) for host, own in self._listeners)


def _reaches(ip: IPv4Address | IPv6Address, listener: str) -> bool:
    """Whether dialling `ip` may reach a socket bound to `listener`."""
    bound = ip_address("127.0.0.1" if listener == "localhost" else listener) if _is_address(listener) else None
    if listener == "localhost" or bound is None:
        return ip.is_loopback or ip.is_unspecified
    if ip == bound:
        return True
    if ip.is_unspecified:  # the kernel takes it as loopback
        return bound.is_loopback or bound.is_unspecified
    return bound.is_unspecified and (ip.is_loopback or _is_local(ip))


def _is_local(ip: IPv4Address | IPv6Address) -> bool:
    """Whether this machine has the address: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return False
    return True


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _deny(what: str, reason: str, fix: str) -> NoReturn:
    raise EgressDenied(f"{what} is not fetched: {reason}; {fix}")
