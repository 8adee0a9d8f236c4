"""The inputs with which one network is evaluated for several branches in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nag.field import NULL_NOISE, Change, Perturbation
from nag.guidance.mixing import Evaluation
from nag.guidance.run_state import RunState

if TYPE_CHECKING:
    import torch


class Inputs(NamedTuple):
    """States x (N, C, H, W) at levels t (N,) and classes y (N,), for a network."""

    network: Any
    x: torch.Tensor
    t: torch.Tensor
    y: torch.Tensor
    state: RunState | None

    def evaluate(self, some: list[Evaluation]) -> torch.Tensor:
        """The predictions of all branches, one after another: (len(some) N, C, H, W), or 2C channels."""
        changes = [change for number, branch in enumerate(some) if (change := self._change(number, branch))]
        inputs = (
            _joined([self.x] * len(some)),
            _joined([self._level(branch) for branch in some]),
            _joined([self._class(branch) for branch in some]),
        )
        return self.network.changed(*inputs, changes) if changes else self.network(*inputs)

    def _level(self, branch: Evaluation) -> torch.Tensor:
        import torch

        if branch.null_noise:
            return torch.full_like(self.t, NULL_NOISE)
        if branch.altered.shift:
            return torch.where(self.t == NULL_NOISE, self.t, (self.t + branch.altered.shift).clamp(0, 1))
        return self.t

    def _class(self, branch: Evaluation) -> torch.Tensor:
        import torch

        if branch.null_class:
            return torch.full_like(self.y, self.network.num_classes)
        if branch.altered.other_class:
            return self._run.other_class(self.y, self.network.num_classes)
        return self.y

    def _change(self, number: int, branch: Evaluation) -> Change | None:
        """What else is different in the branch; None for nothing."""
        scale, power = branch.altered.embedding_noise
        if scale == 0 and branch.altered.perturbation == Perturbation():
            return None
        embedding = None
        if scale:
            noise = self._run.embedding(self.network.hidden, self.t)
            embedding = (scale * self.t.clamp(min=0) ** power)[:, None] * noise
        rows = slice(number * len(self.t), (number + 1) * len(self.t))
        return Change(rows, branch.altered.perturbation, embedding)

    @property
    def _run(self) -> RunState:
        return RunState() if self.state is None else self.state


def _joined(tensors: list[torch.Tensor]) -> torch.Tensor:
    import torch

    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
