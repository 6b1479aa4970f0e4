"""Adapters: the cache behind the interfaces of other libraries."""
