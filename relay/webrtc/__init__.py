"""A peer connection: offer, tracks both ways, pace, losses, and its end."""
