"""What goes in and out beside the media: control, events, text."""
