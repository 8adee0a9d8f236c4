"""Simulated sweeps whose settings have known true distances: what a choice and a verdict are held against.

Features: d independent coordinates, normal or skewed (exponential, skewness 2), with a given spectrum. A setting moves
their mean and shrinks their covariance, as guidance does, so that its true distance is as wanted. All settings of a
sweep share the noise of sample i within a training seed, with correlation RHO between any two. Retraining moves the
distance of a network, which all its settings share in part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nag import noise
from nag.racing import race
from nag.search import Axis, Place, first_places, next_places, rungs

RHO = 0.9
LEVEL = 0.1  # the distance of an arm at its best, in traces of the covariance
SHRINK = 0.9  # the standard deviations of the last setting of an arm; the first has 1
NETWORK, METHOD, SETTING = 0.012, 0.008, 0.003  # how retraining moves a distance: for all, for an arm, for a setting


@dataclass(frozen=True)
class Source:
    """Where features come from: spectrum (d,), and how numbers of mean 0 and variance 1 are drawn."""

    spectrum: np.ndarray
    skewed: bool

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """(n, d) float32."""
        shape = (n, len(self.spectrum))
        if not self.skewed:
            return rng.standard_normal(shape, np.float32)
        return rng.standard_exponential(shape, np.float32) - np.float32(1)


def digits(d: int) -> Source:
    """Normal, with the leading spectrum of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    return Source(np.linalg.eigvalsh(np.cov(load_digits().data.T))[::-1][:d], skewed=False)


def power_law(d: int) -> Source:
    """Skewed, with the spectrum 4 / i^(1/2)."""
    return Source(4 / np.arange(1, d + 1) ** 0.5, skewed=True)


