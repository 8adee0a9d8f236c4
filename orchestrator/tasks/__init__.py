"""The kinds of task, one a file."""
