"""The sessions' HTTP client: whom it connects to, and whose certificates it believes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from relay import outbound_http
from relay.comfystream.signalling import exchange_offer
from relay.errors import ProcessingError
from relay.host_rules import HostNotAllowedError, HostRules
from relay.outbound_http import RuledResolver, open_http
from relay.trickle.errors import RefusedError, TrickleError
from relay.trickle.publisher import TricklePublisher
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions
from tests.integration.tls_files import self_signed_pem, server_context


class FakeDns(AbstractResolver):
    """Answers with what it was given, as a DNS server of an attacker's may."""

    def __init__(self, addresses: Mapping[str, list[str]]) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if not self.addresses[host]:
            raise OSError(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0
            )
            for address in self.addresses[host]
        ]

    async def close(self) -> None: ...


def open_client(rules: HostRules, **tls: Any) -> aiohttp.ClientSession:
    return open_http(RuledResolver(rules), **tls)


@asynccontextmanager
async def web_server(pem: Path | None = None) -> AsyncIterator[tuple[int, list[str]]]:
    """A server on 127.0.0.1; its port, and the requests that reached it."""
    seen: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(f"{request.method} {request.host} {request.path}")
        if target := request.query.get("to"):
            raise web.HTTPTemporaryRedirect(target)
        return web.Response(text="here")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(pem) if pem else None)
        await site.start()
        yield runner.addresses[0][1], seen
    finally:
        await runner.cleanup()


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names resolve to, in place of the system's resolution."""
    addresses: dict[str, list[str]] = {}
    monkeypatch.setattr(outbound_http.aiohttp, "ThreadedResolver", lambda: FakeDns(addresses))
    return addresses


async def test_a_name_that_resolves_to_a_forbidden_address_is_not_connected_to(
    dns: dict[str, list[str]],
) -> None:
    """The name is allowed, the address is the server's own loopback: nothing reaches it."""
    dns["camera.example"] = ["127.0.0.1"]
    async with web_server() as (port, seen):
        async with open_client(HostRules(["10.0.0.0/8"])) as http:
            with pytest.raises(aiohttp.ClientConnectorDNSError) as caught:
                await http.get(f"http://camera.example:{port}/x")
        assert isinstance(caught.value.os_error, HostNotAllowedError)
        assert seen == []


async def test_a_wildcard_does_not_open_metadata_addresses(dns: dict[str, list[str]]) -> None:
    """Whoever owns a name below it may point it anywhere."""
    dns["a.example"] = ["169.254.169.254"]
    async with open_client(HostRules(["*.example", "a.example"])) as http:
        with pytest.raises(aiohttp.ClientConnectorDNSError, match="RELAY_ALLOWED_HOSTS"):
            await http.get("http://a.example/x")


async def test_addresses_that_are_allowed_are_used_and_the_others_left(
    dns: dict[str, list[str]],
) -> None:
    """A name with good and bad addresses is reached on the good ones only."""
    dns["mixed.example"] = ["169.254.169.254", "127.0.0.1"]
    async with web_server() as (port, seen):
        async with open_client(HostRules()) as http:
            async with http.get(f"http://mixed.example:{port}/x") as response:
                assert await response.text() == "here"
        assert seen == [f"GET mixed.example:{port} /x"]
        resolved = await RuledResolver(HostRules(), FakeDns(dns)).resolve("mixed.example", port)
        assert [result["host"] for result in resolved] == ["127.0.0.1"]


async def test_an_address_is_checked_as_well_as_a_name() -> None:
    """Addresses are not resolved, so they are looked at before."""
    async with web_server() as (port, seen):
        async with open_client(HostRules(["10.0.0.0/8"])) as http:
            for url in (f"http://127.0.0.1:{port}/x", "http://169.254.169.254/x"):
                with pytest.raises(aiohttp.ClientOSError, match="RELAY_ALLOWED_HOSTS"):
                    await http.get(url)
        assert seen == []


async def test_a_name_is_resolved_at_the_door_where_only_networks_are_allowed(
    dns: dict[str, list[str]],
) -> None:
    """It passes if it leads into one of them; what does not resolve does not."""
    dns["in.example"] = ["10.9.9.9"]
    dns["out.example"] = ["192.168.1.1"]
    dns["nowhere.example"] = []
    resolver = RuledResolver(HostRules(["10.0.0.0/8"]))
    await resolver.check_url("http://in.example/x")
    for name in ("out.example", "nowhere.example"):
        with pytest.raises(HostNotAllowedError, match=name):
            await resolver.check_url(f"http://{name}/x")


