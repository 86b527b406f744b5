"""The address table, and what an operator's settings open and shut."""

from __future__ import annotations

import pytest

from paceline.errors import DnsFailed, EgressDenied
from paceline.transport.base import TransportOptions
from paceline.transport.egress import AddressClass, EgressGuard, classify

V = AddressClass

TABLE = {
    V.PUBLIC: [
        "8.8.8.8", "1.1.1.1", "93.184.216.34", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
        "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
        "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
        "198.20.0.0", "223.255.255.255", "168.63.129.15", "168.63.129.17",
        "2606:4700:4700::1111", "2001:4860:4860::8888", "2000::1", "2001:200::1", "2003::1", "3ffe:ffff::1",
        "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2400:cb00::1",
    ],
    V.UNSPECIFIED: [
        "0.0.0.0", "0.0.0.1", "0.255.255.255", "::", "::ffff:0.0.0.0", "64:ff9b::0.0.0.0",
        "2001::1",  # Teredo of a server 0.0.0.0
    ],
    V.LOOPBACK: [
        "127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::127.0.0.1", "::7f00:1", "64:ff9b::7f00:1",
        "64:ff9b::127.0.0.1", "2002:7f00:1::", "2002:7f00:0001:dead::beef",
    ],
    V.PRIVATE: [
        "10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255",
        "fc00::", "fd12:3456::1", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fec0::1", "feff::1",
        "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:c0a8:1::", "2002:0a00:0001::1",
    ],
    V.SHARED: ["100.64.0.0", "100.127.255.255", "::ffff:100.64.0.1"],
    V.LINK_LOCAL: ["169.254.0.0", "169.254.255.255", "fe80::1", "febf::1", "fe80::1%eth0", "::ffff:169.254.1.1"],
    V.SPECIAL: [
        "192.0.0.0", "192.0.0.8", "192.0.0.9", "192.0.0.10", "192.0.0.170", "192.0.0.171", "192.0.0.255",
        "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.88.99.2", "192.175.48.1",
        "100::1", "100:0:0:1::1", "2001:0:808:808:0:0:f7f7:f7f7",
        "2001:1::1", "2001:1::2", "2001:1::3", "2001:3::1", "2001:4:112::1",
        "2001:10::1", "2001:20::1", "2001:30::1", "2001:1ff::1", "2620:4f:8000::1", "5f00::1",
        "2002:808:808::1", "64:ff9b:1:808:8:800:808:808",
    ],
    V.BENCHMARK: ["198.18.0.0", "198.19.255.255", "2001:2::1"],
    V.DOCUMENTATION: [
        "192.0.2.1", "198.51.100.1", "203.0.113.255", "2001:db8::1", "3fff::1", "3fff:fff::1", "::ffff:192.0.2.1",
    ],
    V.RESERVED: [
        "240.0.0.0", "255.255.255.255", "::8.8.8.8", "1::1", "4000::1", "e000::1", "fe00::1", "64:ff9c::1", "100:1::1",
    ],
    V.MULTICAST: ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1", "::ffff:224.0.0.1", "64:ff9b::224.0.0.1"],
    V.METADATA: [
        "169.254.169.254", "169.254.169.253", "169.254.170.2", "169.254.170.23", "168.63.129.16", "100.100.100.200",
        "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
        "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "2001:0:a9fe:a9fe::",
        "2001:0:808:808:0:0:5601:5601",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("address", "verdict"), [(address, verdict) for verdict, addresses in TABLE.items() for address in addresses]
)
def test_each_address_is_what_the_registries_say(address, verdict):
    assert classify(address) is verdict


def test_every_verdict_is_in_the_table_with_a_label_and_a_wording_of_its_own():
    assert set(TABLE) == set(AddressClass)
    assert (
        len({each.label for each in AddressClass})
        == len({each.description for each in AddressClass})
        == len(AddressClass)
    )


def test_what_is_no_address_has_no_verdict():
    with pytest.raises(ValueError, match=r"127\.1"):
        classify("127.1")


DECLARED = TransportOptions(declared=True)
DECLARED_PRIVATE = TransportOptions(declared=True, allow_private=True)
UNDECLARED = TransportOptions(declared=False)
UNDECLARED_PRIVATE = TransportOptions(declared=False, allow_private=True)


def guard(*answers: str, **settings: object) -> EgressGuard:
    async def lookup(host: str) -> list[str]:
        return list(answers)

    return EgressGuard(resolver=lookup, **settings)


async def refused(rules: EgressGuard, host: str, port: int, wire: TransportOptions) -> str:
    with pytest.raises(EgressDenied) as caught:
        await rules.resolve(host, port, wire)
    assert not caught.value.sent
    return caught.value.message


async def test_a_public_name_is_given_all_its_addresses_in_order():
    assert await guard("8.8.4.4", "8.8.8.8").resolve("api.example", 443, UNDECLARED) == ["8.8.4.4", "8.8.8.8"]


@pytest.mark.parametrize(
    "answers", [["10.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["8.8.8.8", "::1"]]
)
async def test_any_bad_answer_denies_the_name_and_the_message_says_why_and_what_would_allow_it(answers):
    said = await refused(guard(*answers), "api.example", 80, UNDECLARED)
    assert "api.example (" in said
    assert "allow_private: true" in said
    assert "egress.allow" in said


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "::1", "fd12::1", "169.254.1.1", "100.64.0.1"]
)
async def test_allow_private_opens_private_addresses_on_any_port_to_declared_upstreams_only(host):
    assert await guard().resolve(host, 9000, DECLARED_PRIVATE) == [host]
    await refused(guard(), host, 9000, DECLARED)
    await refused(guard(), host, 80, UNDECLARED)
    await refused(guard(), host, 80, UNDECLARED_PRIVATE)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254", "224.0.0.1", "0.0.0.0", "240.0.0.1"]
)
async def test_allow_private_never_opens_metadata_multicast_or_what_is_nobody_s(host):
    assert "exactly" in await refused(guard(), host, 80, DECLARED_PRIVATE)
    await refused(guard(allow=["0.0.0.0/0", "::/0"]), host, 80, DECLARED_PRIVATE)


