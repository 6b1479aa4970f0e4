"""The data shared with BetterDB Monitor: the statistics hash, the registry of caches, and the tool policies."""