async def test_a_redirect_to_elsewhere_is_refused(dns: dict[str, list[str]]) -> None:
    """Even by a caller who follows redirects, each hop is checked."""
    dns["good.example"] = ["127.0.0.1"]
    async with web_server() as (port, seen):
        target = f"http://127.0.0.1:{port}/secret"
        async with open_client(HostRules([f"good.example:{port}"])) as http:
            with pytest.raises(aiohttp.ClientOSError, match="RELAY_ALLOWED_HOSTS"):
                await http.get(f"http://good.example:{port}/x", params={"to": target})
        assert len(seen) == 1


async def subscribe(url: str, http: aiohttp.ClientSession) -> None:
    """Read a channel to its end, patient for a tenth of a second."""
    options = SubscriberOptions(wait_for_channel_s=0.1, retry_budget_s=0.1)
    async with TrickleSubscriber(url, session=http, options=options) as subscriber:
        async for _ in subscriber:
            pass


async def test_trickle_says_why_and_does_not_try_again() -> None:
    """Both roles end at once with the rule's name, and don't try again."""
    async with open_client(HostRules(["10.0.0.0/8"])) as http:
        with pytest.raises(RefusedError, match="RELAY_ALLOWED_HOSTS"):
            await subscribe("http://127.0.0.1:9/in", http)
        with pytest.raises(RefusedError, match="RELAY_ALLOWED_HOSTS"):
            await TricklePublisher("http://127.0.0.1:9/out", session=http).start()


async def test_trickle_and_signalling_follow_no_redirect() -> None:
    """A server that is allowed can't send the relay to one that is not."""
    async with web_server() as (port, seen), open_client(HostRules()) as http:
        target = f"http://127.0.0.1:{port}/secret"
        with pytest.raises(ProcessingError):
            await exchange_offer(
                http,
                f"http://127.0.0.1:{port}/live?to={target}&",
                "v=0",
                prompts=[],
                width=16,
                height=16,
                timeout_s=10,
            )
        url = f"http://127.0.0.1:{port}/out?to={target}"
        with pytest.raises(TrickleError):
            await subscribe(url, http)
        assert seen
        assert not [line for line in seen if "secret" in line]


async def offer_error(http: aiohttp.ClientSession, url: str) -> ProcessingError:
    with pytest.raises(ProcessingError) as caught:
        await exchange_offer(http, url, "v=0", prompts=[], width=16, height=16, timeout_s=10)
    return caught.value


async def test_comfystream_at_a_forbidden_address_is_named_as_that(
    dns: dict[str, list[str]],
) -> None:
    """A server whose name changed its address under us."""
    dns["gpu.example"] = ["169.254.169.254"]
    async with open_client(HostRules()) as http:
        error = await offer_error(http, "http://gpu.example:8889")
    assert error.code == "comfystream_unreachable"
    assert "RELAY_ALLOWED_HOSTS" in error.message


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed_pem(tmp_path_factory.mktemp("tls") / "server.pem")


async def test_certificates_are_verified_unless_told_otherwise(pem: Path, tmp_path: Path) -> None:
    """Default and a foreign authority: refused. The authority's file, the switch: accepted."""
    other = self_signed_pem(tmp_path / "other.pem")
    async with web_server(pem) as (port, _):
        url = f"https://127.0.0.1:{port}/x"
        for trust in ({}, {"tls_ca_file": other}):
            async with open_client(HostRules(), **trust) as http:
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await http.get(url)
        for trust in ({"tls_ca_file": pem}, {"tls_insecure": True}):
            async with open_client(HostRules(), **trust) as http, http.get(url) as response:
                assert await response.text() == "here"


async def test_trickle_uses_the_trust_of_the_client_it_is_given(pem: Path) -> None:
    """A channel's own default, verify, means: as the shared client does."""
    async with web_server(pem) as (port, seen):
        url = f"https://127.0.0.1:{port}/out"
        async with open_client(HostRules()) as http:
            with pytest.raises(RefusedError, match="not trusted"):
                await TricklePublisher(url, session=http).start()
            assert seen == []
        async with open_client(HostRules(), tls_ca_file=pem) as http:
            with pytest.raises(TrickleError):  # it is no trickle server
                await subscribe(url, http)
            assert seen


async def test_what_a_host_sets_for_one_session_is_not_told_for_another() -> None:
    """Cookies are kept for nobody."""
    told: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        told.append(request.headers.get("Cookie"))
        response = web.Response(text="ok")
        response.set_cookie("tenant", "secret")
        return response

    app = web.Application()
    app.router.add_get("/x", answer)
    async with TestServer(app, host="localhost") as server, open_client(HostRules()) as http:
        for _ in range(2):
            (await http.get(f"http://localhost:{server.port}/x")).close()
    assert told == [None, None]
