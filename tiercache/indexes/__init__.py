"""Indexes: the keys of all entries of a model, a tool or a tag."""
