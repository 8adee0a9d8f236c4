"""The actor on a node: a worker that keeps its networks loaded. It works in a thread of its own, so that the actor can
answer calls meanwhile.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

from nag.distributed import free_port

BUSY = 0.05  # of the time on a CPU; less is a process that waits for a disk
SEEN_WITHIN_S = 30.0  # until a new file shows on another machine (NFS caches folders)


class Actor:
    """plan: the name of a plan in the store, which tells it from another of the same path; "": any store will do."""

    def __init__(self, store: str, options: Mapping[str, Any], plan: str) -> None:
        self.store, self.options, self.plan = store, options, plan
        self.bundles: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.messages: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.computed = 0.0  # seconds of CPU by the last answer

    def hello(self) -> dict[str, Any]:
        """Get ready. Returns where this actor runs, and `problem`: why it cannot work here, or ""."""
        import platform

        import ray

        import orchestrator

        where = ray.get_runtime_context()
        about = {
            "host": platform.node(),
            "pid": os.getpid(),
            "node": where.get_node_id(),
            "ip": ray.util.get_node_ip_address(),
            "port": free_port(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "code": os.path.dirname(os.path.abspath(orchestrator.__file__)),
        }
        try:
            problem = self._open()
        except Exception as error:  # noqa: BLE001  (the user is told what the node lacks)
            problem = "".join(traceback.format_exception_only(error)).strip()
        return {**about, "problem": problem}

    def _open(self) -> str:
        """Start the worker. Returns why it cannot start, or ""."""
        from orchestrator.store.layout import plan_name
        from orchestrator.store.store import Store
        from orchestrator.tasks.context import Options

        store = Store(self.store)
        wait_s = 0.0 if self.store.startswith("memory:") else SEEN_WITHIN_S
        if self.plan and not store.appears(plan_name(self.plan), wait_s):
            return f"store {self.store} is not the engine's store here: {plan_name(self.plan)} is not in it"
        import torch

        from orchestrator.execution.worker import Worker

        torch.set_num_threads(1)
        worker = Worker(store, Options(**self.options), self._tell, store)
        threading.Thread(target=self._work, args=(worker,), daemon=True).start()
        return ""

    def join(self, variables: Mapping[str, str]) -> None:
        """Become one of the processes of a training (nag.distributed)."""
        os.environ.update(variables)

    def _work(self, worker: Any) -> None:
        import torch

        torch.set_num_threads(1)  # of this thread
        try:
            while True:
                worker.bundle(self.bundles.get())
        finally:
            os._exit(1)  # without this thread the actor is of no use

    def _tell(self, message: dict[str, Any]) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify()

    def turn(self, bundle: dict[str, Any] | None, wait_s: float, gather_s: float | None) -> list[dict[str, Any]]:
        """Start a bundle, if one is given, and return the messages since the last call, after at most `wait_s`. After
        the first message, collect more for `gather_s` or until the bundle ends; None: wait until it ends. Without
        messages, "busy" tells that this process computed.
        """
        if bundle is not None:
            self.bundles.put(bundle)
        with self.changed:
            self.changed.wait_for(lambda: self.messages, wait_s)
            self.changed.wait_for(lambda: any(m["event"] == "end" for m in self.messages), gather_s)
            messages, self.messages = self.messages, []
        before, self.computed = self.computed, time.process_time()
        if not messages and self.computed - before > BUSY * wait_s:
            return [{"event": "busy"}]
        newest = {m["digest"]: at for at, m in enumerate(messages) if m["event"] == "progress"}
        return [m for at, m in enumerate(messages) if m["event"] != "progress" or newest[m["digest"]] == at]
