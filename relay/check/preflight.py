"""Looks, before the relay serves anybody, whether it could: what `check` on the command line tells.

Each check gives findings, a line each, with a remedy for what is not as it should be. Nothing is
changed anywhere: connections are closed again, a trickle channel that was made is deleted.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from yarl import URL

from relay.check.peers import check_comfystream, check_trickle
from relay.comfystream.prompt_library import PromptLibrary
from relay.comfystream.workflows import TextWorkflowError
from relay.config.settings import Settings, VideoEncoderName, host_rules, servers
from relay.config.sources import LoadedSettings
from relay.config.values import parse_ports
from relay.config.warnings import security_warnings
from relay.errors import RelayError
from relay.media.encoder_choice import AUTO, EncoderChoice, choose_encoder
from relay.media.self_test import TESTS, try_codec
from relay.outbound_http import RuledResolver, open_http
from relay.redaction import mask_credentials
from relay.resources import PipelineResources
from relay.validation import check_http_url

RESOLVE_TIMEOUT_S = 5.0
_NOT_NEEDED = {"state_dir": None, "resume": False, "text_workflow": None, "workflow_dir": None}
"""Settings without which the peers are tried: the journal belongs to a relay that may run, and
files are looked at by themselves."""


class Level(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    WARN = "warn"
    """The relay works, and perhaps not as meant."""
    FAIL = "FAIL"
    """It does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    level: Level
    what: str
    remedy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"level": self.level.value, "what": self.what, "remedy": self.remedy}

    def __str__(self) -> str:
        return f"{self.level.value:<4} {self.what}" + f": {self.remedy}" * bool(self.remedy)


async def preflight(
    loaded: LoadedSettings, comfystream_urls: Sequence[str], trickle_url: str | None
) -> AsyncGenerator[Finding, None]:
    """All checks, in the order in which a failure would matter.

    Args:
        comfystream_urls: servers to try; those of the settings if there are none.
        trickle_url: a trickle server's address, whose channels the relay is to read and write.
    """
    settings = loaded.settings
    for finding in _config(loaded):
        yield finding
    for name in TESTS:
        problem = await asyncio.to_thread(try_codec, name)
        yield _finding(f"codec {name}", problem, "install the av wheel of requirements.txt")
    if (wanted := settings.video_encoder) is not VideoEncoderName.LIBX264:
        yield _encoder_finding(await asyncio.to_thread(choose_encoder, wanted.value))
    for finding in _sockets(settings):
        yield finding
    given = [("--comfystream-url", url) for url in comfystream_urls]
    given += [("--trickle-url", trickle_url)] if trickle_url else []
    faults = dict(_faulty(given))
    for fault in faults.values():
        yield fault
    urls = [url for url in comfystream_urls or servers(settings) if url not in faults]
    trickle_url = None if trickle_url in faults else trickle_url
    resolver = RuledResolver(host_rules(settings))
    http = open_http(resolver, tls_ca_file=settings.tls_ca_file, tls_insecure=settings.tls_insecure)
    resources = PipelineResources(settings.model_copy(update=_NOT_NEEDED), http)
    try:
        every = [*urls, trickle_url] if trickle_url else urls
        for url in {(URL(url).host, URL(url).port): url for url in every}.values():
            async for finding in _host(url, resolver):
                yield finding
        for url in urls:
            what = f"ComfyStream {mask_credentials(url)}"
            async for said, problem, remedy in check_comfystream(url.rstrip("/"), resources):
                yield _finding(f"{what} {said}", problem, remedy)
        if trickle_url:
            what = f"trickle server {mask_credentials(trickle_url)}"
            async for said, problem, remedy in check_trickle(trickle_url, http):
                yield _finding(f"{what} {said}", problem, remedy)
    finally:
        await resources.aclose()


def _faulty(given: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Finding]]:
    """Which of these addresses, named by their options, can't be used."""
    for option, url in given:
        try:
            check_http_url(url)
        except ValueError as error:
            yield url, Finding(Level.FAIL, f"{option}: {error}", "correct the address")


def _finding(what: str, problem: str | None, remedy: str) -> Finding:
    if problem is None:
        return Finding(Level.OK, what)
    return Finding(Level.FAIL, f"{what}: {problem}", remedy)


