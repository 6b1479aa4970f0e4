"""Tests of the ways over from other libraries."""
