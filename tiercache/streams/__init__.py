"""Values that arrive in parts: recordings, which callers follow while they are made."""