def _encoder_finding(choice: EncoderChoice) -> Finding:
    if choice.name == choice.wanted or not choice.refused:
        return Finding(Level.OK, f"video encoder {choice.name} works")
    why = "; ".join(problem for _, problem in choice.refused)
    what = f"video encoder: {choice.name} takes the place of {choice.wanted}: {why}"
    if choice.wanted == AUTO:
        return Finding(Level.OK, f"video encoder {choice.name} works; others do not: {why}")
    return Finding(Level.WARN, what, "look at the card and its driver, or set RELAY_VIDEO_ENCODER")


def _config(loaded: LoadedSettings) -> Iterator[Finding]:
    settings = loaded.settings
    yield Finding(Level.OK, "settings are valid")
    for warning in loaded.warnings:
        yield Finding(Level.WARN, warning, "correct the name, or take it away")
    for warning in security_warnings(settings):
        what, _, remedy = warning.rpartition(": ")
        yield Finding(Level.WARN, what, remedy)
    try:
        PromptLibrary(settings.text_workflow, settings.workflow_dir)
    except TextWorkflowError as error:
        yield Finding(Level.FAIL, f"RELAY_TEXT_WORKFLOW: {error.message}", "correct the file")
    if settings.workflow_dir is not None and not settings.workflow_dir.is_dir():
        yield Finding(
            Level.FAIL, f"RELAY_WORKFLOW_DIR: no folder {settings.workflow_dir}", "make it"
        )
    if settings.state_dir is not None:
        yield _finding(
            f"RELAY_STATE_DIR {settings.state_dir} can be written to",
            _why_not_writable(settings),
            "give the relay's user a folder of its own",
        )


def _why_not_writable(settings: Settings) -> str | None:
    assert settings.state_dir is not None
    folder = settings.state_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # the relay makes what is missing
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return os.strerror(error.errno or 0).lower()


def _sockets(settings: Settings) -> Iterator[Finding]:
    ports = parse_ports(settings.udp_ports) if settings.udp_ports else range(1)
    free = 0
    problem = None
    for port in ports:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("0.0.0.0", port))
                free += 1
        except OSError as error:
            problem = problem or os.strerror(error.errno or 0).lower()
    if not free:
        yield Finding(
            Level.FAIL,
            f"UDP: no port can be bound ({problem})",
            "widen RELAY_UDP_PORTS, or allow the relay to open sockets",
        )
    elif settings.udp_ports:
        yield Finding(Level.OK, f"UDP: {free} of {len(ports)} ports of RELAY_UDP_PORTS are free")
        needed = settings.max_sessions + 1
        if len(ports) < needed or not settings.max_sessions:
            yield Finding(
                Level.WARN,
                f"UDP: {len(ports)} ports are enough for {len(ports) - 1} sessions at a time",
                "widen RELAY_UDP_PORTS, or set RELAY_MAX_SESSIONS to that",
            )
    else:
        yield Finding(Level.OK, "UDP: sockets can be bound")
    for name, port in (
        ("RELAY_PORT", settings.port),
        ("RELAY_METRICS_PORT", settings.metrics_port),
    ):
        if port and (problem := _why_not_free(settings.host, port)):
            yield Finding(
                Level.WARN,
                f"TCP {settings.host} port {port} can't be listened on ({problem})",
                f"choose another {name}, unless that is the relay that runs",
            )


def _why_not_free(host: str, port: int) -> str | None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return None
    except OSError as error:
        return (error.strerror or str(error)).lower()


async def _host(url: str, resolver: RuledResolver) -> AsyncGenerator[Finding, None]:
    """Whether the name resolves, and to where the relay may connect."""
    host = URL(url).host or ""
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_S):
            await asyncio.get_running_loop().getaddrinfo(host, None)
        await resolver.check_url(url)
    except TimeoutError:
        yield Finding(Level.FAIL, f"DNS {host}: no answer", "look at this machine's resolver")
    except socket.gaierror as error:
        yield Finding(
            Level.FAIL, f"DNS {host}: {error.strerror}", "correct the name, or the resolver"
        )
    except (RelayError, OSError) as error:
        yield Finding(
            Level.FAIL,
            f"host {host}, port {URL(url).port}: {getattr(error, 'strerror', None) or error}",
            "name it in RELAY_ALLOWED_HOSTS",
        )
    else:
        where = f"{host}, port {URL(url).port},"
        yield Finding(Level.OK, f"host {where} resolves, and the relay may connect to it")
