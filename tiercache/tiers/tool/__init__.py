"""Results of tool calls."""
