"""What a guided field knows while a sampler runs over one batch: its samples, their steps, and what came before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from nag.guidance.mixing import single

if TYPE_CHECKING:
    import torch


@dataclass
class RunState:
    """The state of one run, from the first call of the field to the last. All samples of a call are at one level.

    draws: says which samples they are, so that what is random belongs to the sample. to: the level at which the step
    ends that calls the field at a level; empty where steps are not known. before: D of the call before.
    memory: what each guidance keeps, by its id. calls: how many there were.
    """

    draws: Any = None
    to: dict[float, float] = field(default_factory=dict)
    before: torch.Tensor | None = None
    memory: dict[int, dict[str, torch.Tensor]] = field(default_factory=lambda: defaultdict(dict))
    calls: int = 0

    def other_class(self, y: torch.Tensor, num_classes: int) -> torch.Tensor:
        """A uniform random class (N,) other than y; of all, where y is the null class."""
        import torch

        from nag.noise import OTHER_CLASS, uniform

        own = y.cpu().numpy()
        choices = num_classes - (own < num_classes)
        drawn = (self._drawn(uniform, (), OTHER_CLASS) * choices).astype(own.dtype)
        other = (own + 1 + drawn) % num_classes
        return torch.from_numpy(other).to(y.device)

    def embedding(self, hidden: int, like: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers (N, hidden) of this call, float32."""
        import torch

        from nag.noise import EMBEDDED_LEVEL, normal

        return torch.from_numpy(self._drawn(normal, (hidden,), EMBEDDED_LEVEL)).to(like.device)

    def _drawn(self, draw: Callable[..., Any], shape: tuple[int, ...], purpose: int) -> Any:
        """Raises ValueError where it is not known which samples these are."""
        from nag.noise import Noise

        if not isinstance(self.draws, Noise):
            raise ValueError(
                "this guidance draws random numbers that belong to each sample: sample with nag.sample, "
                "and give it nag.noise.Noise"
            )
        return draw(self.draws.seed, self.draws.indices, self.calls, shape, purpose)


def steps(levels: Iterable[float]) -> dict[float, float]:
    """From the level of each call, as float32 like in a call, to the next one's, and from the last one's to 0."""
    return {single(t): to for t, to in pairwise([*levels, 0.0])}
