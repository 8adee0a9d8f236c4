"""Noise level correction (NLC, Abuduweili et al., arXiv 2412.05488): the level is what a small network reads of x."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from nag.guidance.scaled import Referenced
from nag.guidance.terms import Call, Term
from nag.interpolants import at_ratio
from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.estimator import Residual
    from nag.models.description import Role

LARGEST = 0.5  # of the errors that the paper's code trains on


@method
class NoiseLevelCorrection(Referenced):
    """The denoiser at sigma^ = sigma_t (1 + w r(x, t)) in place of the one at sigma_t; w = `scale`, 0 is off, 1 in the
    paper. sigma is that of x / alpha_t, the state without its path's scale; r is the network `reference`, a
    noise_level_residual, and w r is kept within -0.5 and 0.5.

    So networks see x alpha(t^) / alpha(t) at the level t^ of sigma^, and what they say of x_0 is kept. A step of ddim
    with eta 0, or of euler on the linear path, is then the paper's: (x - sigma^ eps) + (sigma^ sigma' / sigma) eps for
    eps at sigma^. Its code also scales eps to the norm sqrt(d), which is left out. At t = 1 and t = 0 nothing is
    corrected.
    NFE does not count r, which the paper does not count either; its calls are counted apart.
    scale: 0 to 1000. interval: the levels t at which it acts.
    """

    VERSION: ClassVar[int] = 1
    OFF: ClassVar[float] = 0
    asks: ClassVar[Role] = "residual"

    def terms(self) -> tuple[Term, ...]:
        return ()

    def evaluated_at(self, call: Call, residual: Residual) -> tuple[torch.Tensor, torch.Tensor]:
        """States (N, C, H, W) and levels (N,)."""
        x, t, path = call.x, call.t, call.interpolant
        share = (self.scale * residual.share(x, t)).clamp(-LARGEST, LARGEST)
        told = at_ratio(path, (1 + share) * path.sigma(t) / path.alpha(t))
        return x * (path.alpha(told) / path.alpha(t)).view(-1, 1, 1, 1), told
