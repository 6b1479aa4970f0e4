"""The second level (L2) as a protocol, and the ordered queue of writes to L2."""
