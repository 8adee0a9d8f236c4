"""Skip-layer guidance (SLG; of Stable Diffusion 3.5, in diffusers): away from the network with blocks left out."""

from __future__ import annotations

from typing import ClassVar

from nag.field import Perturbation
from nag.guidance.scaled import Perturbed
from nag.registry import method


@method
class SkipLayer(Perturbed):
    """D + s (D - D'), the blocks `layers` of D' left out; s = `scale`, 0 is off.

    Without a paper of its own; the form is that of diffusers' SkipLayerGuidance. (Spatiotemporal Skip Guidance, arXiv
    2411.18664, has it for video.) scale: 0 to 1000; 2.8 in Stable Diffusion 3.5. layers: blocks, counted from 0; 7, 8
    and 9 there. interval, schedule: the levels t at which it acts, a factor of s.
    """

    VERSION: ClassVar[int] = 1

    def perturbation(self) -> Perturbation:
        return Perturbation("skip", self.layers)
