"""What stays in a store, what may go, what it weighs."""
