"""The sound that a workflow takes and gives, by time against the pictures."""
