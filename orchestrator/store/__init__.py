"""Where results live: whole files, the first writer wins."""
