"""Loads, stores and invalidations."""
