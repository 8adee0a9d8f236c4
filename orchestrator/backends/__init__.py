"""Where bundles run: on this machine, Slurm or Ray."""
