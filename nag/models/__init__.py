"""Networks, one a file: frozen descriptions that build a torch module, and say what it is trained on."""
