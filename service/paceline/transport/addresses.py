"""Which addresses are public: the IANA special-purpose registries, whole, and what they leave out.

`judge` is pure. One enum is the decision, the wording of a refusal and the label of a metric. Where entries nest, the
more specific one comes first. Sources: iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry,
RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), and each cloud's own page for its metadata address.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


class EgressVerdict(Enum):
    """What an address is. `label` names it in metrics, `wording` in messages.

    `openable`: an operator's `allow_private: true` may open it. The others stay shut: nothing a service fetches lives
    there, or (metadata) what lives there hands out the machine's credentials.
    """

    PUBLIC = ("public", "a public address", True)
    LOOPBACK = ("loopback", "this machine itself", True)
    PRIVATE = ("private", "a private address", True)
    SHARED = ("shared", "a carrier's shared address", True)
    LINK_LOCAL = ("link_local", "a link-local address", True)
    BENCHMARK = ("benchmark", "an address set aside for benchmarks", True)
    UNSPECIFIED = ("unspecified", "no particular host", False)
    SPECIAL = ("special", "an address set aside for protocols", False)
    DOCUMENTATION = ("documentation", "an address set aside for documentation", False)
    RESERVED = ("reserved", "a reserved address", False)
    MULTICAST = ("multicast", "a multicast address", False)
    METADATA = ("metadata", "a cloud metadata address", False)

    def __init__(self, label: str, wording: str, openable: bool) -> None:
        self.label = label
        self.wording = wording
        self.openable = openable


_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, GCP, Azure, DigitalOcean, OpenStack and others
        "169.254.169.253",  # AWS name server
        "169.254.170.2",  # AWS task credentials
        "169.254.170.23",  # AWS pod identity
        "169.254.0.23",  # Tencent
        "169.254.42.42",  # Scaleway
        "168.63.129.16",  # Azure wire server
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle classic
        "fd00:ec2::254",  # AWS
        "fd00:ec2::253",  # AWS name server
        "fd00:ec2::23",  # AWS pod identity
        "fd20:ce::254",  # GCP
        "fd00:42::42",  # Scaleway
        "fd00:c1::a9fe:a9fe",  # Oracle
    )
)

_V = EgressVerdict
_TABLE4 = tuple(
    (IPv4Network(text), verdict)
    for text, verdict in (
        ("0.0.0.0/8", _V.UNSPECIFIED),
        ("10.0.0.0/8", _V.PRIVATE),
        ("100.64.0.0/10", _V.SHARED),
        ("127.0.0.0/8", _V.LOOPBACK),
        ("169.254.0.0/16", _V.LINK_LOCAL),
        ("172.16.0.0/12", _V.PRIVATE),
        ("192.0.0.0/24", _V.SPECIAL),
        ("192.0.2.0/24", _V.DOCUMENTATION),
        ("192.31.196.0/24", _V.SPECIAL),
        ("192.52.193.0/24", _V.SPECIAL),
        ("192.88.99.0/24", _V.SPECIAL),
        ("192.168.0.0/16", _V.PRIVATE),
        ("192.175.48.0/24", _V.SPECIAL),
        ("198.18.0.0/15", _V.BENCHMARK),
        ("198.51.100.0/24", _V.DOCUMENTATION),
        ("203.0.113.0/24", _V.DOCUMENTATION),
        ("224.0.0.0/4", _V.MULTICAST),
        ("240.0.0.0/4", _V.RESERVED),
    )
)
_TABLE6 = tuple(
    (IPv6Network(text), verdict)
    for text, verdict in (
        ("::/128", _V.UNSPECIFIED),
        ("::1/128", _V.LOOPBACK),
        ("64:ff9b:1::/48", _V.SPECIAL),
        ("100::/64", _V.SPECIAL),
        ("100:0:0:1::/64", _V.SPECIAL),
        ("2001:2::/48", _V.BENCHMARK),
        ("2001::/23", _V.SPECIAL),
        ("2001:db8::/32", _V.DOCUMENTATION),
        ("2002::/16", _V.SPECIAL),
        ("2620:4f:8000::/48", _V.SPECIAL),
        ("3fff::/20", _V.DOCUMENTATION),
        ("5f00::/16", _V.SPECIAL),
        ("fc00::/7", _V.PRIVATE),
        ("fe80::/10", _V.LINK_LOCAL),
        ("fec0::/10", _V.PRIVATE),
        ("ff00::/8", _V.MULTICAST),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("64:ff9b::/96")
_TRANSLATED_LOCAL = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")


def judge(address: str | IPv4Address | IPv6Address) -> EgressVerdict:
    """What this address is; an IPv4 address inside an IPv6 one is taken out and judged too.

    Raises:
        ValueError: it is no address.
    """
    ip = ip_address(address) if isinstance(address, str) else address
    if isinstance(ip, IPv6Address):
        return _judge6(IPv6Address(int(ip)))  # without its zone
    if ip in _METADATA:
        return EgressVerdict.METADATA
    return next((verdict for network, verdict in _TABLE4 if ip in network), EgressVerdict.PUBLIC)


def embedded(ip: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that packets to this IPv6 address may end up at."""
    number = int(ip)
    if ip in _MAPPED or ip in _TRANSLATED or (ip in _COMPATIBLE and number > 1):
        return [IPv4Address(number & 0xFFFFFFFF)]
    if ip in _TRANSLATED_LOCAL:  # RFC 6052: a /48 prefix leaves bits 64-71 out; a /96 inside it is as usual
        return [
            IPv4Address(((number >> 64) & 0xFFFF) << 16 | (number >> 40) & 0xFFFF),
            IPv4Address(number & 0xFFFFFFFF),
        ]
    if ip.sixtofour is not None:
        return [ip.sixtofour]
    return list(ip.teredo or ())


def _judge6(ip: IPv6Address) -> EgressVerdict:
    if ip in _METADATA:
        return EgressVerdict.METADATA
    inner = [judge(v4) for v4 in embedded(ip)]
    bad = [verdict for verdict in inner if verdict is not EgressVerdict.PUBLIC]
    if bad:
        # The worst reading counts: what allow_private never opens stays shut inside an IPv6 address as well.
        return min(bad, key=lambda verdict: (verdict is not EgressVerdict.METADATA, verdict.openable))
    if inner and (ip in _MAPPED or ip in _TRANSLATED):
        return EgressVerdict.PUBLIC
    for network, verdict in _TABLE6:
        if ip in network:
            return verdict
    return EgressVerdict.PUBLIC if ip in _GLOBAL_UNICAST else EgressVerdict.RESERVED


def network(text: str) -> IPv4Network | IPv6Network | None:
    """A range in CIDR form or a single address; None where it is a name. ValueError for a range with host bits."""
    if "/" in text:
        return ip_network(text)
    try:
        return ip_network(ip_address(text.strip("[]")))
    except ValueError:
        return None
