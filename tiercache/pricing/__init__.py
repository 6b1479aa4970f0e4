"""Prices of models: the bundled table as data, and the formula of the cost."""
