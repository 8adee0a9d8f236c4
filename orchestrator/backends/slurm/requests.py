"""What array tasks request: by stage, and by the network that they train or load."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.backends.slurm.arrays import doubled
from orchestrator.backends.slurm.settings import Resources, SlurmSettings
from orchestrator.execution.protocol import Bundle
from orchestrator.plan.model import StoredPlan
from orchestrator.plan.network_sizes import network_of


@dataclass(frozen=True)
class Requests:
    site: SlurmSettings
    plan: StoredPlan

    def of(self, bundle: Bundle) -> Resources:
        """The resources of an array task that does this bundle."""
        network = bundle.network or (bundle.steps[0][0] if bundle.steps else "")
        return doubled(self.site, self.site.resources(bundle.kind, *network_of(self.plan, network)), bundle.doublings)

    def processes(self, digest: str) -> int:
        """How many processes train this network together."""
        return self.site.trained_on(*network_of(self.plan, digest))
