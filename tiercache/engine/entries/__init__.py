"""What is kept, counted and promised of an entry."""
