"""What a cache holds for one event loop."""
