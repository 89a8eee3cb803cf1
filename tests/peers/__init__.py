"""Trickle peers that are not ours: a wire-level server and client, and the faults of others.

Everything here speaks HTTP by hand, so that a test decides about each byte and each cut.
"""
