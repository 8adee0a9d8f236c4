"""Ray: bundles run on actors, a submitted sweep is a Ray job."""
