"""The egress rules: a name is resolved once, every address is checked, and one denied address denies them all.

The engines connect to an address that `EgressGuard.resolve` returned and to no other, so the checked address is the
connected one, and a name that changes between the check and the connection gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, NoReturn

from paceline.errors import DnsFailed, EgressDenied
from paceline.transport.address_classes import AddressClass, classify, embedded_ipv4_addresses, parse_network
from paceline.transport.base import TransportOptions
from paceline.transport.resolver import SystemResolver
from paceline.units import format_seconds

__all__ = ["AddressClass", "EgressGuard", "classify"]

Resolver = Callable[[str], Awaitable[list[str]]]
ListenAddress = tuple[str, int]


class _HostRules:
    """Names and ranges of one `allow` or `deny` list."""

    def __init__(self, entries: Sequence[str]) -> None:
        ranges = [(entry, parse_network(entry)) for entry in entries]
        self._networks = [found for _, found in ranges if found is not None]
        self._names = frozenset(entry.lower().removesuffix(".") for entry, found in ranges if found is None)

    def matches_name(self, host: str) -> bool:
        return host in self._names

    def contains(self, ip: IPv4Address | IPv6Address) -> bool:
        return any(ip in each for each in self._networks)

    def lists_exactly(self, ip: IPv4Address | IPv6Address) -> bool:
        """Whether an entry is exactly this address, not a range that contains it."""
        return any(each.num_addresses == 1 and ip in each for each in self._networks)


class EgressGuard:
    """The egress rules of one process.

    `deny` always wins. Paceline's own listeners are always denied. Undeclared hosts must be public or in `allow`, on
    one of `ports`, and under `mode: declared` in `allow`. A declared upstream may use any port, and with
    `allow_private` any private address. Metadata addresses need an `allow` entry that is exactly that address.

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
        listeners: Sequence[ListenAddress] = (),
        resolver: Resolver | None = None,
    ) -> None:
        self._mode = mode
        self._allow = _HostRules(allow)
        self._deny = _HostRules(deny)
        self._ports = frozenset(ports)
        self._listeners = tuple(listeners)
        self._resolver = resolver or SystemResolver()

    async def resolve(self, host: str, port: int, options: TransportOptions) -> list[str]:
        """The checked addresses of `host`, in the resolver's order; one lookup, within `options.dns_timeout_s`.

        Raises:
            EgressDenied: the host, its port or one of its addresses is refused.
            DnsFailed: no answer, or none in time.
        """
        literal = self.check_host(host, port, options)
        if literal is not None:
            return [literal]
        addresses = await self._look_up(host, options)
        for address in addresses:
            self._check_address(host, port, address, options)
        return addresses

    def check_host(self, host: str, port: int, options: TransportOptions) -> str | None:
        """Check what needs no lookup: the name, the port, and a literal address (which is returned).

        Raises:
            EgressDenied: what is refused, why, and which setting would allow it.
        """
        if self._deny.matches_name(host):
            _raise_denied(host, "the operator denies it", "it is in egress.deny")
        literal = host if ":" in host or (host[-1:].isdigit() and _is_address(host)) else None
        if not options.declared:
            is_allowed = self._allow.matches_name(host) or (
                literal is not None and self._allow.contains(ip_address(literal))
            )
            if self._mode == "declared" and not is_allowed:
                _raise_denied(
                    host, "it is no declared upstream", "declare it under upstreams, or add it to egress.allow"
                )
            if port not in self._ports:
                _raise_denied(
                    f"{host} port {port}", "undeclared hosts are fetched on few ports", "add it to egress.ports"
                )
        if literal is not None:
            self._check_address(host, port, literal, options)
        return literal

    async def _look_up(self, host: str, options: TransportOptions) -> list[str]:
        try:
            async with asyncio.timeout(options.dns_timeout_s):
                addresses = await self._resolver(host)
        except TimeoutError as error:
            raise DnsFailed(
                f"{host}: no answer from the resolver within {format_seconds(options.dns_timeout_s)}"
            ) from error
        except (OSError, UnicodeError) as error:
            raise DnsFailed(f"{host}: {getattr(error, 'strerror', None) or error}") from error
        if not addresses:
            raise DnsFailed(f"{host}: the name has no address")
        return addresses

    def _check_address(self, host: str, port: int, address: str, options: TransportOptions) -> None:
        ip = ip_address(address)
        interpretations: list[IPv4Address | IPv6Address] = [ip]
        if isinstance(ip, IPv6Address):
            interpretations += embedded_ipv4_addresses(ip)
        shown = host if host == address else f"{host} ({address})"
        if any(self._deny.contains(each) for each in interpretations):
            _raise_denied(shown, "the operator denies its address", "it is in egress.deny")
        if any(self._is_own_listener(each, port) for each in interpretations):
            _raise_denied(shown, "it is Paceline's own listener", "no setting allows it")
        address_class = classify(ip)
        if address_class is AddressClass.PUBLIC:
            return
        if address_class.can_be_allowed:
            if (options.declared and options.allow_private) or self._allow.matches_name(host):
                return
            if any(self._allow.contains(each) for each in interpretations):
                return
            fix = "declare it as an upstream with allow_private: true, or add it to egress.allow"
        elif any(self._allow.lists_exactly(each) for each in interpretations):
            return
        else:
            fix = f"only an entry in egress.allow that is exactly {address} allows it"
        _raise_denied(shown, f"it is {address_class.description}", fix)

    def _is_own_listener(self, ip: IPv4Address | IPv6Address, port: int) -> bool:
        return any(port == listen_port and _reaches_listener(ip, host) for host, listen_port in self._listeners)


def _reaches_listener(ip: IPv4Address | IPv6Address, listener: str) -> bool:
    """Whether a connection to `ip` may reach a socket bound to `listener`."""
    bound = ip_address("127.0.0.1" if listener == "localhost" else listener) if _is_address(listener) else None
    if listener == "localhost" or bound is None:
        return ip.is_loopback or ip.is_unspecified
    if ip == bound:
        return True
    if ip.is_unspecified:  # the kernel takes it as loopback
        return bound.is_loopback or bound.is_unspecified
    return bound.is_unspecified and (ip.is_loopback or _is_local_address(ip))


def _is_local_address(ip: IPv4Address | IPv6Address) -> bool:
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


def _raise_denied(what: str, reason: str, fix: str) -> NoReturn:
    raise EgressDenied(f"{what} is not fetched: {reason}; {fix}")
