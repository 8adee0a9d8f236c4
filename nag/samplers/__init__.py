"""Samplers, one a file: frozen objects that turn noise into samples of a field."""
