"""Loss and gradient norm of a training's steps, read from a GPU one step late: it never waits for Python in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from nag.losses import Batch
    from nag.training_state import State


def late(kind: str) -> bool:
    """Whether a step's numbers are read when the next step is queued, on this kind of device."""
    return kind == "cuda"


@dataclass
class StepNumbers:
    """Of one step: its loss and gradient norm, (2,), on their way to the CPU. `state` waits to be saved until they are
    known to be finite.
    """

    step: int
    batch: Batch
    numbers: torch.Tensor
    arrived: Any = None
    state: State | None = None

    def read(self) -> tuple[float, float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, norm = self.numbers.tolist()
        return loss, norm


def sent(step: int, batch: Batch, total: torch.Tensor, norm: torch.Tensor) -> StepNumbers:
    """The numbers of a step, (): from a GPU they are copied while it works."""
    import torch

    dtype = torch.promote_types(total.dtype, norm.dtype)
    numbers = torch.stack([total.to(dtype), norm.to(dtype)])
    if not numbers.is_cuda:
        return StepNumbers(step, batch, numbers)
    host = torch.empty(2, dtype=dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    arrived: Any = torch.cuda.Event()
    arrived.record()
    return StepNumbers(step, batch, host, arrived)


class Guard:
    """Lets an optimiser that is fused skip every step from the first one on that is not finite, without a word from
    Python: the weights stay what they were before it.
    """

    def __init__(self, optimizer: Any, device: str) -> None:
        import torch

        self.optimizer, self.broken = optimizer, torch.zeros((), device=device)

    def see(self, total: torch.Tensor, norm: torch.Tensor) -> None:
        finite = total.isfinite() & norm.isfinite()
        self.broken = self.broken.maximum((~finite).to(self.broken.dtype))
        self.optimizer.found_inf = self.broken