def distance_and_influence(
    x: np.ndarray, spectrum: np.ndarray, with_influence: bool = True
) -> tuple[float, np.ndarray | None]:
    """Extrapolated Fréchet distance of (n, d) features from N(0, diag(spectrum)), and each sample's influence on D:
    what the metric FID gives, without its checks, several times faster.
    """
    root = spectrum**0.5
    n = len(x)
    sums, scatters = [], []
    for part in noise_halves(n):
        y = x[part]
        sums.append(y.sum(axis=0, dtype=np.float64))
        scatters.append((y.T @ y).astype(np.float64))
    values = []
    for count, total, scatter in (
        *zip((n // 2, n - n // 2), sums, scatters, strict=True),
        (n, sum(sums), sum(scatters)),
    ):
        mean = total / count
        S = (scatter - count * np.outer(mean, mean)) / (count - 1)
        lam, Q = np.linalg.eigh(root[:, None] * S * root)
        lam = lam.clip(min=1e-12 * lam[-1])
        values.append(float(mean @ mean + np.trace(S) + spectrum.sum() - 2 * np.sqrt(lam).sum()))
    extrapolated = 2 * values[2] - (values[0] + values[1]) / 2
    if not with_influence:
        return extrapolated, None
    F = root[:, None] * Q * lam**-0.25
    M = (np.eye(len(root)) - F @ F.T).astype(x.dtype)
    z = x - mean.astype(x.dtype)
    IF = z @ (2 * mean).astype(x.dtype) + np.einsum("ij,ij->i", z @ M, z)
    return extrapolated, IF - IF.mean()


_HALVES: dict[int, list[np.ndarray]] = {}


def noise_halves(n: int) -> list[np.ndarray]:
    if n not in _HALVES:
        _HALVES[n] = noise.parts(n, 2)
    return _HALVES[n]


@dataclass
class Samples:
    """The samples of one training seed of a sweep, common to all its settings: (n, d) of shared noise, and its own for
    each setting.
    """

    source: Source
    n: int
    seed: tuple[int, ...]
    common: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.common = np.float32(RHO**0.5) * self.source.draw(np.random.default_rng((*self.seed, 0)), self.n)

    def of(self, number: int, distance: float, shrink: float, towards: np.ndarray) -> np.ndarray:
        """(n, d) of setting `number` with this true distance. towards: (d,) unit vector, where its mean has moved."""
        own = self.source.draw(np.random.default_rng((*self.seed, 1 + number)), self.n)
        own *= np.float32((1 - RHO) ** 0.5)
        own += self.common
        spectrum = self.source.spectrum
        gap = distance - (1 - shrink) ** 2 * spectrum.sum()
        if gap < 0:
            raise ValueError(f"a distance of {distance} is less than a shrinkage by {shrink} makes")
        own *= (shrink * spectrum**0.5).astype(np.float32)
        own += (gap**0.5 * towards).astype(np.float32)
        return own


@dataclass
class Arm:
    """truths: (C,) true distance of each setting, in the mean over trainings. trained: (seeds, C), that of the networks
    at hand. direction: (d,).
    """

    number: int
    truths: np.ndarray
    trained: np.ndarray
    direction: np.ndarray

    @property
    def shrinks(self) -> np.ndarray:
        return np.linspace(1, SHRINK, len(self.truths)) if len(self.truths) > 1 else np.ones(1)

    def features(self, samples: Samples, seed: int, setting: int) -> np.ndarray:
        """Of a setting, by the network of a training seed."""
        return samples.of(
            100 * self.number + setting, self.trained[seed, setting], self.shrinks[setting], self.direction
        )


@dataclass
class Scores:
    """Of an arm's settings at the first n samples of each training seed: (values, influences), one of each a seed. No
    influences at the full count, where a race needs none.
    """

    arm: Arm
    samples: Sequence[Samples]
    _features: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    _known: dict[tuple[int, int, int], tuple[float, np.ndarray | None]] = field(default_factory=dict)

    def __call__(self, place: Place, n: int) -> tuple[list[float], list[np.ndarray | None]]:
        found = [self._score(seed, place[0], n) for seed in range(len(self.samples))]
        return [value for value, _ in found], [influence for _, influence in found]

    def _score(self, seed: int, setting: int, n: int) -> tuple[float, np.ndarray | None]:
        if (seed, setting) not in self._features:
            self._features[seed, setting] = self.arm.features(self.samples[seed], seed, setting)
        if (seed, setting, n) not in self._known:
            spectrum = self.samples[seed].source.spectrum
            x = self._features[seed, setting]
            self._known[seed, setting, n] = distance_and_influence(x[:n], spectrum, with_influence=n < len(x))
        return self._known[seed, setting, n]


def arms(source: Source, truths: Sequence[np.ndarray], seeds: int, rng: np.random.Generator) -> list[Arm]:
    """Arms with these relative true distances (1 is the usual best), trained `seeds` times."""
    scale = LEVEL * source.spectrum.sum()
    network = NETWORK * rng.standard_normal((seeds, 1))
    common = rng.standard_normal(len(source.spectrum))
    made = []
    for number, truth in enumerate(truths):
        direction = common + 0.5 * rng.standard_normal(len(common))
        moved = network + METHOD * rng.standard_normal((seeds, 1)) + SETTING * rng.standard_normal((seeds, len(truth)))
        made.append(Arm(number, truth * scale, truth * scale * (1 + moved), direction / np.linalg.norm(direction)))
    return made


@dataclass(frozen=True)
class Chosen:
    """A search's end: the place, and the samples drawn for it, of one training seed."""

    place: Place
    samples: int
    tried: int


Score = Callable[[Place, int], tuple[list[float], list["np.ndarray | None"]]]  # of a place at a count: by training seed


def search(axes: Sequence[Axis], score: Score, count: int, block: int, margin: float, candidates: int | None) -> Chosen:
    """What an engine does with nag/racing.py: race each stage, then the next around its leader. margin: a share of the
    leader's value.
    """
    spent: dict[Place, int] = {}
    best: Place | None = None
    new = first_places(axes, candidates)
    while new:
        counts = rungs(count, block)
        left = sorted({*new, *([best] if best is not None else [])})
        for n in counts:
            scored = [score(place, n) for place in left]
            spent |= {place: max(n, spent.get(place, 0)) for place in left}
            values = [one[0] for one in scored]
            smallest = min(sum(one) / len(one) for one in values)
            rung = {"last": n == count, "first": n == counts[0], "share": n / count, "looks": max(1, len(counts) - 1)}
            found = race(values, [one[1] for one in scored], margin * max(smallest, 0.0), **rung)
            best, left = left[found.leader], [left[c] for c in found.going_on]
            if len(left) == 1:
                break
        assert best is not None
        new = next_places(axes, spent, best, candidates)
    assert best is not None
    return Chosen(best, sum(spent.values()), len(spent))
