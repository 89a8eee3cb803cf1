"""Changes of a session that runs: read, merged, put in one order."""
