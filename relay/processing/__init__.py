"""What makes one frame of another: the ComfyStream server, and what is shown without it."""
