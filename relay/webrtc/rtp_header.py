"""The fixed header of an RTP packet (RFC 3550, 5.1)."""

from __future__ import annotations

import struct

FIXED = struct.Struct("!BBHLL")
"""Flags, marker and payload type, sequence number, timestamp, SSRC."""
VERSION_2, PADDING, EXTENSION, CSRC_COUNT = 0x80, 0x20, 0x10, 0x0F
"""Of the flags."""
MARKER = 0x80
SEQUENCE_MODULUS = 1 << 16
