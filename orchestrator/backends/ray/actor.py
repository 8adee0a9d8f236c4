"""What lives on a node: a worker that keeps its networks loaded. It works in a thread of its own, so that whoever asks
what has happened is answered while it does.
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

SEEN_WITHIN_S = 30.0  # until a file that was just written shows on another machine (NFS keeps what it saw a while)


class Actor:
    """Ray makes one on a node. `plan`: one that the store has, to tell this store from another of the same path."""

    def __init__(self, store: str, options: Mapping[str, Any], plan: str) -> None:
        self.store, self.options, self.plan = store, options, plan
        self.bundles: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.messages: list[dict[str, Any]] = []
        self.changed = threading.Condition()

    def hello(self) -> dict[str, Any]:
        """Get ready: where this is, or {"problem": why it cannot work here}."""
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
        except Exception as error:  # noqa: BLE001  (whatever a node lacks is said to the user)
            problem = "".join(traceback.format_exception_only(error)).strip()
        return {**about, "problem": problem}

    def _open(self) -> str:
        """Make the worker; why that cannot be, or ''."""
        from orchestrator.store.layout import plan_name
        from orchestrator.store.store import Store
        from orchestrator.tasks.context import Options

        store = Store(self.store)
        end = time.monotonic() + SEEN_WITHIN_S
        while not store.exists(plan_name(self.plan)):
            if time.monotonic() > end or self.store.startswith("memory:"):
                return f"store {self.store} is not the one of the engine here: {plan_name(self.plan)} is not in it"
            time.sleep(1.0)
        import torch

        from orchestrator.execution.worker import Worker

        torch.set_num_threads(1)
        worker = Worker(store, Options(**self.options), self._tell, store)
        threading.Thread(target=self._work, args=(worker,), daemon=True).start()
        return ""

    def join(self, variables: Mapping[str, str]) -> None:
        """Be one of the processes of a training (nag.distributed)."""
        os.environ.update(variables)

    def _work(self, worker: Any) -> None:
        import torch

        torch.set_num_threads(1)  # of this thread
        try:
            while True:
                worker.bundle(self.bundles.get())
        finally:
            os._exit(1)  # half a worker is of no use

    def _tell(self, message: dict[str, Any]) -> None:
        with self.changed:
            self.messages.append(message)
            self.changed.notify()

    def turn(self, bundle: dict[str, Any] | None, wait_s: float, gather_s: float | None) -> list[dict[str, Any]]:
        """Begin a bundle, if one is given, and say what has happened, within `wait_s`. After the first message more are
        waited for, for `gather_s` or until the bundle ends; None: until then, first message or not.
        """
        if bundle is not None:
            self.bundles.put(bundle)
        with self.changed:
            self.changed.wait_for(lambda: self.messages, wait_s)
            self.changed.wait_for(lambda: any(m["event"] == "end" for m in self.messages), gather_s)
            said, self.messages = self.messages, []
        newest = {m["digest"]: at for at, m in enumerate(said) if m["event"] == "progress"}
        return [m for at, m in enumerate(said) if m["event"] != "progress" or newest[m["digest"]] == at]
