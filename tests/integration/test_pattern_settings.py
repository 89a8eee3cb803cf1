"""The demo's environment: what it takes, and how it words what it does not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from demo.settings import DemoError, read_settings

FREE = {"DEMO_TRICKLE_PORT": "0", "DEMO_COMFYSTREAM_PORT": "0", "DEMO_RELAY_PORT": "0"}


def test_port_0_takes_three_different_free_ones() -> None:
    """Tests and second demos beside the first choose no numbers."""
    settings = read_settings(FREE)
    ports = {settings.trickle_port, settings.comfystream_port, settings.relay_port}
    assert len(ports) == 3
    assert 0 not in ports


def test_time_and_file_are_read() -> None:
    """DEMO_SECONDS and INPUT; empty, as `make` may pass them on, counts as not set."""
    settings = read_settings({**FREE, "DEMO_SECONDS": "2.5", "INPUT": "clip.mp4"})
    assert (settings.seconds, settings.input_file) == (2.5, Path("clip.mp4"))
    settings = read_settings({**FREE, "DEMO_SECONDS": "", "INPUT": ""})
    assert (settings.seconds, settings.input_file) == (None, None)


@pytest.mark.parametrize("name", sorted(FREE))
def test_a_taken_port_is_named_with_the_way_out(name: str) -> None:
    """Port, purpose, and the variable that chooses another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(DemoError, match=f"^port {port}, for the .* is taken: .*{name}="):
            read_settings({**FREE, name: port})


@pytest.mark.parametrize("text", ["soon", "-1", "0", "nan", "inf"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    """Only a positive, finite number of seconds makes sense."""
    with pytest.raises(DemoError, match=r"^DEMO_SECONDS must be"):
        read_settings({**FREE, "DEMO_SECONDS": text})


@pytest.mark.parametrize("text", ["65536", "-1", "http", "1e3", "\u0663"])
def test_a_port_that_is_none_is_refused(text: str) -> None:
    """Only 0 to 65535 in plain digits."""
    with pytest.raises(DemoError, match=r"^DEMO_RELAY_PORT must be a port"):
        read_settings({**FREE, "DEMO_RELAY_PORT": text})


def test_one_port_for_two_purposes_is_refused() -> None:
    """The second that asks for it finds it taken."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with pytest.raises(DemoError, match="is taken"):
        read_settings({**FREE, "DEMO_TRICKLE_PORT": port, "DEMO_RELAY_PORT": port})
