"""Ray: bundles on actors, sweeps as jobs."""
