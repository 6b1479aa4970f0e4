"""From arguments to keys."""
