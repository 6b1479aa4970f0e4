"""Entries: the records in L1, the rules and counters of their tiers, and the context of one operation."""
