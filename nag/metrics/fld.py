"""FLD: feature likelihood divergence to held-out images (Jiralerspong et al., NeurIPS 2023, section 3)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from nag.metrics.metric import Metric, Scores, Shown, feature_pair, plain, rows
from nag.registry import method

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

AT_MOST = 10_000  # images of a side
STEPS, RATE = 50, 0.5  # of Adam
ORIGIN = 0.81  # the squared share of a point's distance to the mean that the fallback Gaussian sees
LEAST_LOG, MOST_LOG = -40.0, 20.0  # of the variances, against equal images
BLOCK = 1000  # rows of the distances at once
LEAST_EXPONENT = -80.0  # below about -87 float32 has no normal number for exp, which takes ten times as long there
IN_CACHE = 64  # rows that a processor's cache holds, of 10,000 distances each


@method
class FLD(Metric):
    """100 times the held-out images' negative log likelihood per dimension, minus that of real images in the samples'
    place. 0 is as good as new real images; it grows with bad, too few kinds of and copied samples.

    The density is a mixture of isotropic Gaussians at the samples, whose variances are fitted to the training images by
    50 steps of Adam (rate 0.5, start at the nearest training image): a copy gets a small variance, which is no good for
    held-out images. The features are scaled by the held-out images' mean and standard deviation. As in the authors'
    code, at most 10,000 samples are used, the baseline is one half of the training images fitted to the other, and a
    fallback Gaussian at the mean takes part in the fit alone. Here at most 10,000 training images are used too, and the
    subsets are keyed, not drawn.

    There is no interval from one cell: the samples are the mixture's centres, each moves the fit of all, and a half of
    them has another bias. Training seeds give one. Compare at equal N.
    """

    VERSION: ClassVar[int] = 1
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    names: ClassVar[tuple[str, ...]] = ("fld",)
    lower_is_better: ClassVar[dict[str, bool]] = {"fld": True}
    least: ClassVar[int] = 2
    least_reference: ClassVar[int] = 4
    extrapolates: ClassVar[bool] = False
    against: ClassVar[Literal["held_out"]] = "held_out"
    shown: ClassVar[dict[str, Shown]] = {"fld": Shown(label="FLD", heading="FLD", format="number")}
    of_training: ClassVar[bool] = True

    def __call__(self, samples: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> Scores:
        """features (N, d) of the samples, features (N_r, d) and held_out (M, d) of the training images' data set.

        Raises ValueError below 2 samples and held-out and 4 training images, for values that are not finite,
        dimensions that differ and columns in which all held-out images are equal.
        """
        from nag.metrics.cache import kept

        x, trained = feature_pair(samples, reference, self.least, self.least_reference)
        held_out = rows(reference, "held_out", "held-out features", 2)
        if held_out.shape[1] != trained.shape[1]:
            raise ValueError(f"held-out features have {held_out.shape[1]} columns, reference {trained.shape[1]}")
        centre, spread = held_out.mean(axis=0, dtype="float64"), held_out.std(axis=0, ddof=1, dtype="float64")
        if not spread.all():
            raise ValueError(f"column {int(spread.argmin())} is equal in all {len(held_out)} held-out images")

        def scaled(features: np.ndarray) -> np.ndarray:
            return _scaled(features, centre, spread)

        test, points = scaled(held_out), scaled(_some(x))
        half = min(len(points), len(trained) // 2)

        def baseline() -> float:
            mixed = _some(trained, len(trained))
            return _nll(scaled(mixed[:half]), scaled(mixed[half : half + AT_MOST]), test)

        real = kept(f"fld {half}", baseline, trained, held_out)
        return Scores(values={"fld": plain(100 * (_nll(points, scaled(_some(trained)), test) - real))}, arrays={})


def _scaled(features: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(features - centre) / spread, float32, from float64 a block at a time."""
    import numpy as np

    scaled = np.empty(features.shape, np.float32)
    for start in range(0, len(features), BLOCK):
        scaled[start : start + BLOCK] = (features[start : start + BLOCK] - centre) / spread
    return scaled


