"""Where a server's answer may make the relay send media to.

The ICE candidates of an answer are addresses that the relay sends packets to, before anybody has
shown that they are the answerer's. So they pass the rules that a session's addresses pass: an
answer leads neither to the metadata of a cloud nor, where hosts are listed, anywhere else.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

import structlog
from yarl import URL

from relay.errors import ProcessingError
from relay.host_rules import HostRules, IpAddress
from relay.outbound_http import RESOLVE_TIMEOUT_S, RuledResolver

log = structlog.get_logger(__name__)

MOST_CANDIDATES = 100
"""ComfyStream names each of its addresses once in each of three media sections; every one is
sent to for seconds."""
_SHOWN = 3
_ATTRIBUTE = "a=candidate:"
_ADDRESS_FIELD = 4  # RFC 8839, 5.1


class AnswerCandidates:
    """Takes the candidates out of answers that the relay may not, or need not, send to.

    Args:
        resolver: knows the rules, and the addresses of names.
    """

    def __init__(self, resolver: RuledResolver) -> None:
        self._resolver = resolver
        self._rules: HostRules = resolver.rules

    async def admitted(self, answer: str, *, offer: str, server_url: str) -> str:
        """The answer's SDP, less what is not allowed.

        Args:
            offer: ours, whose candidates are this machine's addresses.
            server_url: where the answer came from.

        Raises:
            ProcessingError: code `host_not_allowed`: it had candidates, and none is left.
        """
        own = await self._addresses(server_url, offer)
        trusted = self._rules.is_own(server_url)
        lines: list[str] = []
        kept = 0
        dropped: list[str] = []
        for line in answer.splitlines():
            if line.startswith(_ATTRIBUTE):
                text = _field(line)
                if kept >= MOST_CANDIDATES or not self._allows(text, own, trusted=trusted):
                    dropped.append(text)
                    continue
                kept += 1
            lines.append(line)
        if not dropped:
            return answer
        shown = sorted(set(dropped))[:_SHOWN]
        log.warning("comfystream.candidates_dropped", dropped=len(dropped), addresses=shown)
        if not kept:
            raise ProcessingError(
                f"ComfyStream's media is at {', '.join(shown)}, which the relay may not send to:"
                " its operator can allow it with RELAY_ALLOWED_HOSTS",
                code="host_not_allowed",
            )
        return "\r\n".join(lines) + "\r\n"

    def _allows(self, text: str, own: set[IpAddress], *, trusted: bool) -> bool:
        address = _address(text)
        if address is None:
            return False  # a name: it would be asked for on the network, by multicast
        return self._rules.allows_media(address, of_server=trusted or address in own)

    async def _addresses(self, server_url: str, offer: str) -> set[IpAddress]:
        """The server's own: what its name leads to, and this machine's if it is on it."""
        url = URL(server_url)
        host = url.host or ""
        found: Iterable[str] = [host]
        if _address(host) is None:
            try:
                async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                    results = await self._resolver.resolve(host, url.port or 0, socket.AF_UNSPEC)
            except OSError:  # TimeoutError is one
                results = []
            found = [result["host"] for result in results]
        own = {address for text in found if (address := _address(text)) is not None}
        if any(address.is_loopback for address in own):
            ours = (_field(line) for line in offer.splitlines() if line.startswith(_ATTRIBUTE))
            own |= {address for text in ours if (address := _address(text)) is not None}
        return own


def _field(line: str) -> str:
    fields = line.removeprefix(_ATTRIBUTE).split()
    return fields[_ADDRESS_FIELD][:60] if len(fields) > _ADDRESS_FIELD else ""


def _address(text: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
