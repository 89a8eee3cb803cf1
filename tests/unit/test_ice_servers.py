"""Which STUN and TURN servers a connection is given."""

from __future__ import annotations

import json

import pytest
from aiortc.rtcicetransport import parse_stun_turn_uri

from relay.errors import ProcessingError
from relay.validation import is_ice_url
from relay.webrtc.ice_servers import IceServers, parse_token

TURN = {"urls": ["turn:a:3478", "turns:a:443"], "username": "u", "credential": "c"}


async def test_none_are_used_unless_asked_for() -> None:
    """No public STUN server, no delay."""
    assert await IceServers().for_connection() == []


async def test_one_of_each_kind_and_the_next_turn_address_after_a_failure() -> None:
    """aiortc uses one of each kind; which TURN address moves on, around the list."""
    servers = IceServers([{"urls": "stun:s"}, TURN, {"urls": "stun:t"}, {"urls": "turn:b"}])
    taken = []
    for _ in range(4):
        stun, turn = await servers.for_connection()
        assert stun == {"urls": "stun:s"}
        taken.append(turn["urls"])
        if turn["urls"] != "turn:b":
            assert (turn["username"], turn["credential"]) == ("u", "c")
        servers.connection_failed()
    assert taken == ["turn:a:3478", "turns:a:443", "turn:b", "turn:a:3478"]


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("stun:host", True),
        ("stun:host:3478", True),
        ("turn:host:3478?transport=tcp", True),
        ("turn:host?transport=udp", True),
        ("turns:host:443?transport=tcp", True),
        ("stun:host?transport=udp", False),
        ("stuns:host", False),
        ("turn:[::1]:3478", False),
        ("turn:user@host", False),
        ("turn:host:port", False),
        ("turn:host?transport=sctp", False),
        ("http://host", False),
        ("", False),
    ],
)
def test_addresses_that_can_be_used(url: str, usable: bool) -> None:
    """Those that aiortc reads, and does not then leave out without a word."""
    assert is_ice_url(url) is usable
    if usable:
        assert parse_stun_turn_uri(url)["host"] == "host"


def test_a_token_is_read() -> None:
    """Twilio writes the address twice, and the life of the credentials as text."""
    answer = {
        "ttl": "86400",
        "ice_servers": [
            {"url": "stun:global.example:3478", "urls": "stun:global.example:3478"},
            {
                "url": "turn:global.example:3478?transport=udp",
                "username": "u",
                "urls": "turn:global.example:3478?transport=udp",
                "credential": "c",
            },
        ],
    }
    servers, ttl_s = parse_token(json.dumps(answer).encode())
    assert ttl_s == 86400
    assert servers == [
        {"urls": "stun:global.example:3478"},
        {"urls": "turn:global.example:3478?transport=udp", "username": "u", "credential": "c"},
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"ttl": "x", "ice_servers": []}',
        b'{"ttl": "nan", "ice_servers": []}',
        b'{"ttl": 60, "ice_servers": [{}]}',
        b'{"ttl": 60, "ice_servers": ["turn:x"]}',
        b'{"ttl": 60, "ice_servers": [{"urls": "http://x"}]}',
        b'{"ttl": -1, "ice_servers": []}',
    ],
)
def test_what_is_no_token_is_said_to_be_none(raw: bytes) -> None:
    """An error with a code, whatever comes."""
    with pytest.raises(ProcessingError) as caught:
        parse_token(raw)
    assert caught.value.code == "ice_servers_unavailable"
