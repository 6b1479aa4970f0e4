"""Keys from arguments: canonical JSON, fingerprints, known keys."""
