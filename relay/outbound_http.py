"""The HTTP client that all sessions share: its connections, TLS, and whom it may talk to.

The rules are applied twice, because each way around one of them is closed by the other: to
every request's host, addresses among them, before a connection is looked for; and to every
address that a name resolves to, which is then the address connected to. Redirects are not
followed by those who use this client; followed ones would pass the same two checks.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from relay.host_rules import HostNotAllowedError, HostRules
from relay.tls import tls_trust

DNS_CACHE_S = 60
CONNECT_TIMEOUT_S = 10.0
RESOLVE_TIMEOUT_S = 5.0


def open_http(
    resolver: RuledResolver, *, tls_ca_file: Path | None = None, tls_insecure: bool = False
) -> aiohttp.ClientSession:
    """A client without a limit on connections or a time limit on whole requests: long polls
    and open POSTs are many, idle and long-lived by design. Inside the event loop.

    Args:
        tls_ca_file: authorities trusted beside the system's, PEM.
        tls_insecure: any certificate will do.

    Raises:
        ValueError: `tls_ca_file` can't be used.
    """
    connector = aiohttp.TCPConnector(
        limit=0,
        ttl_dns_cache=DNS_CACHE_S,
        resolver=resolver,
        ssl=tls_trust(tls_ca_file, insecure=tls_insecure),
    )

    async def check_host(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        resolver.rules.check_url(request.url)
        return await handler(request)

    return aiohttp.ClientSession(
        connector=connector,
        # What a host sets for one session is no business of another's.
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        middlewares=(check_host,),
    )


class RuledResolver(AbstractResolver):
    """The system's name resolution, less the addresses that the rules forbid.

    Args:
        system: what resolves; the system's by default.
    """

    def __init__(self, rules: HostRules, system: AbstractResolver | None = None) -> None:
        self.rules = rules
        self._system = system or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses to connect to.

        Raises:
            OSError: there are none; `HostNotAllowedError` if that is the rules' doing.
        """
        found = await self._system.resolve(host, port, family)
        allowed = [
            result
            for result in found
            if self.rules.allows_address(host, _address(result["host"]), port)
        ]
        if found and not allowed:
            raise HostNotAllowedError(host)
        return allowed

    async def check_url(self, url: str) -> None:
        """Whether the relay would connect there, as far as it can be told beforehand.

        Raises:
            HostNotAllowedError: it would not, or the name that decides does not resolve.
        """
        if self.rules.check_url(url):
            return
        parsed = URL(url)
        host = parsed.host or ""
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                await self.resolve(host, parsed.port or 0, socket.AF_UNSPEC)
        except HostNotAllowedError:
            raise
        except OSError as error:  # TimeoutError is one
            raise HostNotAllowedError(host) from error

    async def close(self) -> None:
        await self._system.close()


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text.partition("%")[0])
