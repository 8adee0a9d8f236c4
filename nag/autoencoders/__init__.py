"""Autoencoders, one per file: images to latents and back."""
