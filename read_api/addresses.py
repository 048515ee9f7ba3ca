"""Which client sends a request: who speaks to us, or whom a proxy that we trust speaks for."""

from collections.abc import Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

from litestar.types import Scope

Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address
RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]

HOPS_MAX = 10
"""Proxies in a row; what names more is not believed."""

IPV6_PREFIX = 64
"""Bits of an address that tell one network from another: the rest a client chooses freely."""

UNKNOWN = "unknown"
"""Of those who come through a socket that has no addresses."""


class Clients:
    """Tells clients apart by address.

    Args:
        trusted: Proxies whose X-Forwarded-For is believed; by default nobody's. `Forwarded`,
            `X-Real-IP` and `X-Forwarded-Host` never are.
    """

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def network_of(self, scope: Scope) -> str:
        """Name the network a request comes from: an IPv4 address, or an IPv6 /64."""
        peer = scope["client"]
        if peer is None:
            return UNKNOWN
        address = _parsed(peer[0])
        if address is None:
            return UNKNOWN
        if self._trusted and self._trusts(address):
            address = self._forwarded_for(address, scope["headers"])
        if isinstance(address, IPv4Address):
            return str(address)
        return str(ip_network((address, IPV6_PREFIX), strict=False))

    def _forwarded_for(self, peer: Address, headers: RawHeaders) -> Address:
        """Walk from the nearest hop to the farthest: the first that we do not trust is the client,
        and what it says of those behind it is worth nothing.
        """
        values = (value for name, value in headers if name == b"x-forwarded-for")
        hops = [hop.strip() for value in values for hop in value.decode("latin-1").split(",")]
        if len(hops) > HOPS_MAX:
            return peer
        nearest = peer
        for hop in reversed(hops):
            address = _parsed(hop)
            if address is None:
                return peer
            if not self._trusts(address):
                return address
            nearest = address
        return nearest

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A socket of both families spells an IPv4 client ::ffff:192.0.2.1 (RFC 4291, 2.5.5.2).
    return getattr(address, "ipv4_mapped", None) or address


def networks(text: str) -> tuple[Network, ...]:
    """Read a list of networks, separated by commas.

    Raises:
        ValueError: One of them is none.
    """
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())
