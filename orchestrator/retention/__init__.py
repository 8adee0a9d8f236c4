"""Retention: what stays in a store, what may be deleted, and how much space it takes."""
