"""Slurm: job arrays through submitit, waves of them as files of the store."""
