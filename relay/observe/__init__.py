"""What operators see: logs now, metrics and events as they come."""
