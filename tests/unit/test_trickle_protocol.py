"""Numbers, headers and statuses, and the addresses of channels."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from relay.trickle.channel_url import ChannelUrl, redact_name, redact_url
from relay.trickle.errors import TrickleError
from relay.trickle.protocol import Reply, ReplyKind, parse_number, same_content_type


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("7", 7),
        ("01", 1),
        ("+1", 1),
        ("-1", -1),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
    ],
)
def test_a_number_is_read_as_peers_write_it(text: str, number: int) -> None:
    """Leading zeros and signs are accepted, up to signed 64 bits."""
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "1.0", "0x1", "next", "1_0", "٣", "9223372036854775808", "9" * 5000, "--1"],
)
def test_what_is_not_a_number_is_none(text: str) -> None:
    """Text, other digits and overflow are refused, not guessed."""
    assert parse_number(text) is None


def reply(status: int, **headers: object) -> Reply:
    return Reply.parse(
        status, CIMultiDict({k.replace("_", "-"): str(v) for k, v in headers.items()})
    )


def test_headers_are_read_whatever_their_case_and_nonsense_counts_as_not_sent() -> None:
    """A header that is no natural number is treated like a missing one."""
    read = reply(200, LP_TRICKLE_SEQ=3, lp_trickle_latest="x", Lp_Trickle_Size=-1)
    assert (read.seq, read.latest, read.size) == (3, None, None)


@pytest.mark.parametrize(
    ("parsed", "kind"),
    [
        (reply(200), ReplyKind.OK),
        (reply(404), ReplyKind.NO_CHANNEL),
        (reply(470), ReplyKind.NOT_IN_WINDOW),
        (reply(409), ReplyKind.CONFLICT),
        (reply(500), ReplyKind.RETRY),
        (reply(503), ReplyKind.RETRY),
        (reply(429), ReplyKind.RETRY),
        (reply(400), ReplyKind.REFUSED),
        (reply(401), ReplyKind.REFUSED),
        (reply(301), ReplyKind.REFUSED),
        (reply(200, lp_trickle_closed="terminated", content_length=0), ReplyKind.CLOSED),
        (reply(404, lp_trickle_closed=""), ReplyKind.CLOSED),
        (reply(470, lp_trickle_closed="x"), ReplyKind.CLOSED),
        (reply(200, lp_trickle_closed="terminated", content_length=5), ReplyKind.OK),
        (reply(200, lp_trickle_closed="terminated"), ReplyKind.OK),
    ],
)
def test_each_reply_has_one_meaning(parsed: Reply, kind: ReplyKind) -> None:
    """Closed wins over the status, except where bytes may still follow."""
    assert parsed.kind is kind


def test_content_types_are_compared_without_case_or_parameters() -> None:
    """video/mp2t and video/MP2T are one type."""
    assert same_content_type("video/MP2T", "video/mp2t; charset=x")
    assert not same_content_type("video/mp2t", "audio/mp2t")


def test_a_channel_url_loses_its_slash_and_fragment_and_keeps_the_rest() -> None:
    """An encoded slash in the name and a query survive in every address derived from it."""
    channel = ChannelUrl.parse(" http://host:3389/ai/a%2Fb/?key=v%2Fw#part ")
    assert str(channel.channel) == "http://host:3389/ai/a%2Fb?key=v%2Fw"
    assert str(channel.segment(-1)) == "http://host:3389/ai/a%2Fb/-1?key=v%2Fw"
    assert str(channel.next) == "http://host:3389/ai/a%2Fb/next?key=v%2Fw"


@pytest.mark.parametrize(
    "url",
    [
        *("", "camera", "ftp://host/camera", "http://host/", "http:///x"),
        *("http://[::1/x", "http://host:port/x", "http://host:99999/x"),
    ],
)
def test_what_is_no_channel_url_is_refused_with_an_example(url: str) -> None:
    """The message shows what one looks like."""
    with pytest.raises(TrickleError, match=r"http://127\.0\.0\.1:3389/camera"):
        ChannelUrl.parse(url)


def test_logs_show_no_credentials_and_not_all_of_a_name() -> None:
    """User, password, query and most of a long name are left out; names stay told apart."""
    shown = redact_url("https://user:secret@host:8443/ai/trickle/3f9a77c1e2-input?token=abc")
    assert shown.startswith("https://host:8443/ai/trickle/3f9a77~")
    assert not any(part in shown for part in ("user", "secret", "abc", "c1e2"))
    assert redact_url("http://host/camera") == "http://host/camera"
    assert redact_name("channel-a") != redact_name("channel-b")
    assert redact_url("http://[::1]:3389/x") == "http://[::1]:3389/x"
    assert redact_url("http://host:bad/x") == "(unreadable URL)"
