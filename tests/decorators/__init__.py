"""Tests of decorated functions."""
