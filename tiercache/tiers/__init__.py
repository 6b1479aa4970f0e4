"""The tiers: parameters to keys, values to entries and back. Nothing about levels, sockets or metrics."""
