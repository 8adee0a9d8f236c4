"""From YAML to a Sweep, without the store."""
