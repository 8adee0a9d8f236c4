"""Whether the states of a sampler stay finite, without waiting for a GPU at every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Seen = tuple[int, float, torch.Tensor]  # step, level, whether the state before that step was finite: ()

EVERY = 16  # steps between two looks at a GPU's answers; each look waits for the GPU


class FiniteStates:
    """An `observe` of a sampler that raises FloatingPointError, naming the step, once a state is not finite.

    of: the number of steps, if known, for the message. every: how many steps' answers are read at once; 1 reads each
    one as it comes. The step that is named is the first bad one all the same. After the last step, call `read()`.
    """

    def __init__(
        self, of: int | None = None, every: int = 1, observe: Callable[[int, float, torch.Tensor], None] | None = None
    ) -> None:
        self.of, self.every, self.observe = of, every, observe
        self._seen: list[Seen] = []

    def __call__(self, k: int, t: float, x: torch.Tensor) -> None:
        """The state x at level t before step k, or after the last one; `observe` is told after a look at it."""
        self._seen.append((k, t, x.isfinite().all()))
        if len(self._seen) >= self.every or self.observe is not None:
            self.read()
        if self.observe is not None:
            self.observe(k, t, x)

    def read(self) -> None:
        """Raise FloatingPointError if a state since the last look was not finite."""
        import torch

        seen, self._seen = self._seen, []
        if not seen:
            return
        answers = torch.stack([finite for _, _, finite in seen]).tolist()
        for (k, t, _), finite in zip(seen, answers, strict=True):
            if not finite:
                steps = "" if self.of is None else f" of {self.of}"
                raise FloatingPointError(f"samples stopped being finite at step {k - 1}{steps} (t = {t:.4g})")
