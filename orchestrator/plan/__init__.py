"""From a Sweep to its tasks, a pure function; and which tasks are done or missing."""
