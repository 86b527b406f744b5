"""The NetworkPolicy: who comes in, and that nothing goes out which Paceline itself would not take for public."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from paceline.transport import address_classes
from support.rendered_chart import objects_by_kind

pytestmark = pytest.mark.deploy


def _egress(case: str) -> list[dict[str, Any]]:
    return list(objects_by_kind(case)["NetworkPolicy"]["spec"]["egress"])


def _lets_out(address: str, port: int, case: str = "as it stands") -> bool:
    for rule in _egress(case):
        if port not in [each["port"] for each in rule["ports"] if each["protocol"] == "TCP"]:
            continue
        for block in (each["ipBlock"] for each in rule["to"] if "ipBlock" in each):
            ip = ip_address(address)
            if ip in ip_network(block["cidr"]) and not any(ip in ip_network(each) for each in block.get("except", [])):
                return True
    return False


@pytest.mark.parametrize(
    "network", [each for each, _ in address_classes._IPV4_RANGES + address_classes._IPV6_RANGES], ids=str
)
def test_what_paceline_takes_for_not_public_the_policy_does_too(network: IPv4Network | IPv6Network) -> None:
    for ip in (network[0], network[network.num_addresses // 2], network[-1]):
        if address_classes.classify(ip) is not address_classes.AddressClass.PUBLIC:
            assert not _lets_out(str(ip), 443), ip


@pytest.mark.parametrize("ip", sorted(map(str, address_classes._METADATA_ADDRESSES)))
def test_the_cloud_s_metadata_is_out_of_reach(ip: str) -> None:
    assert not _lets_out(ip, 80)


@pytest.mark.parametrize("ip", ["1.1.1.1", "140.82.112.3", "172.32.0.1", "2606:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_let_out_to_on_public_ports(ip: str) -> None:
    assert _lets_out(ip, 443)
    assert not _lets_out(ip, 22)


def test_private_upstreams_are_let_out_to_where_they_are_named() -> None:
    assert _lets_out("10.20.0.15", 8443, "private upstreams")
    assert not _lets_out("10.20.0.15", 443, "private upstreams")
    assert not _lets_out("10.20.1.15", 8443, "private upstreams")
    assert not _lets_out("10.20.0.15", 8443)
    peers = [rule for rule in _egress("private upstreams") if "namespaceSelector" in rule["to"][0]]
    assert [[each["port"] for each in rule["ports"]] for rule in peers] == [[53, 53], [8000, 9000]]


def test_only_who_is_named_comes_in_and_metrics_are_for_scrapers() -> None:
    calls, scrapes = objects_by_kind("as it stands")["NetworkPolicy"]["spec"]["ingress"]
    assert calls == {"from": [{"podSelector": {}}], "ports": [{"port": "http", "protocol": "TCP"}]}
    assert scrapes["ports"] == [{"port": "metrics", "protocol": "TCP"}]
    assert all(rule["from"] for rule in (calls, scrapes))  # an empty list would let in everybody
    (calls,) = objects_by_kind("elsewhere")["NetworkPolicy"]["spec"]["ingress"]
    assert calls["ports"] == [{"port": "http", "protocol": "TCP"}]
