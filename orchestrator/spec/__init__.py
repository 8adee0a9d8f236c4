"""From YAML to a Sweep. Nothing here knows the store."""
