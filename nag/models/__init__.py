"""Networks, one per file: frozen descriptions that build a torch module and give its training loss."""