async def test_metadata_opens_to_an_entry_that_is_exactly_its_address():
    rules = guard(allow=["169.254.169.254"])
    assert await rules.resolve("169.254.169.254", 80, UNDECLARED) == ["169.254.169.254"]
    await refused(guard(allow=["169.254.0.0/16"]), "169.254.169.254", 80, UNDECLARED)


async def test_a_name_in_allow_does_not_open_metadata():
    await refused(guard("169.254.169.254", allow=["inner.example"]), "inner.example", 80, UNDECLARED)


async def test_allow_opens_ranges_and_names_to_plain_urls():
    assert await guard(allow=["10.0.0.0/8"]).resolve("10.1.2.3", 80, UNDECLARED)
    assert await guard("10.1.2.3", allow=["10.0.0.0/8"]).resolve("inner.example", 80, UNDECLARED)
    assert await guard("10.1.2.3", allow=["Inner.Example"]).resolve("inner.example", 80, UNDECLARED)
    assert await guard(allow=["10.0.0.0/8"]).resolve("::ffff:10.1.2.3", 80, UNDECLARED)
    await refused(guard("10.1.2.3", allow=["other.example"]), "inner.example", 80, UNDECLARED)
    await refused(guard(allow=["10.0.0.0/16"]), "10.1.2.3", 80, UNDECLARED)


async def test_deny_always_wins():
    everything = {"allow": ["0.0.0.0/0", "bad.example", "8.8.8.8"]}
    said = await refused(guard(deny=["8.8.8.0/24"], **everything), "8.8.8.8", 80, DECLARED_PRIVATE)
    assert "egress.deny" in said
    await refused(guard("8.8.8.8", deny=["8.8.8.8"], **everything), "api.example", 80, DECLARED_PRIVATE)
    await refused(guard("1.1.1.1", deny=["bad.example"], **everything), "bad.example", 80, DECLARED_PRIVATE)
    await refused(guard(deny=["8.8.8.0/24"]), "::ffff:8.8.8.8", 80, DECLARED)
    await refused(guard(deny=["8.8.8.0/24"]), "64:ff9b::8.8.8.8", 80, DECLARED)


async def test_undeclared_hosts_keep_to_the_ports():
    assert "egress.ports" in await refused(guard("8.8.8.8"), "api.example", 8080, UNDECLARED)
    assert await guard("8.8.8.8", ports=[8080]).resolve("api.example", 8080, UNDECLARED)
    assert await guard("8.8.8.8").resolve("api.example", 8080, DECLARED)


async def test_in_declared_mode_undeclared_hosts_must_be_allowed():
    rules = guard("8.8.8.8", mode="declared", allow=["ok.example", "9.9.9.0/24"])
    assert "declare it under upstreams" in await refused(rules, "api.example", 443, UNDECLARED)
    await refused(rules, "8.8.8.8", 443, UNDECLARED)
    assert await rules.resolve("ok.example", 443, UNDECLARED)
    assert await rules.resolve("9.9.9.9", 443, UNDECLARED)
    assert await rules.resolve("api.example", 443, DECLARED)


@pytest.mark.parametrize(
    ("listener", "dialled"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("localhost", "127.0.0.1"),
        ("localhost", "::1"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.8.8.8"),
        ("0.0.0.0", "0.0.0.0"),
        ("::", "127.0.0.1"),
        ("::", "::1"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
async def test_our_own_listeners_are_never_dialled_whatever_is_allowed(listener, dialled):
    rules = guard(listeners=[(listener, 8080)], allow=["0.0.0.0/0", "::/0", "0.0.0.0", dialled])
    assert "own listener" in await refused(rules, dialled, 8080, DECLARED_PRIVATE)


async def test_another_port_or_address_is_no_listener_of_ours():
    rules = guard(listeners=[("127.0.0.1", 8080), ("0.0.0.0", 8081)])
    assert await rules.resolve("127.0.0.1", 9000, DECLARED_PRIVATE)
    assert await rules.resolve("127.0.0.2", 8080, DECLARED_PRIVATE)
    assert await rules.resolve("10.0.0.5", 8081, DECLARED_PRIVATE)


async def test_a_name_without_addresses_fails_rather_than_passes():
    with pytest.raises(DnsFailed, match="no address"):
        await guard().resolve("api.example", 80, DECLARED)


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.0/33", "300.0.0.0/8"])
def test_a_malformed_range_is_refused_when_the_rules_are_made(entry):
    with pytest.raises(ValueError, match=entry.partition("/")[0]):
        EgressGuard(allow=[entry])
    with pytest.raises(ValueError, match=entry.partition("/")[0]):
        EgressGuard(deny=[entry])
