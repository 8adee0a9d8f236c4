"""Samplers, one per file: frozen objects that turn noise into samples of a field."""
