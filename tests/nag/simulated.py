"""Simulated features whose true Fréchet distances are known: what intervals are held against.

Reference: covariance with a spectrum 4 / i^(1/2) in a random basis, and exactly these moments. Samples: independent
coordinates of skewness 1.4 (a gamma distribution), turned and scaled to an arm's mean and covariance. Two arms are at
the same true distance, a tenth of the covariance's trace: `plain` by its mean alone, `guided` with a covariance that is
shrunk by a tenth, as guidance does, and a smaller gap of the means. Their samples share noise with correlation `rho`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nag import noise
from nag.intervals import paired_difference, t_interval
from nag.metrics.fid import FID
from nag.metrics.frechet import frechet_distance

SHRINK = 0.9

Scored = tuple[dict[str, float], np.ndarray]


def skewed(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """(n, d) of mean 0, variance 1, skewness 1.4."""
    return (rng.gamma(2.0, size=(n, d)) - 2) / 2**0.5


def gaussian(d: int, seed: int = 1) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(root, reference): root root^T is the covariance; features with exactly it and mean 0."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    root = Q * (4 / np.arange(1, d + 1) ** 0.5) ** 0.5
    x = rng.standard_normal((4 * d, d))
    x -= x.mean(axis=0)
    white = np.linalg.solve(np.linalg.cholesky(np.cov(x.T)), x.T).T
    return root, {"features": white @ root.T}


def fid(features: np.ndarray, reference: dict[str, np.ndarray]) -> Scored:
    scores = FID()({"features": features}, reference)
    return scores["values"]["fid"], scores["arrays"]["influence"]


@dataclass(frozen=True)
class Coverage:
    """Of intervals for the difference of the two arms, which is 0: the share that hold it."""

    plain: float  # of the difference of D(N)
    extrapolated: float
    width: float  # of the interval, over that of the spread of the extrapolated difference


def arms(d: int, n: int, rho: float, seed: int = 0) -> Callable[[], tuple[Scored, Scored]]:
    """What draws and scores n samples of each arm, (plain, guided)."""
    root, reference = gaussian(d)
    rng = np.random.default_rng(seed)
    direction = rng.standard_normal(d)
    direction /= np.linalg.norm(direction)
    trace = (root**2).sum()
    distance = 0.1 * trace
    gap = distance**0.5 * direction
    guided_gap = (distance - (1 - SHRINK**0.5) ** 2 * trace) ** 0.5 * direction

    def draw() -> tuple[Scored, Scored]:
        u = skewed(rng, n, d)
        v = u if rho == 1 else rho * u + (1 - rho**2) ** 0.5 * skewed(rng, n, d)
        return fid(gap + u @ root.T, reference), fid(guided_gap + SHRINK**0.5 * v @ root.T, reference)

    return draw


def coverage(d: int, n: int, rho: float, repetitions: int, seed: int = 0) -> Coverage:
    """Of intervals of 95 % for the difference of the two arms."""
    draw = arms(d, n, rho, seed)
    covered, differences, widths = {"value": 0, "extrapolated": 0}, [], []
    for _ in range(repetitions):
        (plain, of_plain), (guided, of_guided) = draw()
        for key in covered:
            difference, low, high = paired_difference(guided[key], of_guided, plain[key], of_plain)
            covered[key] += low <= 0 <= high
        differences.append(difference)
        widths.append(high - low)
    width = float(np.mean(widths) / (2 * 1.96 * np.std(differences)))
    return Coverage(covered["value"] / repetitions, covered["extrapolated"] / repetitions, width)


def arms_of_classes(d: int, labels: np.ndarray, rho: float = 0.9, seed: int = 0) -> Callable[[], tuple[Scored, Scored]]:
    """The two arms again, of n samples with these labels: half of the variance is between classes, and neighbouring
    classes are alike, as dogs are neighbours in ImageNet. In the limit both are at the same distance if every class is
    as frequent as every other.
    """
    rng = np.random.default_rng(seed)
    root, n = (4 / np.arange(1, d + 1) ** 0.5) ** 0.5, len(labels)
    classes = int(labels.max()) + 1
    waves = np.arange(d) % (classes - 1) + 1
    centres = root * np.cos(np.pi * np.outer(np.arange(classes) + 0.5, waves) / classes)
    cov = centres.T @ centres / len(centres) + np.diag(0.5 * root**2)
    reference = {"mean": np.zeros(d), "cov": np.diag(root**2)}
    apart, shrunk = (frechet_distance(np.zeros(d), c * cov, np.zeros(d), reference["cov"]) for c in (1.0, SHRINK))
    distance = 0.1 * (root**2).sum()
    gap, guided_gap = (value**0.5 * np.eye(d)[1] for value in (distance, distance + apart - shrunk))

    def draw() -> tuple[Scored, Scored]:
        u = skewed(rng, n, d)
        v = rho * u + (1 - rho**2) ** 0.5 * skewed(rng, n, d)
        x, y = (centres[labels] + 0.5**0.5 * root * z for z in (u, v))
        return fid(gap + x, reference), fid(guided_gap + SHRINK**0.5 * y, reference)

    return draw


def verdicts(draw: Callable[[], tuple[Scored, Scored]], repetitions: int) -> tuple[float, float]:
    """How often arms of the same distance are told apart: the guided one called (better, worse)."""
    found = []
    for _ in range(repetitions):
        (plain, of_plain), (guided, of_guided) = draw()
        found.append(paired_difference(guided["extrapolated"], of_guided, plain["extrapolated"], of_plain)[1:])
    low, high = np.array(found).T
    return float(np.mean(high < 0)), float(np.mean(low > 0))


def replicates(
    ratio: float, counts: Sequence[int], repetitions: int, own: bool = True, seed: int = 0
) -> dict[int, float]:
    """How often the t interval over so many training seeds holds the difference of two arms, which is 0 in the mean
    over trainings. ratio: the sampling noise of a difference over its retraining noise. own: each training samples from
    noise of its own, as sweeps do, instead of one noise for all. Arms share noise within a training.
    """
    d, n, rng = 4, 100, np.random.default_rng(seed)
    root = (4 / np.arange(1, d + 1) ** 0.5) ** 0.5
    reference = {"mean": np.zeros(d), "cov": np.diag(root**2)}
    gap = 3.0
    guided_gap = (gap**2 - (1 - SHRINK**0.5) ** 2 * (root**2).sum()) ** 0.5

    def scored(z: np.ndarray, moved: np.ndarray) -> tuple[Scored, Scored]:
        """Retraining moves each arm's mean, along its gap."""
        x, y = root * z, SHRINK**0.5 * root * z
        return fid(x + (gap + moved[0]) * np.eye(d)[0], reference), fid(
            y + (guided_gap + moved[1]) * np.eye(d)[0], reference
        )

    (_, of_plain), (_, of_guided) = scored(rng.standard_normal((20_000, d)), np.zeros(2))
    moves = (of_guided - of_plain).std() / n**0.5 / ratio / (2 * (gap**2 + guided_gap**2) ** 0.5)
    held = dict.fromkeys(counts, 0)
    for repetition in range(repetitions):
        differences = []
        for training in range(max(counts)):
            key = noise.replicate(repetition, [training] if own else [])
            (plain, _), (guided, _) = scored(noise.normal(key, range(n), 0, (d,)), moves * rng.standard_normal(2))
            differences.append(guided["extrapolated"] - plain["extrapolated"])
        for count in counts:
            _, low, high = t_interval(differences[:count])
            held[count] += low <= 0 <= high
    return {count: found / repetitions for count, found in held.items()}


def bootstrap(d: int, n: int, repetitions: int, seed: int = 0) -> tuple[float, float]:
    """Standard error of the guided arm's D(N): by influence, and over resamples of its n samples."""
    from nag.metrics.frechet import Reference
    from nag.metrics.moments import moments

    root, reference = gaussian(d)
    rng = np.random.default_rng(seed)
    x = 0.2 + SHRINK**0.5 * skewed(rng, n, d) @ root.T
    known = moments(reference["features"])
    target = Reference(known.mean, known.cov)
    again = (moments(x[rng.integers(0, n, n)]) for _ in range(repetitions))
    values = [target.distance(one.mean, one.cov) for one in again]
    return float(target.influence(x)[1].std(ddof=1) / n**0.5), float(np.std(values, ddof=1))
