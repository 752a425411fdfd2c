"""Which hosts may be asked for images."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from oneconvert.errors import NotAllowedError
from oneconvert.transfer.addresses import AddressRules

PUBLIC = ["93.184.216.34", "2606:4700::1111", "64:ff9b::5db8:d822", "::ffff:93.184.216.34"]
PRIVATE = [
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1",
    "198.18.0.1",
    "::1", "::", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "64:ff9b:1::a00:1",
    # IPv4 in IPv6: mapped, compatible, behind NAT64, 6to4, Teredo (the client's address is inverted).
    "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1",
    "2002:7f00:1::", "2002:a00:1::1", "2001:0:5db8:d822:0:0:80ff:fffe",
]  # fmt: skip
METADATA = [
    "169.254.169.254", "169.254.0.1", "fe80::1", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254",
    "::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::",
    "2001:0:5db8:d822:0:0:5601:5601",
]  # fmt: skip
# What inet_aton(3) takes for 127.0.0.1.
ODD_LOOPBACK = ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.1", "127.0.1"]
ODD_METADATA = ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "169.16689662"]

Resolve = Callable[..., None]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Has names mean addresses; the DNS is none of a test's business."""

    def mean(**meanings: str) -> None:
        def look_up(host: str, port: int | None, **_: object) -> list[tuple[object, ...]]:
            return [(None, None, None, "", (each, port)) for each in meanings[host].split()]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return mean


def allows(rules: AddressRules, host: str) -> bool:
    try:
        return bool(rules.resolve(host))
    except NotAllowedError as error:
        assert host in str(error)
        return False


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_may_be_asked(address: str) -> None:
    assert AddressRules.of("refuse", []).resolve(address) == [address]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_refused_where_the_admin_says_so(address: str) -> None:
    with pytest.raises(NotAllowedError, match="private_addresses"):
        AddressRules.of("refuse", []).resolve(address)
    assert allows(AddressRules.of("allow", []), address)


@pytest.mark.parametrize("address", METADATA + ODD_METADATA)
@pytest.mark.parametrize("private", ["allow", "refuse"])
def test_the_metadata_service_is_refused_always(private: str, address: str) -> None:
    for hosts in ([], ["*"], [address] if address in ODD_METADATA else []):
        with pytest.raises(NotAllowedError, match="metadata"):
            AddressRules.of(private, hosts).resolve(address)


@pytest.mark.parametrize("writing", ODD_LOOPBACK)
def test_odd_writings_of_an_address_are_that_address(writing: str) -> None:
    assert not allows(AddressRules.of("refuse", []), writing)
    assert not allows(AddressRules.of("refuse", ["*"]), writing)
    with pytest.raises(NotAllowedError):
        AddressRules.of("refuse", []).check_unresolved(writing)
    assert AddressRules.of("refuse", ["127.0.0.1"]).resolve(writing) == ["127.0.0.1"]


def test_a_listed_network_may_be_private_and_even_link_local() -> None:
    rules = AddressRules.of("refuse", ["10.1.0.0/16", "169.254.169.254", "fd00:1::/32"])
    assert allows(rules, "10.1.2.3")
    assert allows(rules, "::ffff:10.1.2.3")
    assert allows(rules, "169.254.169.254")
    assert allows(rules, "fd00:1::2")
    assert not allows(rules, "10.2.0.1")
    assert not allows(rules, "169.254.169.253")
    assert not allows(rules, PUBLIC[0]), "what is not listed is refused, private or not"


def test_a_listed_name_may_be_private_but_not_link_local(names: Resolve) -> None:
    names(**{"images.lan": "10.0.0.1", "evil.lan": "169.254.169.254", "other.lan": "10.0.0.1"})
    rules = AddressRules.of("refuse", ["images.lan", "evil.lan"])
    assert allows(rules, "images.lan")
    assert not allows(rules, "evil.lan")
    assert not allows(rules, "other.lan")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("a.example.org", True), ("a.b.example.org", True), ("A.Example.ORG.", True), ("example.org", False),
        ("evilexample.org", False), ("example.org.evil.net", False), ("example.net", True), ("x.example.net", False),
    ],
)  # fmt: skip
def test_a_domain_is_listed_with_an_asterisk(names: Resolve, host: str, allowed: bool) -> None:
    names(**{host: PUBLIC[0]})
    assert allows(AddressRules.of("allow", ["*.example.org", "example.net"]), host) is allowed


def test_the_asterisk_alone_lists_every_host_and_excuses_none() -> None:
    assert allows(AddressRules.of("refuse", ["*"]), PUBLIC[0])
    assert not allows(AddressRules.of("refuse", ["*"]), "10.0.0.1")
    assert allows(AddressRules.of("allow", ["*"]), "10.0.0.1")


def test_of_a_name_with_public_and_private_addresses_only_the_public_are_tried(names: Resolve) -> None:
    names(mixed=f"10.0.0.1 {PUBLIC[0]} 127.0.0.1 169.254.169.254")
    assert AddressRules.of("refuse", []).resolve("mixed") == [PUBLIC[0]]
    assert AddressRules.of("allow", []).resolve("mixed") == ["10.0.0.1", PUBLIC[0], "127.0.0.1"]


def test_a_link_local_address_with_a_zone_is_link_local(names: Resolve) -> None:
    names(neighbour="fe80::1%lo")
    assert not allows(AddressRules.of("allow", []), "neighbour")


def test_a_name_that_a_proxy_looks_up_is_judged_as_a_name() -> None:
    AddressRules.of("refuse", []).check_unresolved("images.example.org")
    AddressRules.of("refuse", ["*.example.org"]).check_unresolved("images.example.org")
    for host in ("images.example.net", "127.0.0.1", "169.254.169.254", "::1", "0x7f.1"):
        with pytest.raises(NotAllowedError):
            AddressRules.of("refuse", ["*.example.org"]).check_unresolved(host)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_what_can_be_no_name_is_one_that_is_not_listed(host: str) -> None:
    AddressRules.of("allow", []).check_unresolved(host)
    with pytest.raises(NotAllowedError, match="allowed_hosts"):
        AddressRules.of("allow", ["example.org"]).check_unresolved(host)
