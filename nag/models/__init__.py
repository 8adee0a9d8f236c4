"""Networks, one a file: frozen descriptions that build a torch module."""
