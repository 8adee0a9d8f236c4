"""From a Sweep to its tasks, a pure function; what is done, what is missing."""
