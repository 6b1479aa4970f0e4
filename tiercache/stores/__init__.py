"""Second levels."""
