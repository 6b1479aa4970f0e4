"""The runtime: the parts of a cache that belong to one event loop."""
