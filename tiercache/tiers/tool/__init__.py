"""The tool tier: results of tool calls."""
