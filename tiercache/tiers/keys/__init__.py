"""Keys: canonical JSON, exact fingerprints, known keys, key handles."""
