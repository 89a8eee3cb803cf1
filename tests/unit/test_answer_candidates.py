"""Where a server's answer may make the relay send media to."""

from __future__ import annotations

import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from relay.errors import ProcessingError
from relay.host_rules import HostRules
from relay.outbound_http import RuledResolver
from relay.webrtc.answer_candidates import MOST_CANDIDATES, AnswerCandidates

OURS = ("10.9.9.9",)
NAMES = {"gpu.example.com": ["203.0.113.7", "2001:db8::7"], "localhost": ["127.0.0.1"]}


class Names(AbstractResolver):
    """Knows `NAMES`."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in NAMES:
            raise OSError(f"no {host}")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in NAMES[host]
        ]

    async def close(self) -> None:
        """Nothing is open."""


def sdp(*addresses: str) -> str:
    lines = ["v=0", "m=video 9 UDP/TLS/RTP/SAVPF 99"]
    lines += [f"a=candidate:{n} 1 udp 99 {a} 5000 typ host" for n, a in enumerate(addresses)]
    return "\r\n".join([*lines, "a=end-of-candidates", ""])


async def admitted(rules: HostRules, server_url: str, *addresses: str) -> list[str]:
    """What is left of an answer's candidates."""
    candidates = AnswerCandidates(RuledResolver(rules, Names()))
    answer = await candidates.admitted(sdp(*addresses), offer=sdp(*OURS), server_url=server_url)
    rest = [line for line in answer.splitlines() if not line.startswith("a=candidate:")]
    assert rest == sdp().splitlines()
    return [line.split()[4] for line in answer.splitlines() if line.startswith("a=candidate:")]


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "100.100.100.200",
        "224.0.0.251",
        "ff02::fb",
        "255.255.255.255",
        "0.0.0.0",
        "::",
        "2852039166",
        "0xa9.254.169.254",
        "printer.local",
        "metadata.google.internal",
    ],
)
async def test_no_answer_leads_to_what_is_protected(address: str) -> None:
    """Nor to everybody at once, nor to a name; with rules or without, whoever the server is."""
    for rules in (
        HostRules(),
        HostRules(["*"]),
        HostRules(["0.0.0.0/0", "::/0"]),
        HostRules(["203.0.113.7"], own=["http://203.0.113.7:8889"]),
    ):
        url = "http://203.0.113.7:8889"
        assert await admitted(rules, url, "203.0.113.7", address) == ["203.0.113.7"]
        with pytest.raises(ProcessingError, match="RELAY_ALLOWED_HOSTS") as raised:
            await admitted(rules, url, address)
        assert raised.value.code == "host_not_allowed"


async def test_without_rules_every_ordinary_address_is_admitted() -> None:
    """A server behind a router names addresses of its own network; they do no harm."""
    addresses = ["10.0.0.7", "192.168.1.7", "203.0.113.7", "2001:db8::7", "127.0.0.1"]
    assert await admitted(HostRules(), "http://gpu.example.com", *addresses) == addresses


@pytest.mark.parametrize(
    ("rules", "server", "admits"),
    [
        (["gpu.example.com"], "http://gpu.example.com:8889", ["203.0.113.7", "2001:db8::7"]),
        (["*.example.com:8889"], "http://gpu.example.com:8889", ["203.0.113.7", "2001:db8::7"]),
        (["203.0.113.7:8889"], "http://203.0.113.7:8889", ["203.0.113.7"]),
        (["10.0.0.0/8", "other.com"], "http://other.com", ["10.9.9.9", "10.0.0.5"]),
        (["10.0.0.0/8:8889", "other.com"], "http://other.com", ["10.9.9.9", "10.0.0.5"]),
        (["localhost"], "http://localhost:8889", ["127.0.0.1", "10.9.9.9"]),
        (["127.0.0.1"], "http://127.0.0.1:8889", ["127.0.0.1", "10.9.9.9"]),
        (["*:443"], "https://other.com", ["every one"]),
    ],
)
async def test_with_rules_an_answer_names_the_server_or_what_is_allowed(
    rules: list[str], server: str, admits: list[str]
) -> None:
    """What the server's name leads to, this machine's own addresses where the server is on it, and
    networks that are listed, on whatever port."""
    every = ["127.0.0.1", "10.9.9.9", "10.0.0.5", "203.0.113.7", "198.51.100.1", "2001:db8::7"]
    expected = every if admits == ["every one"] else [a for a in every if a in admits]
    assert await admitted(HostRules(rules), server, *every) == expected


async def test_the_operators_own_server_may_be_anywhere() -> None:
    """Its media may come through a TURN server that no rule names."""
    rules = HostRules(["trickle.example"], own=["http://gpu.example.com:8889"])
    assert await admitted(rules, "http://gpu.example.com:8889", "198.51.100.1") == ["198.51.100.1"]
    with pytest.raises(ProcessingError):
        await admitted(rules, "http://gpu.example.com:8890", "198.51.100.1")


async def test_an_answer_that_names_a_crowd_is_cut_short() -> None:
    """Each candidate is sent to for seconds: an answer is no list of whom to flood."""
    crowd = [f"203.0.113.{n % 250}" for n in range(MOST_CANDIDATES + 50)]
    kept = await admitted(HostRules(), "http://gpu.example.com", *crowd)
    assert kept == crowd[:MOST_CANDIDATES]


async def test_an_answer_without_candidates_is_left_as_it_is() -> None:
    """Whether it leads anywhere is found by trying."""
    assert await admitted(HostRules(["gpu.example.com"]), "http://gpu.example.com") == []