def _some(features: np.ndarray, most: int = AT_MOST) -> np.ndarray:
    """At most so many rows; if there are more, or `most` is their number, in a random order: the same for equal N."""
    from nag import noise

    if len(features) < most or (len(features) == most and most == AT_MOST):
        return features
    return features[noise.permutation(0, 0, len(features), noise.HALVES)[:most]]


def _nll(centres: np.ndarray, fitted_to: np.ndarray, of: np.ndarray) -> float:
    """Mean negative log likelihood per dimension of `of` under the mixture at `centres` fitted to `fitted_to`."""
    import torch

    log_variances = fit(centres, fitted_to)
    total = 0.0
    for start in range(0, len(of), BLOCK):
        block = torch.from_numpy(of[start : start + BLOCK])
        pairs = _log_densities(_squared(block, centres), log_variances, centres.shape[1])
        total -= float(torch.logsumexp(pairs - math.log(len(centres)), dim=1).sum(dtype=torch.float64))
    return total / (len(of) * centres.shape[1])


def fit(centres: np.ndarray, to: np.ndarray) -> Tensor:
    """The log variances (N,) of the Gaussians at `centres` (N, d), fitted to the rows of `to` (M, d)."""
    import torch

    from nag.metrics.neighbours import parts

    dim, points = centres.shape[1], torch.from_numpy(to)
    distances = torch.empty(len(to), len(centres))
    for some in parts(0, len(to), BLOCK):
        for others in parts(0, len(centres), BLOCK):
            distances[some, others] = _squared(points[some], centres[others])
    to_mean = ORIGIN * (points - points.mean(0)).square().sum(1, keepdim=True)
    log_variances = ((distances.min(0).values + 1e-3) / dim).log()
    origin = torch.zeros(1)
    optimizer = torch.optim.Adam([log_variances, origin], lr=RATE)
    for _ in range(STEPS):
        log_variances.grad, origin.grad = torch.zeros_like(log_variances), torch.zeros(1)
        for start in range(0, len(to), IN_CACHE):
            part = slice(start, start + IN_CACHE)
            _add_gradients(distances[part], to_mean[part], log_variances, origin, dim, len(to))
        optimizer.step()
        log_variances.clamp_(LEAST_LOG, MOST_LOG)
    return log_variances


def _add_gradients(
    distances: Tensor, to_mean: Tensor, log_variances: Tensor, origin: Tensor, dim: int, count: int
) -> None:
    """Add the gradients of the mean negative log likelihood per dimension, from some rows of `count`. With the share w
    of a Gaussian in a row's density and its variance v, that towards log v is w (1 - distance / (v dim)) / 2.
    """
    import torch

    terms = _log_densities(distances, log_variances, dim, -math.log(len(log_variances)))
    largest = terms.amax(1, keepdim=True)
    terms.sub_(largest).clamp_(min=LEAST_EXPONENT).exp_()
    fallback = _log_densities(to_mean, origin, dim)
    total = torch.logaddexp(largest + terms.sum(1, keepdim=True).log(), fallback)
    rows, of_origin = (largest - total).exp()[:, 0], (fallback - total).exp()[:, 0]
    for log_v, shares, of_squares in (
        (log_variances, rows @ terms, rows @ terms.mul_(distances)),
        (origin, of_origin.sum(), of_origin @ to_mean),
    ):
        assert log_v.grad is not None
        log_v.grad += (shares - of_squares / (log_v.exp() * dim)) / (2 * count)


def _log_densities(squared: Tensor, log_variances: Tensor, dim: int, plus: float = 0.0) -> Tensor:
    """log N(x; c, v I) + plus, of squared distances (M, N) and log v (N,)."""
    constants = plus - dim / 2 * (log_variances + math.log(2 * math.pi))
    return constants.addcmul(squared, -0.5 * (-log_variances).exp())


def _squared(points: Tensor, centres: np.ndarray) -> Tensor:
    import torch

    return torch.cdist(points, torch.from_numpy(centres)).square_()
