"""The tiers: keys from arguments, entries from values and back. They import no socket and no metric library."""
