"""Coverage of nominal 95 % intervals, by simulation with known true values (tests/nag/simulated.py).

    python -m benchmarks.coverage seeds        t intervals over training seeds, by sampling noise over retraining noise
    python -m benchmarks.coverage limit        single distances, extrapolated by a line and by fid_infinity's fit
    python -m benchmarks.coverage difference   differences of two arms, extrapolated, by dimension and N/d
    python -m benchmarks.coverage labels       how often equal arms are called different, by label order
    python -m benchmarks.coverage inception    the Inception Score in splits, 1,000 classes

On one idle thread seeds, labels and inception take 1 to 3 minutes, limit and difference up to a minute per size.
`--repetitions` changes that; `--dims` and `--ratios` set the sizes of `limit` and `difference`. Results:

seeds: 0.92 to 0.97 with 3 and 5 seeds, sampling noise 0.1 to 10 times the retraining noise (400 repetitions; 0.95 and
0.96 of 1,500 at 3 times). With one noise for all trainings: 0.83 and 0.67 at 1, 0.18 and 0.11 at 10 times.

limit: the fit at N/d = 10 covers 0.91 to 0.94 at dimension 64 to 256 (200 repetitions), about 0.92 at 512 (60); the
line 0.91 to 0.94, and 0.60 to 0.67 at 512. At N/d = 5 the fit covers 0.93, 0.90, 0.78, 0.51 at 64, 128, 256, 512,
the line 0.92, 0.81, 0.54, 0.00.

difference: coverage by d^3 / N^2 (all misses call the guided arm worse): 2.6 0.96, 8 0.94, 10 0.91 to
0.95, 11 0.93, 20 0.86 to 0.88, 41 0.57, 44 0.67, 82 0.33 (dimension 2,048, N/d = 5: 3 repetitions, bias 1.3 times the
half width), 89 0.13. At dimension 2,048 and N/d = 10 and 24.4 both of 2 repetitions covered: too few to say more.

labels: called better and worse 0.022 to 0.035 each; with halves by index of sorted classes, worse 0.77 to 0.88.

inception: 0.93 to 0.98; by the derivative alone 0.86 at N = 2,000 in 10 splits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np

SECONDS = 60.0  # at most, per size
SHRINK = 0.9


def seeds(options: argparse.Namespace) -> None:
    from tests.nag.simulated import replicates

    for own in (True, False):
        for ratio in (0.1, 0.3, 1.0, 3.0, 10.0):
            held = replicates(ratio, (3, 5), options.repetitions or 400, own)
            found = ", ".join(f"{count} seeds {share:.3f}" for count, share in held.items())
            print(f"noise {'of their own' if own else 'shared      '}, ratio {ratio:4}: {found}", flush=True)


class Sizes:
    """Two arms at the same true distance from N(0, diag(spectrum)): `plain` differs in its mean alone, `guided` has a
    covariance shrunk by a tenth and a smaller shift of its mean. Both have the same noise, so one decomposition of its
    covariance is enough; the spectrum is 4 / i^(1/2).
    """

    def __init__(self, d: int, n: int, seed: int = 0) -> None:
        self.d, self.n, self.rng = d, n, np.random.default_rng(seed)
        self.spectrum = 4 / np.arange(1, d + 1) ** 0.5
        self.trace = float(self.spectrum.sum())
        self.truth = 0.1 * self.trace
        direction = self.rng.standard_normal(d)
        direction /= np.linalg.norm(direction)
        gaps = (self.truth, self.truth - (1 - SHRINK**0.5) ** 2 * self.trace)
        self.arms = [(scale, gap**0.5 * direction) for scale, gap in zip((1.0, SHRINK**0.5), gaps, strict=True)]

    def draws(self, repetitions: int) -> Iterator[np.ndarray]:
        """(2 arms, 5): D(N), the means of D over halves and over quarters, and the influence standard errors of the arm
        and of the difference.
        """
        from nag.noise import parts

        started = time.monotonic()
        for _ in range(repetitions):
            u = (self.rng.standard_gamma(2.0, size=(self.n, self.d)) - 2) / 2**0.5
            whole, errors = self._with_errors(u)
            means = [np.mean([self._distances(u[part]) for part in parts(self.n, count)], axis=0) for count in (2, 4)]
            yield np.array([[whole[k], means[0][k], means[1][k], errors[k], errors[2]] for k in (0, 1)])
            if time.monotonic() - started > SECONDS:
                return

    def _middle(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and covariance of u, and F^T S F."""
        mean = u.mean(axis=0)
        z = u - mean
        S = z.T @ z / (len(u) - 1)
        return mean, S, self.spectrum[:, None] * S * self.spectrum

    def _arms_distances(self, mean: np.ndarray, S: np.ndarray, roots: float) -> list[float]:
        total, found = float(self.spectrum @ S.diagonal()), []
        for scale, gap in self.arms:
            apart = scale * self.spectrum**0.5 * mean + gap
            found.append(float(apart @ apart) + scale**2 * total + self.trace - 2 * scale * roots)
        return found

    def _distances(self, u: np.ndarray) -> list[float]:
        from scipy.linalg import eigvalsh

        mean, S, middle = self._middle(u)
        roots = np.sqrt(eigvalsh(middle, check_finite=False).clip(min=0)).sum()
        return self._arms_distances(mean, S, float(roots))

    def _with_errors(self, u: np.ndarray) -> tuple[list[float], list[float]]:
        from scipy.linalg import eigh

        mean, S, middle = self._middle(u)
        values, vectors = eigh(middle, check_finite=False)
        values = values.clip(min=1e-12)
        F = self.spectrum[:, None] ** 0.5 * vectors * values**-0.25
        x = (u - mean) * self.spectrum**0.5
        square, bent = (x**2).sum(axis=1), ((x @ F) ** 2).sum(axis=1)
        influences = [
            2 * scale * x @ (scale * self.spectrum**0.5 * mean + gap) + scale**2 * square - scale * bent
            for scale, gap in self.arms
        ]
        errors = [one.std(ddof=1) / self.n**0.5 for one in (*influences, influences[1] - influences[0])]
        return self._arms_distances(mean, S, float(np.sqrt(values).sum())), errors


