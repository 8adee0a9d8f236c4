"""Bundles that wait: for others to end, then for a worker of the right sort. No call looks at all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping

from orchestrator.execution.protocol import Work


class Waiting:
    def __init__(self) -> None:
        self.works: dict[int, Work] = {}  # neither taken nor skipped
        self.sorts: dict[int, Hashable] = {}
        self.outcomes: dict[int, str] = {}
        self.open_needs: dict[int, int] = {}  # handle -> how many that it waits for have not ended
        self.behind: dict[int, list[int]] = defaultdict(list)  # handle -> those that wait for it
        self.ready: dict[Hashable, dict[str, dict[int, None]]] = {}  # sort -> network -> handles, in order
        self.left: Counter[Hashable] = Counter()  # sort -> bundles that wait, ready or not

    def add(self, work: Work, sort: Hashable) -> list[int]:
        """Take in a bundle for workers of a sort. Returns the handles that can never start: this one, or none."""
        if any(self.outcomes.get(need, "done") != "done" for need in work.after):
            self.outcomes[work.handle] = "skipped"
            return [work.handle]
        self.works[work.handle], self.sorts[work.handle] = work, sort
        self.left[sort] += 1
        needs = [need for need in work.after if need not in self.outcomes]
        self.open_needs[work.handle] = len(needs)
        for need in needs:
            self.behind[need].append(work.handle)
        if not needs:
            self._release(work.handle)
        return []

    def _release(self, handle: int) -> None:
        network = self.works[handle].bundle.network
        self.ready.setdefault(self.sorts[handle], {}).setdefault(network, {})[handle] = None

    def end(self, handle: int, outcome: str) -> list[int]:
        """Note the end of a bundle. Returns the handles of those that can never start now."""
        skipped, pending = [], [(handle, outcome)]
        while pending:
            ended, how = pending.pop()
            self.outcomes[ended] = how
            for other in self.behind.pop(ended, ()):
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

    def sorts_ready(self) -> list[Hashable]:
        return [sort for sort, networks in self.ready.items() if networks]

    def sorts_left(self) -> list[Hashable]:
        """Of all bundles that wait, whatever for."""
        return [sort for sort, count in self.left.items() if count]

    def count(self, sort: Hashable) -> int:
        """How many bundles could start now."""
        return sum(map(len, self.ready.get(sort, {}).values()))

    def take(
        self, sort: Hashable, loaded: Iterable[str], holders: Mapping[str, int], may: Callable[[Work], bool]
    ) -> Work | None:
        """The next bundle for a worker: one of a network that it has loaded, else of one that few have (`holders`)."""
        groups = self.ready.get(sort, {})
        at_hand = {"", *loaded}

        def rank(network: str) -> tuple[int, int]:
            return (-1 if network in at_hand else holders.get(network, 0), next(iter(groups[network])))

        for network in sorted(groups, key=rank):
            handle = next((handle for handle in groups[network] if may(self.works[handle])), None)
            if handle is not None:
                del groups[network][handle]
                if not groups[network]:
                    del groups[network]
                return self._pop(handle)
        return None

    def _pop(self, handle: int) -> Work:
        self.left[self.sorts[handle]] -= 1
        return self.works.pop(handle)
