"""FLD: feature likelihood divergence to held-out images (Jiralerspong et al., NeurIPS 2023, section 3)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
        from nag.metrics.neighbours import parts

        x, trained = feature_pair(samples, reference, self.least, self.least_reference)
        held_out = rows(reference, "held_out", "held-out features", 2)
        if held_out.shape[1] != trained.shape[1]:
            raise ValueError(f"held-out features have {held_out.shape[1]} columns, reference {trained.shape[1]}")
        centre, spread = held_out.mean(axis=0, dtype="float64"), held_out.std(axis=0, ddof=1, dtype="float64")
        if not spread.all():
            raise ValueError(f"column {int(spread.argmin())} is equal in all {len(held_out)} held-out images")

        scaled = functools.partial(_scaled, centre=centre, spread=spread)
        half = min(len(x), AT_MOST, len(trained) // 2)

        def baseline() -> float:
            order = _some(len(trained), len(trained))
            return nll(scaled(trained, order[:half]), scaled(trained, order[half : half + AT_MOST]))

        def nll(points: np.ndarray, fitted_to: np.ndarray) -> float:
            log_variances = fit(points, fitted_to)
            return _nll(points, log_variances, (scaled(held_out[part]) for part in parts(0, len(held_out), BLOCK)))

        real = kept(f"fld {half}", baseline, trained, held_out)
        found = nll(scaled(x, _some(len(x))), scaled(trained, _some(len(trained))))
        return Scores(values={"fld": plain(100 * (found - real))}, arrays={})


def _scaled(
    features: np.ndarray, which: np.ndarray | None = None, *, centre: np.ndarray, spread: np.ndarray
) -> np.ndarray:
    """(features - centre) / spread of these rows, by default all; float32, from float64 a block at a time."""
    import numpy as np

    from nag.metrics.neighbours import parts

    chosen = np.arange(len(features)) if which is None else which
    scaled = np.empty((len(chosen), features.shape[1]), np.float32)
    for part in parts(0, len(chosen), BLOCK):
        scaled[part] = (features[chosen[part]] - centre) / spread
    return scaled


def _some(count: int, most: int = AT_MOST) -> np.ndarray:
    """At most so many of the rows; if there are more, or `most` is their number, in a random order: the same for equal
    counts.
    """
    import numpy as np

    from nag import noise

    if count < most or (count == most and most == AT_MOST):
        return np.arange(count)
    return noise.permutation(0, 0, count, noise.HALVES)[:most]


def _nll(centres: np.ndarray, log_variances: Tensor, of: Iterable[np.ndarray]) -> float:
    """Mean negative log likelihood per dimension of the rows of all blocks under the mixture at `centres`."""
    import torch

    total, count = 0.0, 0
    for block in of:
        pairs = _log_densities(_squared(torch.from_numpy(block), centres), log_variances, centres.shape[1])
        total -= float(torch.logsumexp(pairs - math.log(len(centres)), dim=1).sum(dtype=torch.float64))
        count += len(block)
    return total / (count * centres.shape[1])


def fit(centres: np.ndarray, to: np.ndarray) -> Tensor:
    """The log variances (N,) of the Gaussians at `centres` (N, d), fitted to the rows of `to` (M, d)."""
    import torch
    from torch.optim.adam import adam  # torch.optim.Adam imports torch's compiler: 150 MB

    from nag.metrics.neighbours import parts

    dim, points = centres.shape[1], torch.from_numpy(to)
    to_mean = ORIGIN * (points - points.mean(0)).square_().sum(1, keepdim=True)
    distances = torch.empty(len(to), len(centres))
    for some in parts(0, len(to), BLOCK):
        for others in parts(0, len(centres), BLOCK):
            distances[some, others] = _squared(points[some], centres[others])
    log_variances = ((distances.min(0).values + 1e-3) / dim).log()
    fitted = [log_variances, torch.zeros(1)]  # the second: of the fallback at the mean
    gradients, means, squares = ([torch.zeros_like(each) for each in fitted] for _ in range(3))
    taken = [torch.zeros(()) for _ in fitted]
    constants: dict[str, Any] = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "lr": RATE}
    for _ in range(STEPS):
        for gradient in gradients:
            gradient.zero_()
        for some in parts(0, len(to), IN_CACHE):
            _add_gradients(distances[some], to_mean[some], fitted, gradients, dim, len(to))
        adam(fitted, gradients, means, squares, [], taken, amsgrad=False, maximize=False, **constants)
        log_variances.clamp_(LEAST_LOG, MOST_LOG)
    return log_variances


def _add_gradients(
    distances: Tensor, to_mean: Tensor, fitted: Sequence[Tensor], gradients: Sequence[Tensor], dim: int, count: int
) -> None:
    """Add the gradients of the mean negative log likelihood per dimension, from some rows of `count`. With the share w
    of a Gaussian in a row's density and its variance v, that towards log v is w (1 - distance / (v dim)) / 2.
    """
    import torch

    log_variances, origin = fitted
    terms = _log_densities(distances, log_variances, dim, -math.log(len(log_variances)))
    largest = terms.amax(1, keepdim=True)
    terms.sub_(largest).clamp_(min=LEAST_EXPONENT).exp_()
    fallback = _log_densities(to_mean, origin, dim)
    total = torch.logaddexp(largest + terms.sum(1, keepdim=True).log(), fallback)
    rows, of_origin = (largest - total).exp()[:, 0], (fallback - total).exp()[:, 0]
    shares = rows @ terms, of_origin.sum()
    of_squares = rows @ terms.mul_(distances), of_origin @ to_mean
    for gradient, log_v, share, squares in zip(gradients, fitted, shares, of_squares, strict=True):
        gradient += (share - squares / (log_v.exp() * dim)) / (2 * count)


def _log_densities(squared: Tensor, log_variances: Tensor, dim: int, plus: float = 0.0) -> Tensor:
    """log N(x; c, v I) + plus, of squared distances (M, N) and log v (N,)."""
    constants = plus - dim / 2 * (log_variances + math.log(2 * math.pi))
    return constants.addcmul(squared, -0.5 * (-log_variances).exp())


def _squared(points: Tensor, centres: np.ndarray) -> Tensor:
    import torch

    return torch.cdist(points, torch.from_numpy(centres)).square_()
