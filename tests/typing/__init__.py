"""Programs of users, checked by two type checkers."""
