"""Second levels: each is a Level2 of the engine."""
