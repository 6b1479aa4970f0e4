"""The chaos proxy: a TCP proxy in front of a Valkey that fails on demand, as networks do."""
