"""The trickle protocol: live segments over HTTP. Nothing here knows what the bytes mean."""
