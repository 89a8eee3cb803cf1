"""Credentials in text: masked where they are, everything else left alone."""

from __future__ import annotations

import pytest

from relay.redaction import mask_credentials


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://user:hunter2@h/x", "http://***@h/x"),
        ("http://hunter2@h/x", "http://***@h/x"),
        ("http://u:p@ss@h/x", "http://***@h/x"),
        ("https://h/x?token=hunter2&n=1", "https://h/x?token=***&n=1"),
        ("https://h/x?n=1&X-Amz-Signature=hunter2", "https://h/x?n=1&X-Amz-Signature=***"),
        ("https://h/x?%74oken=hunter2", "https://h/x?%74oken=***"),
        ("https://h/x?api_key=hunter2#y", "https://h/x?api_key=***#y"),
        (
            "two: http://a:hunter2@b http://c:hunter2@d?sig=hunter2.",
            "two: http://***@b http://***@d?sig=***",
        ),
        ("Authorization: Bearer hunter2", "Authorization: Bearer ***"),
        ("GET '/x?password=hunter2' failed", "GET '/x?password=***' failed"),
    ],
)
def test_masks(text: str, masked: str) -> None:
    """User names, passwords, tokens and signatures are gone."""
    assert mask_credentials(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "http://h:80/x?stream=a&width=512",
        "http://h/user@example",
        "width=512 is odd",
        "mail me@example.com",
        "",
    ],
)
def test_leaves_the_rest(text: str) -> None:
    """What is no credential is shown."""
    assert mask_credentials(text) == text
