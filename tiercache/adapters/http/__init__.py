"""Wrapped clients: requests to model APIs, answered from the cache."""
