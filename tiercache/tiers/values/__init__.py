"""The bytes of entries in Valkey: wire format and compression."""
