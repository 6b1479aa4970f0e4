"""This process: its memory, its loads, the right to store."""
