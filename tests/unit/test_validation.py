"""Addresses: which an HTTP client could fetch, and what is said about the others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from relay.validation import check_http_url, check_server_url


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:3389/camera",
        "https://gateway.example/ai/trickle/abc-out",
        "HTTP://EXAMPLE.COM/x",
        "http://user:pass@10.0.0.1:80/a?token=b",
        "http://[::1]:3389/x",
        "http://münchen.example/kanal",
        "http://h/a%2Fb",
        "http://h/" + "a" * 4000,
    ],
)
def test_usable_addresses_pass_unchanged(url: str) -> None:
    """The status shows the address as it was given."""
    assert check_http_url(url) == url


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "empty"),
        ("camera", "http://"),
        ("ftp://h/x", "http://"),
        ("file:///etc/passwd", "http://"),
        ("javascript:alert(1)", "http://"),
        ("http:/h/x", "http://"),
        ("http://", "no host"),
        ("http:///x", "no host"),
        ("http://:80/x", "no host"),
        ("http://h:0/x", "port"),
        ("http://h:65536/x", "port"),
        ("http://h:abc/x", "port"),
        ("http://h:-1/x", "port"),
        ("http://h/x#y", "fragment"),
        ("http://h/x#", "fragment"),
        ("http://h/a b", "spaces"),
        (" http://h/x", "spaces"),
        ("http://h/x\r\nHost: y", "spaces"),
        ("http://h/x\x00", "invisible"),
        ("http://h/\u202ex", "invisible"),
        ("http://h/\ud800", "invisible"),
        ("http://h\\@evil/x", "backslash"),
        ("http://[::1/x", "valid"),
        ("http://h/%zz", "%25"),
        ("http://a..b/x", "valid"),
        ("http://" + "a" * 64 + "/x", "valid"),
        ("http://./x", "valid"),
        ("http://h/" + "a" * 5000, "4096"),
    ],
)
def test_unusable_addresses_are_refused_in_words(url: str, word: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(ValueError, match=word):
        check_http_url(url)


def test_message_never_repeats_the_address() -> None:
    """It may hold credentials, whatever else is wrong with it."""
    with pytest.raises(ValueError, match=r"^(?!.*hunter2)"):
        check_http_url("http://user:hunter2@h:99999/x")


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"http://{text}"))
def test_what_passes_can_be_fetched(text: str) -> None:
    """Any text is either refused with ValueError or an address an HTTP client can use."""
    try:
        checked = check_http_url(text)
    except ValueError:
        return
    url = URL(checked)
    assert url.scheme in ("http", "https")
    assert url.raw_host
    url.raw_host.encode("idna")
    assert url.port


def test_server_address_loses_its_trailing_slash() -> None:
    """Routes are appended to it."""
    assert check_server_url("http://h:8889/live//") == "http://h:8889/live"


def test_server_address_has_no_query() -> None:
    """A route can't be appended to one."""
    with pytest.raises(ValueError, match="query"):
        check_server_url("http://h:8889?x=1")
