"""The state of threads."""
