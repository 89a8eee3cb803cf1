"""The names that programs outside import."""

from __future__ import annotations

import importlib

import pytest

import trickle_components


@pytest.mark.parametrize("name", trickle_components.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of `__all__` loads, and from the module that the table says."""
    assert getattr(trickle_components, name).__name__.startswith(name[:1])
    assert name in dir(trickle_components)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("trickle_components", "TrickleSubscriber"),
        ("trickle_components", "TricklePublisher"),
        ("trickle_components", "TrickleStreamDecoder"),
        ("trickle_components", "TrickleSegmentEncoder"),
        ("relay.webrtc_client", "VideoStreamTrack"),
        ("relay.webrtc_client", "WebRTCClient"),
    ],
)
def test_the_names_that_users_know_stay(module: str, name: str) -> None:
    """These are imported by programs that we don't see."""
    assert isinstance(getattr(importlib.import_module(module), name), type)
