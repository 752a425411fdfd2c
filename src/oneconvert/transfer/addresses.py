"""Which hosts may be asked for images: ``allowed_hosts`` and ``private_addresses``.

A marketplace is input from strangers: its URLs, and what they redirect to, must not reach what only this host reaches.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Union

from oneconvert.errors import NotAllowedError

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# Addresses that a name may have and that are tried; each may take connect_timeout.
MAX_ADDRESSES = 8
EVERY_HOST = "*"
# Where clouds tell a machine its credentials: link-local (RFC 3927, RFC 4291), and what Alibaba, Azure, Amazon and
# Google have beside it.
METADATA = tuple(
    ipaddress.ip_network(each)
    for each in ("169.254.0.0/16", "fe80::/10", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")
)
# RFC 4291: all that is assigned as global unicast so far. RFC 6052: IPv4 behind a translator.
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class AddressRules:
    """The admin's rules. ``names`` and ``networks`` are what ``allowed_hosts`` lists, both empty for every host.

    ``*.example.org`` stands for all names below example.org. What is listed may be private, but link-local only if a
    network says so: a name is what its owner's DNS makes of it. ``*`` lists every host and excuses none.
    """

    private: bool
    names: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, private_addresses: str, allowed_hosts: Iterable[str]) -> AddressRules:
        """The rules for settings as they were read: names in lower case, addresses, networks."""
        names, networks = [], []
        for each in allowed_hosts:
            try:
                networks.append(ipaddress.ip_network(each))
            except ValueError:
                names.append(each)
        return cls(private_addresses == "allow", tuple(names), tuple(networks))

    @property
    def restrict(self) -> bool:
        """Whether there is any rule but the one for link-local addresses."""
        return not self.private or bool(self.names or self.networks)

    def resolve(self, host: str, port: int | None = None) -> list[str]:
        """The addresses of ``host`` that may be contacted; to connect to these, and not to the name again, is what
        keeps a name from meaning another host meanwhile.

        Raises OSError when it has none, NotAllowedError when none of them may be contacted.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
        reasons = {address: self._why_not(host, address) for address in addresses}
        allowed = [address for address in addresses if not reasons[address]]
        if not allowed:
            raise NotAllowedError(next(iter(reasons.values())))
        return allowed[:MAX_ADDRESSES]

    def check_unresolved(self, host: str) -> None:
        """Judge a host that a proxy is going to resolve: by its name, or by the address that it is written as.

        Raises NotAllowedError.
        """
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            reason = self._why_not_listed(host, None)
        else:
            reason = self._why_not(host, str(found[0][4][0]))
        if reason:
            raise NotAllowedError(reason)

    def _why_not(self, host: str, text: str) -> str:
        address = ipaddress.ip_address(text)
        inner = _embedded(address)
        by_network = any(each in network for network in self.networks for each in (address, inner))
        if any(inner in network for network in METADATA) and not by_network:
            return f"{host} is a link-local address or a cloud's metadata service, which no image may be fetched from"
        if not self.private and _is_private(inner) and not (by_network or self._is_named(host)):
            return (
                f"{host} is a private address, which private_addresses in oneconvert.conf refuses; the administrator "
                "can list it in allowed_hosts"
            )
        return self._why_not_listed(host, address if by_network else None)

    def _why_not_listed(self, host: str, listed: Address | None) -> str:
        if listed or not (self.names or self.networks) or EVERY_HOST in self.names or self._is_named(host):
            return ""
        return f"{host} is not among the allowed_hosts in oneconvert.conf; the administrator can list it there"

    def _is_named(self, host: str) -> bool:
        name = host.lower().rstrip(".")
        return any(name == each or (each.startswith("*.") and name.endswith(each[1:])) for each in self.names)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (RFC 4291, 6052, 3056, 4380), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    low = int(address) & 0xFFFFFFFF
    if address in NAT64 or int(address) == low:
        return ipaddress.IPv4Address(low)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address


def _is_private(address: Address) -> bool:
    """Whether it is anything but an address of the public Internet."""
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_UNICAST:
        return True
    return not address.is_global or address.is_multicast or address.is_reserved
