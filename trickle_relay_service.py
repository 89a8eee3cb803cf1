"""Trickle Relay: the command line, and nothing that a module below could do."""
