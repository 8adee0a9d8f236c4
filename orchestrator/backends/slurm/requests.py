"""What array tasks request: by stage, and by the network that they train or load."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.backends.slurm.arrays import doubled
from orchestrator.backends.slurm.settings import Resources, SlurmSettings
from orchestrator.execution.protocol import Bundle
from orchestrator.plan.model import StoredPlan
from orchestrator.plan.network_sizes import network_of


@dataclass(frozen=True)
class Requests:
    site: SlurmSettings
    plan: StoredPlan
    _known: dict[tuple[str, str, float | None], Resources] = field(default_factory=dict)

    def of(self, bundle: Bundle) -> Resources:
        """The resources of an array task that does this bundle."""
        return doubled(self.site, self._of(bundle.kind, bundle.network or bundle.steps[0][0]), bundle.doublings)

    def _of(self, kind: str, network: str) -> Resources:
        name, parameters = network_of(self.plan, network) if network in self.plan.instances else ("", None)
        if (kind, name, parameters) not in self._known:
            self._known[kind, name, parameters] = self.site.resources(kind, name, parameters)
        return self._known[kind, name, parameters]

    def processes(self, digest: str) -> int:
        """How many processes train this network together."""
        return self.site.trained_on(*network_of(self.plan, digest))
