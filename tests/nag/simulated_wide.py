"""Simulated features of an extractor's width along one guidance scale, with known true Fréchet distances.

Reference: N(mu_r, diag(lambda)), lambda_i = i^-power, |mu_r|^2 = 2 trace, as Inception features are all positive. At
scale t in [0, 1] the mean is off by (1 - t) a + t b, the standard deviation of coordinate i by the factor
exp((1 - t) e_i - t h_i) with h_i > 0, and pairs of coordinates are turned by (1 - t) phi: without guidance samples are
off at random, much guidance shrinks them. a, b, e, h and phi are random; how much each makes up is random too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

RHO = 0.9


@dataclass(frozen=True)
class Wide:
    """A sweep of scales. lam, mean, a, b, e, h: (d,); phi: (d/2,), angles of the pairs (pairs[0], pairs[1]), ..."""

    lam: np.ndarray
    mean: np.ndarray
    a: np.ndarray
    b: np.ndarray
    e: np.ndarray
    h: np.ndarray
    phi: np.ndarray
    pairs: np.ndarray

    def _at(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gap of the means (d,), factors of the standard deviations (d,), angles (d/2,)."""
        return (1 - t) * self.a + t * self.b, np.exp((1 - t) * self.e - t * self.h), (1 - t) * self.phi

    def truth(self, t: float) -> float:
        """Of infinitely many samples, by pairs: tr M^(1/2) = (tr M + 2 det(M)^(1/2))^(1/2) if M is 2 x 2."""
        gap, factor, phi = self._at(t)
        var, lam = (self.lam * factor**2)[self.pairs].reshape(-1, 2), self.lam[self.pairs].reshape(-1, 2)
        c, s = np.cos(phi) ** 2, np.sin(phi) ** 2
        turned = np.stack([c * var[:, 0] + s * var[:, 1], s * var[:, 0] + c * var[:, 1]], axis=1)
        roots = np.sqrt((lam * turned).sum(axis=1) + 2 * np.sqrt((lam * var).prod(axis=1)))
        return float(gap @ gap + var.sum() + lam.sum() - 2 * roots.sum())

    def samples(self, t: float, common: np.ndarray, own: np.ndarray) -> np.ndarray:
        """(n, d) float32 at scale t from (n, d) numbers of variance 1, those common to all scales and its own."""
        gap, factor, phi = self._at(t)
        x = np.float32(RHO**0.5) * common + np.float32((1 - RHO) ** 0.5) * own
        x *= (self.lam**0.5 * factor).astype(np.float32)
        first, second = self.pairs[0::2], self.pairs[1::2]
        c, s = np.cos(phi).astype(np.float32), np.sin(phi).astype(np.float32)
        one, other = x[:, first], x[:, second]
        x[:, first], x[:, second] = c * one - s * other, s * one + c * other
        return x + (self.mean + gap).astype(np.float32)


def wide(d: int, power: float, rng: np.random.Generator) -> Wide:
    """A random sweep of d (even) coordinates: at 0.1 traces without guidance, at 0.03 to 0.3 with most."""
    lam = np.arange(1, d + 1) ** -power
    shares, most = rng.dirichlet(np.ones(3)), 0.03 * 10 ** rng.random()
    by_mean = rng.random()
    waves = np.log(np.arange(1, d + 1))[:, None] * rng.random(4) * 3 + rng.random(4) * 2 * np.pi
    smooth = np.sin(waves) @ rng.standard_normal(4)
    e = smooth + 0.5 * rng.standard_normal(d)
    h = np.exp(0.5 * np.roll(smooth, d // 2) + 0.3 * rng.standard_normal(d))
    mean = np.abs(rng.standard_normal(d))
    made = Wide(
        lam=lam,
        mean=mean * (2 * lam.sum() / (mean @ mean)) ** 0.5,
        a=lam**0.5 * rng.standard_normal(d),
        b=lam**0.5 * rng.standard_normal(d),
        e=e,
        h=h,
        phi=rng.standard_normal(d // 2),
        pairs=rng.permutation(d),
    )
    wanted = 0.1 * lam.sum() * np.array([*shares, 0, 0]) + most * lam.sum() * np.array([0, 0, 0, by_mean, 1 - by_mean])
    return _scaled(made, dict(zip(("a", "e", "phi", "b", "h"), wanted, strict=True)))


def _scaled(made: Wide, wanted: dict[str, float]) -> Wide:
    """With each part scaled to make about the wanted distance by itself."""
    none = replace(made, **{name: 0 * getattr(made, name) for name in wanted})
    small = 0.05
    parts = {}
    for name, distance in wanted.items():
        part = small * getattr(made, name)
        t = 1.0 if name in "bh" else 0.0
        parts[name] = part * (distance / replace(none, **{name: part}).truth(t)) ** 0.5
    return replace(made, **parts)
