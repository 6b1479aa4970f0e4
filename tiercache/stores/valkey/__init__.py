"""The second level on Valkey: the only package that imports valkey."""
