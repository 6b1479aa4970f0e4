"""What models cost: the bundled table as data, and the formula."""
