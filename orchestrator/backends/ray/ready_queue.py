"""A queue of bundles that wait for others to end, then for a worker with the resources they request. No call goes
through all of them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping

from orchestrator.execution.protocol import Work


class ReadyQueue:
    def __init__(self) -> None:
        self.works: dict[int, Work] = {}  # neither taken nor skipped
        self.requests: dict[int, Hashable] = {}
        self.outcomes: dict[int, str] = {}
        self.open_needs: dict[int, int] = {}  # handle -> how many of its inputs have not ended
        self.dependents: dict[int, list[int]] = defaultdict(list)  # handle -> those that wait for it
        self.ready: dict[Hashable, dict[str, dict[int, None]]] = {}  # request -> network -> handles, in order
        self.left: Counter[Hashable] = Counter()  # request -> bundles in the queue, ready or not

    def add(self, work: Work, request: Hashable) -> list[int]:
        """Add a bundle for workers of a request. Returns the handles that can never start: this one, or none."""
        if any(self.outcomes.get(need, "done") != "done" for need in work.after):
            self.outcomes[work.handle] = "skipped"
            return [work.handle]
        self.works[work.handle], self.requests[work.handle] = work, request
        self.left[request] += 1
        needs = [need for need in work.after if need not in self.outcomes]
        self.open_needs[work.handle] = len(needs)
        for need in needs:
            self.dependents[need].append(work.handle)
        if not needs:
            self._release(work.handle)
        return []

    def _release(self, handle: int) -> None:
        network = self.works[handle].bundle.network
        self.ready.setdefault(self.requests[handle], {}).setdefault(network, {})[handle] = None

    def end(self, handle: int, outcome: str) -> list[int]:
        """Note the end of a bundle. Returns the handles that can never start because of it."""
        skipped, pending = [], [(handle, outcome)]
        while pending:
            ended, how = pending.pop()
            self.outcomes[ended] = how
            for other in self.dependents.pop(ended, ()):
                if other not in self.works:
                    continue
                self.open_needs[other] -= 1
                if how != "done":
                    self._pop(other)
                    skipped.append(other)
                    pending.append((other, "skipped"))
                elif not self.open_needs[other]:
                    self._release(other)
        return skipped

    def requests_ready(self) -> list[Hashable]:
        return [request for request, networks in self.ready.items() if networks]

    def requests_left(self) -> list[Hashable]:
        """The requests of all bundles in the queue, ready or not."""
        return [request for request, count in self.left.items() if count]

    def count(self, request: Hashable) -> int:
        """How many bundles are ready."""
        return sum(map(len, self.ready.get(request, {}).values()))

    def take(
        self, request: Hashable, loaded: Iterable[str], holders: Mapping[str, int], may: Callable[[Work], bool]
    ) -> Work | None:
        """Take the next bundle for a worker: of a network that it has loaded, else of the one that fewest workers have
        (holders: network -> workers). may: whether the worker can do a bundle.
        """
        groups = self.ready.get(request, {})
        loaded = {"", *loaded}

        def rank(network: str) -> tuple[int, int]:
            return (-1 if network in loaded else holders.get(network, 0), next(iter(groups[network])))

        for network in sorted(groups, key=rank):
            handle = next((handle for handle in groups[network] if may(self.works[handle])), None)
            if handle is not None:
                del groups[network][handle]
                if not groups[network]:
                    del groups[network]
                return self._pop(handle)
        return None

    def _pop(self, handle: int) -> Work:
        self.left[self.requests[handle]] -= 1
        return self.works.pop(handle)
