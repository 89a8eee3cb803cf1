"""The `check` command: each thing that a session will need, tried before one does."""
