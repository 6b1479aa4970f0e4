"""Coherence between processes: leases, announcements of changes, and trust in L1."""
