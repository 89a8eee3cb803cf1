"""TLS: verified by default, and each way to say otherwise, for both roles."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relay.trickle.errors import RefusedError
from relay.trickle.http_client import ConnectionOptions, new_session
from relay.trickle.protocol import EndReason
from relay.trickle.publisher import TricklePublisher
from relay.trickle.publisher_options import PublisherOptions
from relay.trickle.server import TrickleServer
from relay.trickle.server_options import ServerOptions
from relay.trickle.subscriber import TrickleSubscriber
from relay.trickle.subscriber_options import SubscriberOptions

Tls = ssl.SSLContext | aiohttp.Fingerprint | bool


@dataclass(frozen=True)
class Certificate:
    pem: Path
    """Certificate and key in one file."""
    sha256: bytes


def self_signed(directory: Path, name: str) -> Certificate:
    """A certificate for 127.0.0.1 that no system trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = directory / f"{name}.pem"
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Certificate(pem, hashlib.sha256(der).digest())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"), "trickle")


@pytest.fixture(scope="module")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return self_signed(tmp_path_factory.mktemp("tls"), "other")


@pytest.fixture
async def server(certificate: Certificate) -> AsyncIterator[TrickleServer]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.pem)
    async with TrickleServer(options=ServerOptions(tls=context)) as server:
        assert server.url.startswith("https://")
        yield server


def clients(
    url: str, tls: Tls, session: aiohttp.ClientSession | None = None
) -> tuple[TricklePublisher, TrickleSubscriber]:
    connection = ConnectionOptions(tls=tls)
    return (
        TricklePublisher(url, options=PublisherOptions(connection=connection), session=session),
        TrickleSubscriber(
            url, start=0, options=SubscriberOptions(connection=connection), session=session
        ),
    )


async def stream_once(url: str, tls: Tls, session: aiohttp.ClientSession | None = None) -> None:
    """A segment from publisher to subscriber."""
    publisher, subscriber = clients(url, tls, session)
    async with asyncio.timeout(10), publisher, subscriber:
        async with await publisher.next_segment() as segment:
            await segment.write(b"sec")
            assert segment.write_nowait(b"ret")
        assert await (await anext(subscriber)).read() == b"secret"


async def assert_refused(url: str, tls: Tls, session: aiohttp.ClientSession | None = None) -> None:
    """At once, for both roles: asking again does not make a certificate better."""
    publisher, subscriber = clients(url, tls, session)
    async with asyncio.timeout(10):
        with pytest.raises(RefusedError, match="TLS certificate"):
            await publisher.start()
        with pytest.raises(RefusedError, match="TLS certificate"):
            await anext(subscriber)
    assert publisher.end_reason is subscriber.end_reason is EndReason.REFUSED
    await subscriber.aclose()


async def test_a_certificate_nobody_vouches_for_is_refused(server: TrickleServer) -> None:
    """By default, as everywhere else."""
    await assert_refused(server.url + "camera", True)


async def test_verification_can_be_left_out(server: TrickleServer) -> None:
    """Only where it is said for this channel."""
    await stream_once(server.url + "camera", False)


async def test_an_authority_of_ones_own(
    server: TrickleServer, certificate: Certificate, other_certificate: Certificate
) -> None:
    """The right one is trusted, another one is not."""
    right = ssl.create_default_context(cafile=certificate.pem)
    await stream_once(server.url + "camera", right)
    wrong = ssl.create_default_context(cafile=other_certificate.pem)
    await assert_refused(server.url + "camera", wrong)


async def test_a_pinned_certificate(
    server: TrickleServer, certificate: Certificate, other_certificate: Certificate
) -> None:
    """This one and no other, whoever signed it."""
    await stream_once(server.url + "camera", aiohttp.Fingerprint(certificate.sha256))
    await assert_refused(server.url + "camera", aiohttp.Fingerprint(other_certificate.sha256))


async def test_channels_of_one_session_have_policies_of_their_own(server: TrickleServer) -> None:
    """Leaving verification out for one does not leave it out for the next."""
    async with new_session() as session:
        await stream_once(server.url + "camera", False, session)
        await assert_refused(server.url + "camera", True, session)
