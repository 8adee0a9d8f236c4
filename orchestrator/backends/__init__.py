"""Where bundles run: this machine, Slurm, Ray."""
