"""Trickle Relay: trickle in, ComfyStream over WebRTC, trickle out."""

__version__ = "0.1.0"
