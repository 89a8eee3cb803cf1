"""The only place that knows ComfyStream's routes, messages, workflows and quirks."""
