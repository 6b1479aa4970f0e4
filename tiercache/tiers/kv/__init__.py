"""The kv tiers: any value, by a key that the caller chooses."""
