"""A client is who speaks to us; a proxy is believed only if it is trusted."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_api.addresses import HOPS_MAX, UNKNOWN, Clients, networks

PROXIES = networks("10.0.0.0/8, 192.168.1.1, fd00::/8")


def network(peer: str | None, *forwarded: str, trusted: bool = True) -> str:
    scope: Any = {
        "client": None if peer is None else (peer, 1234),
        "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded],
    }
    return Clients(PROXIES if trusted else ()).network_of(scope)


@given(st.lists(st.text(max_size=40)))
def test_without_trusted_proxies_nothing_that_is_said_counts(forwarded: list[str]) -> None:
    said = [value.encode("ascii", "replace").decode() for value in forwarded]
    assert network("203.0.113.7", *said, trusted=False) == "203.0.113.7"
    assert network("203.0.113.7", *said) == "203.0.113.7"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["198.51.100.1"], "198.51.100.1"),
        (["1.2.3.4, 198.51.100.1"], "198.51.100.1"),
        (["1.2.3.4", "198.51.100.1"], "198.51.100.1"),
        (["1.2.3.4, 198.51.100.1, 10.2.3.4"], "198.51.100.1"),
        (["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
        (["2001:db8:1:2:3::4, 192.168.1.1"], "2001:db8:1:2::/64"),
        (["fd00::7"], "fd00::/64"),
        (["::ffff:198.51.100.1"], "198.51.100.1"),
    ],
)
def test_the_first_hop_from_the_right_that_is_not_trusted_is_the_client(
    forwarded: list[str], client: str
) -> None:
    assert network("10.0.0.1", *forwarded) == client


@pytest.mark.parametrize(
    "forwarded",
    [
        "198.51.100.1, junk",
        "198.51.100.1:80",
        "",
        "unknown",
        ", ".join(["198.51.100.1"] * (HOPS_MAX + 1)),
        "198.51.100.1,",
    ],
)
def test_what_is_malformed_or_too_long_leaves_the_proxy_itself(forwarded: str) -> None:
    assert network("10.0.0.1", forwarded) == "10.0.0.1"


def test_a_proxy_that_says_nothing_is_the_client() -> None:
    assert network("10.0.0.1") == "10.0.0.1"


def test_addresses_of_one_ipv6_network_are_one() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff:2") == "2001:db8::/64"
    assert network("2001:db8:0:1::1") != network("2001:db8::1")
    assert network("::ffff:203.0.113.7") == "203.0.113.7"
    assert network("fe80::1%eth0") == "fe80::/64"


def test_who_comes_without_an_address_is_one_of_many() -> None:
    assert network(None) == network("a.socket") == UNKNOWN


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy", "10.0.0.0/33"])
def test_a_list_of_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0|proxy"):
        networks(text)


def test_a_list_of_networks_may_have_spaces_and_empty_parts() -> None:
    assert [str(each) for each in networks(" 10.0.0.0/8 ,, ::1 ")] == ["10.0.0.0/8", "::1/128"]
