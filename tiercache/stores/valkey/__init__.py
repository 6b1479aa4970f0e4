"""The second level on Valkey. No other package imports valkey."""
