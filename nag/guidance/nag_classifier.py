"""Noise Awareness Guidance by a classifier (Zhong et al., arXiv 2510.12497): up the likelihood of the nominal level."""

from __future__ import annotations

from typing import ClassVar

from nag.guidance.scaled import Referenced
from nag.guidance.terms import Term
from nag.registry import method


@method
class NAGClassifier(Referenced):
    """s(x|t) + w grad_x log g_phi(t | x), in the paper's notation; w = `scale`, 0 is off.

    g_phi is the noise-level estimator `reference`, asked at the nominal level t; it must not be the one that measures
    the noise shift. On another prediction the gradient acts as on the score, so on the velocity of the linear path as
    -w t / (1 - t) grad log g. It is left out where alpha_t = 0. Each evaluation is a call of g_phi, with its gradient.
    scale: 0 to 1000. interval: the levels t at which it acts.
    """

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 0

    def terms(self) -> tuple[Term, ...]:
        return (Term(False, False, self.scale, self.reference, interval=self.interval, gradient=True),)
