"""Which STUN and TURN servers a connection uses: the operator's, and Twilio's for the hour.

aiortc asks one STUN and one TURN server and takes the first of each kind that it is given. So
the list that a connection gets names one TURN address, and after a connection that could not be
made the next one names the next: turn:...?transport=tcp is tried where UDP is blocked.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import structlog

from relay.errors import ProcessingError
from relay.http_body import read_body
from relay.validation import is_ice_url

log = structlog.get_logger(__name__)

IceServer = dict[str, Any]
"""`{"urls", "username"?, "credential"?}`, as W3C's RTCIceServer."""

TWILIO_URL = "https://api.twilio.com"
TOKEN_TIMEOUT_S = 10.0
MAX_TOKEN_BYTES = 64 * 1024
FRESH_PART = 0.5
"""Of a token's life: a connection gets one that is good for at least the rest. A relayed
connection lasts as long as its token; after that ComfyStream is connected to anew."""


class TwilioTokens:
    """Twilio's Network Traversal Service: servers with credentials that expire.

    `POST /2010-04-01/Accounts/{sid}/Tokens.json`, as Twilio documents it.

    Args:
        base_url: Twilio's, or a stand-in's.
        now: seconds of a clock that does not go back.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        account_sid: str,
        auth_token: str,
        *,
        base_url: str = TWILIO_URL,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = http
        self._url = f"{base_url}/2010-04-01/Accounts/{account_sid}/Tokens.json"
        self._headers = {"Authorization": aiohttp.encode_basic_auth(account_sid, auth_token)}
        self._now = now
        self._servers: list[IceServer] = []
        self._good_until = float("-inf")
        self._asking = asyncio.Lock()

    async def current(self) -> list[IceServer]:
        """Servers whose credentials are fresh; asks Twilio only when those at hand are not.

        Raises:
            ProcessingError: code `ice_servers_unavailable`.
        """
        async with self._asking:
            if self._now() >= self._good_until:
                asked_at = self._now()
                self._servers, ttl_s = await self._ask()
                self._good_until = asked_at + ttl_s * FRESH_PART
                log.info("ice.twilio_token", servers=len(self._servers), ttl_s=ttl_s)
            return self._servers

    async def _ask(self) -> tuple[list[IceServer], float]:
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                async with self._http.post(
                    self._url, headers=self._headers, allow_redirects=False
                ) as response:
                    if response.status not in (200, 201):
                        raise _unavailable(
                            f"it answered {response.status}; check TWILIO_ACCOUNT_SID and"
                            " TWILIO_AUTH_TOKEN"
                        )
                    raw = await read_body(response, MAX_TOKEN_BYTES)
        except TimeoutError:
            raise _unavailable(f"no answer within {TOKEN_TIMEOUT_S:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise _unavailable(f"it can't be reached: {reason}") from error
        return parse_token(raw)


def parse_token(raw: bytes) -> tuple[list[IceServer], float]:
    """The servers of Twilio's answer, and for how many seconds their credentials are good.

    Raises:
        ProcessingError: code `ice_servers_unavailable`: it is no such answer.
    """
    try:
        token = json.loads(raw)
        servers = [_server(entry) for entry in token["ice_servers"]]
        ttl_s = float(token["ttl"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _unavailable("its answer is not a token") from None
    if not all(is_ice_url(server["urls"]) for server in servers) or not 0 <= ttl_s < math.inf:
        raise _unavailable("its answer is not a token")
    return servers, ttl_s


def _server(entry: dict[str, Any]) -> IceServer:
    names = [name for name in ("urls", "username", "credential") if name in entry]
    return {"urls": ""} | {name: str(entry[name]) for name in names}


class IceServers:
    """What each new connection asks for its way out.

    Args:
        configured: the operator's own, first in line.
        twilio: asked for more, if the operator has an account.
    """

    def __init__(
        self, configured: Sequence[IceServer] = (), twilio: TwilioTokens | None = None
    ) -> None:
        self._configured = list(configured)
        self._twilio = twilio
        self._turn_failures = 0

    async def for_connection(self) -> list[IceServer]:
        """At most one STUN and one TURN address.

        Raises:
            ProcessingError: code `ice_servers_unavailable`.
        """
        servers = [*self._configured, *(await self._twilio.current() if self._twilio else ())]
        single = [
            server | {"urls": url}
            for server in servers
            for url in ([server["urls"]] if isinstance(server["urls"], str) else server["urls"])
        ]
        stun = [server for server in single if server["urls"].startswith("stun")]
        turn = [server for server in single if server["urls"].startswith("turn")]
        return stun[:1] + ([turn[self._turn_failures % len(turn)]] if turn else [])

    def connection_failed(self) -> None:
        """No way was found with the last ones: the next connection gets the next TURN address."""
        self._turn_failures += 1


def _unavailable(why: str) -> ProcessingError:
    return ProcessingError(
        f"no TURN credentials from Twilio: {why}", code="ice_servers_unavailable"
    )
