"""The form of entries in Valkey: compression, and the fields that llm and tool entries share."""
