"""The session tier: the state of agents' threads."""
