"""CFG-Zero* (Fan et al., arXiv 2503.18886): CFG with the best multiple of the null velocity, and velocity 0 in
the first steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import pydantic

from nag.guidance.scaled import Scaled
from nag.guidance.terms import Call, Interval, Setting, Term, away_from
from nag.registry import method

if TYPE_CHECKING:
    import torch

SMALLEST = 1e-8  # added to |u|^2


@method
class CFGZero(Scaled):
    """s u + w (c - s u) with s = <c, u> / |u|^2 for each sample; w = `scale`, 1 is off. c, u: velocities of the class
    and of the null class.

    zero: at levels t > 1 - zero the velocity is 0 and nothing is evaluated. With equal steps from t = 1 that is the
    first share `zero` of the steps, rounded up; 0.04 in the paper, 0 is off. The network must predict the velocity.
    scale: 0 to 1000. interval: the levels t at which the guidance acts; `zero` does not depend on it.
    """

    zero: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.04
    interval: Interval = Interval()

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})
    reference: ClassVar[None] = None

    @property
    def off(self) -> bool:
        return self.scale == self.OFF and self.zero == 0

    def terms(self) -> tuple[Term, ...]:
        if self.scale == self.OFF:
            return ()
        return away_from(self.scale - 1, null_class=True, interval=self.interval)

    def combine(self, predictions: tuple[torch.Tensor, ...], call: Call) -> torch.Tensor:
        """What is added to D (N, C, H, W)."""
        c, u = predictions
        dims = tuple(range(1, c.ndim))
        s = (c * u).sum(dims, keepdim=True) / ((u * u).sum(dims, keepdim=True) + SMALLEST)
        return (self.scale - 1) * (c - s * u)

    def silent(self, t: float) -> bool:
        return t > 1 - self.zero

    def refuses(self, setting: Setting) -> str | None:
        if setting.predicts == "velocity":
            return None
        return f"it is defined for velocities, and the network predicts {setting.predicts}; take cfg or apg"