def limit(options: argparse.Namespace) -> None:
    for d, ratio in _sizes(options, [64, 128, 256, 512], [2.4, 5.0, 10.0, 20.0]):
        sizes = Sizes(d, round(ratio * d))
        found = np.array(list(sizes.draws(options.repetitions or 200)))
        words = [f"d {d:4}, N/d {ratio:4}, {len(found):3} repetitions:"]
        for name, weights in (("line", (2, -1, 0)), ("fit", (8 / 3, -2, 1 / 3))):
            off = found[:, :, :3] @ np.array(weights) - sizes.truth
            held = (abs(off) <= 1.96 * found[:, :, 3]).mean(axis=0)
            errors = off.mean(axis=0) / found[:, :, 3].mean(axis=0)
            words.append(
                f"{name} covers {held[0]:.2f} and {held[1]:.2f} (off by {errors[0]:+.1f} and {errors[1]:+.1f} errors)"
            )
        print(" ".join(words), flush=True)


def difference(options: argparse.Namespace) -> None:
    for d, ratio in _sizes(options, [64, 128, 256, 512, 1024, 2048], [2.4, 5.0, 10.0, 24.4]):
        found = np.array(list(Sizes(d, round(ratio * d)).draws(options.repetitions or 200)))
        words = [f"d {d:4}, N/d {ratio:4}, d^3/N^2 {d / ratio**2:4.1f}, {len(found):3} repetitions:"]
        for name, weights in (("at N", (1, 0, 0)), ("extrapolated", (2, -1, 0))):
            values = found[:, 1, :3] @ np.array(weights) - found[:, 0, :3] @ np.array(weights)
            half = 1.96 * found[:, 0, 4]
            better, worse = (values < -half).mean(), (values > half).mean()
            error = values.mean() / (half.mean() / 1.96)
            words.append(f"{name} better {better:.2f}, worse {worse:.2f} (off by {error:+.1f} errors)")
        print(" ".join(words), flush=True)


def labels(options: argparse.Namespace) -> None:
    from tests.nag.simulated import arms_of_classes, verdicts

    index = np.arange(1000)
    for classes in (10, 397, 1000):
        for order, found in (("in turn", index % classes), ("sorted", index * classes // 1000)):
            better, worse = verdicts(arms_of_classes(16, found), options.repetitions or 400)
            print(f"{classes:4} classes {order:7}: better {better:.3f}, worse {worse:.3f}", flush=True)


def inception(options: argparse.Namespace) -> None:
    from nag.metrics.inception_score import InceptionScore

    for n, splits in ((2000, 10), (2000, 1), (5000, 10)):
        rng, found = np.random.default_rng(0), []
        for _ in range(options.repetitions or 60):
            x = rng.standard_normal((n, 1000), dtype=np.float32)
            x[np.arange(n), rng.integers(0, 1000, n)] += 8 + 3 * rng.random(n, dtype=np.float32)
            found.append(InceptionScore(splits=splits)({"logits": x}, {})["values"]["inception_score"])
        mean = np.mean([one["value"] for one in found])
        held = np.mean([one["low"] <= mean <= one["high"] for one in found])
        print(f"N {n}, {splits} splits: covers {held:.3f} of {len(found)}, score {mean:.1f}", flush=True)


def _sizes(options: argparse.Namespace, dims: list[int], ratios: list[float]) -> Iterator[tuple[int, float]]:
    return ((d, ratio) for d in options.dims or dims for ratio in options.ratios or ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {function.__name__: function for function in (seeds, limit, difference, labels, inception)}
    parser.add_argument("what", choices=known)
    parser.add_argument("--repetitions", type=int, default=0)
    parser.add_argument("--dims", type=int, nargs="*")
    parser.add_argument("--ratios", type=float, nargs="*")
    options = parser.parse_args()
    known[options.what](options)


if __name__ == "__main__":
    main()
