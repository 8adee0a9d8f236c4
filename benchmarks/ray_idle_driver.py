"""The driver of benchmarks/ray_blocks.py: its actors take no time."""

from __future__ import annotations

import os
from typing import Any

from orchestrator.backends.ray import driver


class Idle:
    """A fake actor that finishes every step at once, with the `turn` of the real one."""

    def __init__(self, store: str, options: dict[str, Any], plan: str) -> None: ...

    def hello(self) -> dict[str, Any]:
        import ray

        node = ray.get_runtime_context().get_node_id()
        return {"host": "here", "pid": os.getpid(), "node": node, "gpus": "", "code": "", "problem": ""}

    def turn(self, bundle: dict[str, Any] | None, wait_s: float, gather_s: float) -> list[dict[str, Any]]:
        assert bundle is not None
        said = [{"id": bundle["id"], "event": "step", "digest": d, "blocks": b} for d, b in bundle["steps"]]
        return [*said, {"id": bundle["id"], "event": "end", "outcome": "done"}]


if __name__ == "__main__":
    driver.Actor = Idle  # type: ignore[misc, assignment]
    driver.main()
