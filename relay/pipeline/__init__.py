"""One session's chain of stages, from the input channel to the output channel."""
