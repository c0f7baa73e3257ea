"""Whose address counts."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redoubt_guard import client

TRUSTED = client.networks(["198.51.100.0/24", "2001:db8:ffff::/48"])


@pytest.mark.parametrize(
    ("forwarded", "found"),
    [
        # nginx's own word, the last one, whatever the client has put before it.
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        # A trusted proxy spoke to nginx: the entry before its own, and no further.
        ("203.0.113.9, 198.51.100.1", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 198.51.100.1", "203.0.113.9"),
        ("1.1.1.1,203.0.113.9,198.51.100.2,  2001:db8:ffff::1", "203.0.113.9"),
        # Proxies alone: the farthest of them.
        ("198.51.100.9, 198.51.100.1", "198.51.100.9"),
        # Nonsense ends the walk at what is known.
        ("203.0.113.9, unknown, 198.51.100.1", "198.51.100.1"),
        ("203.0.113.9, , 198.51.100.1", "198.51.100.1"),
        ("unknown", None),
        ("", None),
        # Forms of an address.
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("::FFFF:198.51.100.1, 198.51.100.1", "198.51.100.1"),
        ("203.0.113.9, ::ffff:198.51.100.1", "203.0.113.9"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("203.0.113.9:51234", "203.0.113.9"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_forwarded(forwarded, found):
    assert client.address({"HTTP_X_FORWARDED_FOR": forwarded, "REMOTE_ADDR": ""}, TRUSTED) == found


@pytest.mark.parametrize(("peer", "found"), [("192.0.2.1", "192.0.2.1"), ("", None), ("unix:", None), ("::ffff:192.0.2.1", "192.0.2.1")])
def test_without_the_header_it_is_the_peer(peer, found):
    assert client.address({"REMOTE_ADDR": peer}, TRUSTED) == found
    assert client.address({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": "unknown"}, TRUSTED) == found


def test_the_peer_never_wins_over_the_header():
    """Some servers put the left-most entry there."""
    assert client.address({"REMOTE_ADDR": "1.1.1.1", "HTTP_X_FORWARDED_FOR": "1.1.1.1, 203.0.113.9"}, TRUSTED) == "203.0.113.9"


@given(st.text())
def test_nobody_but_the_proxy_is_believed(sent):
    assert client.address({"HTTP_X_FORWARDED_FOR": f"{sent}, 203.0.113.9"}, TRUSTED) == "203.0.113.9"


@given(st.ip_addresses())
def test_a_normal_form_is_one(address):
    normal = client.normalise(str(address))
    assert client.normalise(normal) == normal
    assert ipaddress.ip_address(normal) in (address, getattr(address, "ipv4_mapped", None))


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text):
    found = client.normalise(text)
    assert found is None or ipaddress.ip_address(found)


@pytest.mark.parametrize(
    ("ip", "place"),
    [(None, ""), ("203.0.113.9", "203.0.113.9"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), ("2001:db8:1:2::", "2001:db8:1:2::/64")],
)
def test_place(ip, place):
    assert client.prefix(ip) == place


def test_outside_a_request_there_is_no_visit():
    assert client.current() is None
    token = client.enter(client.Visit(None, "203.0.113.9"))
    assert client.current().ip == "203.0.113.9"
    client.leave(token)
    assert client.current() is None
