"""Perturbed-attention guidance (PAG, Ahn et al., arXiv 2403.17377): away from attention without structure."""

from __future__ import annotations

from typing import ClassVar

from nag.field import Perturbation
from nag.guidance.scaled import Perturbed
from nag.registry import method


@method
class PAG(Perturbed):
    """D + s (D - D'), in the blocks `layers` of D' each token attends to itself alone; s = `scale`, 0 is off.

    Equation 16; the attention map is the identity, so that attention returns its values. scale: 0 to 1000; 3 in the
    paper. layers: blocks, counted from 0. interval, schedule: the levels t at which it acts, a factor of s.
    """

    VERSION: ClassVar[int] = 1

    def perturbation(self) -> Perturbation:
        return Perturbation("identity", self.layers)
