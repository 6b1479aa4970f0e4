"""Which keys belong to a model, a tool or a tag."""
