"""What processes tell each other, and what is believed."""
