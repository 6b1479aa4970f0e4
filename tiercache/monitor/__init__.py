"""What BetterDB Monitor reads and writes: the statistics hash, the registry of caches, the tool policies."""
