"""What is fixed for the life of one stand-in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StandInSettings:
    """The real server's figures by default; shorter times make quick tests."""

    host: str = "127.0.0.1"
    port: int = 8889
    """0 takes any free one."""
    consent_interval_s: float = 5.0
    consent_failures: int = 6
    """A peer that vanished is noticed after about `consent_interval_s` times this."""
    noop_timeout_s: float = 5.0
    """A gap in received media that ends what returns, for connections without prompts."""
    audio_timeout_s: float = 1.0
    """A gap in received audio that ends returned audio, for connections with prompts."""
    safe_reoffer_gap_s: float = 0.8
    """A prompt offer sooner than this after a prompt peer was cleaned up may wedge the server.
    The real one hung up to 0.3 s after, and never in 75 tries 1.0 s after its client closed."""
    start_up_s: float = 0.0
    """Time before the port listens; the real server takes 7-10 s."""
    monitor: bool = False
    """Serve ``/metrics``."""
