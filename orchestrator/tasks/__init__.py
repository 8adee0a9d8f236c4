"""The kinds of task, one per file."""
