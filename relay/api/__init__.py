"""The HTTP surface, and the only one."""
