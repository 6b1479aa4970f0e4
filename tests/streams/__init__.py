"""Tests of ``tiercache.streams``: recordings, and values that arrive in parts."""
