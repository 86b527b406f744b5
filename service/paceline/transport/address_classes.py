"""Which addresses are public: the whole IANA special-purpose registries, and what they leave out.

`classify` is pure. One enum is the decision, the description in a message and the label of a metric. Where entries
nest, the more specific one comes first. Sources: iana.org/assignments/iana-ipv4-special-registry and
iana-ipv6-special-registry, RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), and each cloud's own page for its
metadata address.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network


class AddressClass(Enum):
    """The kind of an address. `label` is its name in metrics, `description` in messages.

    `can_be_allowed`: an operator's `allow_private: true` may allow it. The others stay denied: no service is there, or
    (metadata) the service there hands out the machine's credentials.
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

    def __init__(self, label: str, description: str, can_be_allowed: bool) -> None:
        self.label = label
        self.description = description
        self.can_be_allowed = can_be_allowed


_METADATA_ADDRESSES = frozenset(
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

_Class = AddressClass
_IPV4_RANGES = tuple(
    (IPv4Network(text), address_class)
    for text, address_class in (
        ("0.0.0.0/8", _Class.UNSPECIFIED),
        ("10.0.0.0/8", _Class.PRIVATE),
        ("100.64.0.0/10", _Class.SHARED),
        ("127.0.0.0/8", _Class.LOOPBACK),
        ("169.254.0.0/16", _Class.LINK_LOCAL),
        ("172.16.0.0/12", _Class.PRIVATE),
        ("192.0.0.0/24", _Class.SPECIAL),
        ("192.0.2.0/24", _Class.DOCUMENTATION),
        ("192.31.196.0/24", _Class.SPECIAL),
        ("192.52.193.0/24", _Class.SPECIAL),
        ("192.88.99.0/24", _Class.SPECIAL),
        ("192.168.0.0/16", _Class.PRIVATE),
        ("192.175.48.0/24", _Class.SPECIAL),
        ("198.18.0.0/15", _Class.BENCHMARK),
        ("198.51.100.0/24", _Class.DOCUMENTATION),
        ("203.0.113.0/24", _Class.DOCUMENTATION),
        ("224.0.0.0/4", _Class.MULTICAST),
        ("240.0.0.0/4", _Class.RESERVED),
    )
)
_IPV6_RANGES = tuple(
    (IPv6Network(text), address_class)
    for text, address_class in (
        ("::/128", _Class.UNSPECIFIED),
        ("::1/128", _Class.LOOPBACK),
        ("64:ff9b:1::/48", _Class.SPECIAL),
        ("100::/64", _Class.SPECIAL),
        ("100:0:0:1::/64", _Class.SPECIAL),
        ("2001:2::/48", _Class.BENCHMARK),
        ("2001::/23", _Class.SPECIAL),
        ("2001:db8::/32", _Class.DOCUMENTATION),
        ("2002::/16", _Class.SPECIAL),
        ("2620:4f:8000::/48", _Class.SPECIAL),
        ("3fff::/20", _Class.DOCUMENTATION),
        ("5f00::/16", _Class.SPECIAL),
        ("fc00::/7", _Class.PRIVATE),
        ("fe80::/10", _Class.LINK_LOCAL),
        ("fec0::/10", _Class.PRIVATE),
        ("ff00::/8", _Class.MULTICAST),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL_USE = IPv6Network("64:ff9b:1::/48")
_IPV4_COMPATIBLE = IPv6Network("::/96")


def classify(address: str | IPv4Address | IPv6Address) -> AddressClass:
    """The class of this address; an IPv4 address embedded in an IPv6 one is classified too.

    Raises:
        ValueError: it is no address.
    """
    ip = ip_address(address) if isinstance(address, str) else address
    if isinstance(ip, IPv6Address):
        return _classify_ipv6(IPv6Address(int(ip)))  # without its zone
    if ip in _METADATA_ADDRESSES:
        return AddressClass.METADATA
    return next((address_class for network, address_class in _IPV4_RANGES if ip in network), AddressClass.PUBLIC)


def embedded_ipv4_addresses(ip: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that packets to this IPv6 address may reach."""
    number = int(ip)
    if ip in _IPV4_MAPPED or ip in _NAT64 or (ip in _IPV4_COMPATIBLE and number > 1):
        return [IPv4Address(number & 0xFFFFFFFF)]
    if ip in _NAT64_LOCAL_USE:  # RFC 6052: a /48 prefix leaves bits 64-71 out; a /96 inside it is as usual
        return [
            IPv4Address(((number >> 64) & 0xFFFF) << 16 | (number >> 40) & 0xFFFF),
            IPv4Address(number & 0xFFFFFFFF),
        ]
    if ip.sixtofour is not None:
        return [ip.sixtofour]
    return list(ip.teredo or ())


def _classify_ipv6(ip: IPv6Address) -> AddressClass:
    if ip in _METADATA_ADDRESSES:
        return AddressClass.METADATA
    embedded_classes = [classify(v4) for v4 in embedded_ipv4_addresses(ip)]
    non_public = [each for each in embedded_classes if each is not AddressClass.PUBLIC]
    if non_public:
        # The most restrictive class counts: what allow_private never allows stays denied inside an IPv6 address too.
        return min(non_public, key=lambda each: (each is not AddressClass.METADATA, each.can_be_allowed))
    if embedded_classes and (ip in _IPV4_MAPPED or ip in _NAT64):
        return AddressClass.PUBLIC
    for network, address_class in _IPV6_RANGES:
        if ip in network:
            return address_class
    return AddressClass.PUBLIC if ip in _GLOBAL_UNICAST else AddressClass.RESERVED


def parse_network(text: str) -> IPv4Network | IPv6Network | None:
    """A range in CIDR form or a single address; None where it is a name. ValueError for a range with host bits."""
    if "/" in text:
        return ip_network(text)
    try:
        return ip_network(ip_address(text.strip("[]")))
    except ValueError:
        return None
