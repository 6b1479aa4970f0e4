"""The tiers: keys from arguments, entries from values and back. The tiers import no socket and no metric library."""
