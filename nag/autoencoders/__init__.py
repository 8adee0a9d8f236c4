"""Autoencoders, one a file: images to latents and back."""
