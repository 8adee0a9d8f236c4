"""From a plan to finished tasks: the engine, its workers, and retries."""
