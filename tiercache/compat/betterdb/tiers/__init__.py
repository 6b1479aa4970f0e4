"""The three tiers of betterdb-agent-cache."""
