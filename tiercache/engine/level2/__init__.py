"""The second level as a protocol, and the ordered queue of writes to it."""
