"""What entries look like in Valkey."""
