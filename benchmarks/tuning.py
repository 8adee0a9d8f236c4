"""Choosing settings: what racing costs and misses, and what a verdict on chosen settings is worth, by simulation with
known true distances (tests/nag/simulated_sweeps.py, tests/nag/simulated_wide.py).

    python -m benchmarks.tuning races        the race against the exhaustive grid: same choice, samples, true loss
    python -m benchmarks.tuning verdicts     false and true "better" of chosen and known settings, and the old way
    python -m benchmarks.tuning projection   which cheap score ranks guidance scales as the true distance does

Two processes of one thread each; `--repetitions` sets the number of sweeps. Features are normal with the digits'
spectrum or skewed with 4 / i^(1/2), 16 dimensions and 5,000 samples: then a distance's standard error is about 2 %,
and that of a paired difference about 1 %. Retraining moves a distance by 1.5 %. `projection`: truths are those of
infinitely many samples, by formula; KID's reference is infinite too.

races, 200 sweeps, 2,400 choices: the grid's choice or as good within the margin of 1.3 % in 0.998 (by kind and seeds
0.995 to 1.000), the same in 0.659, with 0.238 of its samples (0.172 to 0.311); true loss 0.08 %, the grid's 0.05 %.

verdicts, 200 sweeps a scenario: any false "better" with 3 and 5 seeds, all settings equal: 0.01 and 0.00, with a
baseline of a single setting 0.01 and 0.04; old way 0.19 and 0.14, with that baseline 0.34 and 0.31. Each arm with an
optimum, all as good: 0.02 and 0.03, old 0.10 and 0.10. An arm better by 3, 5, 10, 20 % is found in 0.07, 0.12, 0.37,
0.82 with 3 seeds (best setting known: 0.09, 0.13, 0.43, 0.82), in 0.26, 0.65, 1.00, 1.00 with 5 (0.23, 0.66, 1.00,
1.00).

projection, 16 sweeps, Spearman with the truth at 625, 1,250, 2,500, 5,000 samples, and in brackets how often its best
is within the margin of the true one: random directions 0.87 (0.50), 0.91 (0.56), 0.95 (0.69), 0.98 (1.00); leading
directions 0.89 (0.62), 0.92 (0.56), 0.93 (0.75), 0.97 (0.88); KID 0.70 (0.25), 0.68 (0.25), 0.69 (0.25); all
directions as they are 0.68 (0.12), 0.84 (0.38). Searches of the nine on random directions, within the margin: by
intervals 0.50 with 0.14 of the samples as a list, 0.50 with 0.12 as a range; by halves 1.00 with 0.39 and 0.94 with
0.41. On leading directions a list: 0.56 and 0.88. It takes about 25 CPU seconds a sweep, races and verdicts together
about 20 CPU minutes.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

MARGIN = 0.013  # of the leader's value, as in sweeps
COUNT, BLOCK, DIMENSION = 5_000, 125, 16
ARMS = 12


def races(options: argparse.Namespace) -> None:
    """Does the race choose what the exhaustive grid chooses, or as good, and with how many of its samples?"""
    total: dict[tuple[str, int], list[list[float]]] = {}
    for found in _each(_race_sweep, options.repetitions or 200):
        for key, *numbers in found:
            total.setdefault(key, []).append(numbers)
    total["all", 0] = [numbers for one in list(total.values()) for numbers in one]
    for (kind, seeds), rows in total.items():
        same, near, share, race_loss, grid_loss = np.mean(rows, axis=0)
        where = f"{kind}, {seeds} seeds" if seeds else kind
        print(
            f"{where:26} {len(rows):5} choices: same {same:.3f}, same or within the margin {near:.3f}; samples "
            f"{share:.3f} of the grid's; worse than the best by {race_loss:.2%} (grid {grid_loss:.2%})",
            flush=True,
        )


def _race_sweep(i: int) -> list[tuple[tuple[str, int], float, float, float, float, float]]:
    """(kind and seeds, same choice, as good, share of the samples, losses of race and grid) of each arm of a sweep."""
    from nag.search import Axis
    from tests.nag import simulated_sweeps as sim

    rng = np.random.default_rng((7, i))
    seeds = 3 if i % 2 else 5
    source = (sim.digits, sim.power_law)[i // 2 % 2](DIMENSION)
    kinds = [("equal", 6), ("smooth", 6), ("smooth range", 9)] * (ARMS // 3)
    truths = [np.ones(size) if kind == "equal" else smooth(size, rng) for kind, size in kinds]
    samples = [sim.Samples(source, COUNT, (8, i, s)) for s in range(seeds)]
    rows = []
    for (kind, size), arm in zip(kinds, sim.arms(source, truths, seeds, rng), strict=True):
        score = sim.Scores(arm, samples)
        grid = int(np.argmin([np.mean(score((c,), COUNT)[0]) for c in range(size)]))
        chosen = sim.search([Axis(size, "range" in kind)], score, COUNT, BLOCK, MARGIN, None)
        best, found, by_grid = arm.truths.min(), arm.truths[chosen.place[0]], arm.truths[grid]
        near = found <= by_grid * (1 + MARGIN)
        share = chosen.samples / (size * COUNT)
        rows.append(
            ((kind, seeds), float(chosen.place[0] == grid), float(near), share, found / best - 1, by_grid / best - 1)
        )
    return rows


HELP = {1: 0.97, 2: 0.95, 3: 0.90, 4: 0.80}  # of arms that help: the best distance, of the others' best


def verdicts(options: argparse.Namespace) -> None:
    """Families with a false "better", and how often a true one is found: chosen and confirmed, with the best setting
    known beforehand, and the old way.
    """
    for scenario in ("equal", "smooth"):
        found = list(_each(functools.partial(_verdict_sweep, scenario=scenario), options.repetitions or 200))
        for seeds in (3, 5):
            rows = [row for row in found if row["seeds"] == seeds]
            plain = ("tuned, plain baseline", "old, plain baseline") if scenario == "equal" else ()
            for way in ("tuned", "known", "old", *plain):
                print(f"{scenario}, {seeds} seeds, {way:21} {_words(rows, way, scenario)}", flush=True)


def _words(rows: list[dict[str, Any]], way: str, scenario: str) -> str:
    """How often the families of these sweeps hold a false "better", and how often helping arms are found."""
    helping = HELP if scenario == "smooth" else {}
    null = [a for a in range(1, ARMS) if a not in helping]
    false = np.mean([any(row[way][a] == "better" for a in null) for row in rows])
    alike = np.mean([row[way][a] == "alike" for row in rows for a in null])
    words = [f"{len(rows)} families: any false better {false:.3f}, alike {alike:.3f} of equal arms"]
    for a, best in helping.items():
        words.append(f"found {1 - best:.0%}: {np.mean([row[way][a] == 'better' for row in rows]):.2f}")
    return ", ".join(words)


def _verdict_sweep(i: int, scenario: str) -> dict[str, Any]:
    """The outcome of each arm against arm 0, by way."""
    from nag.search import Axis
    from tests.nag import simulated_sweeps as sim

    rng = np.random.default_rng((9, i))
    seeds = 3 if i % 2 else 5
    source = (sim.digits, sim.power_law)[i // 2 % 2](DIMENSION)
    best = [HELP.get(a, 1.0) if scenario == "smooth" else 1.0 for a in range(ARMS)]
    truths = [smooth(6, rng, one) if scenario == "smooth" else np.ones(6) for one in best]
    tune, fresh = ([sim.Samples(source, COUNT, (k, i, s)) for s in range(seeds)] for k in (10, 11))
    ways: dict[str, list[list[float]]] = {"tuned": [], "known": [], "old": []}
    for number, arm in enumerate(sim.arms(source, truths, seeds, rng)):
        score, confirm = sim.Scores(arm, tune), sim.Scores(arm, fresh)
        chosen = sim.search([Axis(6, False)], score, COUNT, BLOCK, MARGIN, None).place
        grid = [score((c,), COUNT)[0] for c in range(6)]
        ways["tuned"].append(confirm(chosen, COUNT)[0])
        ways["known"].append(confirm((int(np.argmin(arm.truths)),), COUNT)[0])
        ways["old"].append(min(grid, key=np.mean))
        if number == 0:
            plain, plain_score = confirm((0,), COUNT)[0], grid[0]
    found: dict[str, Any] = {way: _outcomes(values, holm=way != "old") for way, values in ways.items()}
    found["tuned, plain baseline"] = _outcomes([plain, *ways["tuned"][1:]], holm=True)
    found["old, plain baseline"] = _outcomes([plain_score, *ways["old"][1:]], holm=False)
    return {"seeds": seeds, **found}


def _outcomes(values: list[list[float]], holm: bool) -> list[str]:
    """Of arms with these values by training seed, against the first: by the family or each by its own 95 % interval."""
    from nag.verdict import Evidence, rulings

    family = []
    for one in values[1:]:
        off = np.subtract(one, values[0])
        se = float(off.std(ddof=1)) / len(off) ** 0.5
        family.append(Evidence(float(off.mean()), se, len(off) - 1, MARGIN * float(np.mean(values[0]))))
    if holm:
        return ["", *(ruling.outcome for ruling in rulings(family))]
    return ["", *("better" if rulings([one])[0].high < 0 else "" for one in family)]


COUNTS = (625, 1250, 2500, 5000)
SCALES = np.linspace(0, 1, 9)
WIDE = 2048


def projection(options: argparse.Namespace) -> None:
    """Which cheap score ranks the scales of a guidance as the true distance does, at dimension 2,048; and what races by
    it choose.
    """
    from scipy.stats import kendalltau, spearmanr

    found: dict[tuple[int, str], list[list[float]]] = {}
    chosen: dict[str, list[list[float]]] = {}
    for truth, scores, picks in _each(_projection_sweep, options.repetitions or 16):
        for key, values in scores.items():
            ranks = [spearmanr(truth, values)[0], kendalltau(truth, values)[0]]
            found.setdefault(key, []).append([*ranks, *_regret(truth, int(np.argmin(values)))])
        for name, (pick, share) in picks.items():
            chosen.setdefault(name, []).append([*_regret(truth, pick), share])
    words = "best {:.2f}, best or within the margin {:.2f}, its distance above the best's {:.2%}"
    for (n, name), rows in sorted(found.items()):
        spearman, kendall, *regret = np.mean(rows, axis=0)
        print(f"n {n:4} {name:25} Spearman {spearman:.3f}, Kendall {kendall:.3f},", words.format(*regret), flush=True)
    for name, rows in chosen.items():
        *regret, share = np.mean(rows, axis=0)
        print(f"race of {len(rows)}, {name}: {words.format(*regret)}, samples {share:.3f}", flush=True)


def _regret(truth: list[float], pick: int) -> tuple[bool, bool, float]:
    """Whether the pick is the best, is within the margin of it, and by how much it is worse."""
    loss = truth[pick] / min(truth) - 1
    return loss == 0, loss <= MARGIN, loss


Found = dict[tuple[int, str], list[float]]
SPACES = ("random directions", "leading directions")


def _projection_sweep(i: int) -> tuple[list[float], Found, dict[str, tuple[int, float]]]:
    """True distances of the scales, each score's values at each count, and what races choose with which share."""
    from nag.racing import dimension_for
    from nag.racing import projection as directions
    from tests.nag.simulated_wide import wide

    rng = np.random.default_rng((12, i))
    sweep = wide(WIDE, (0.7, 1.0)[i % 2], rng)
    draw = (rng.standard_normal, _skewed(rng))[i // 2 % 2]
    common = draw((COUNTS[-1], WIDE), np.float32)
    scores: Found = {}
    influences: dict[tuple[int, str], list[np.ndarray]] = {}
    spaces: dict[tuple[int, str], np.ndarray] = {}
    for n in COUNTS:
        spaces[n, "random directions"] = directions(WIDE, dimension_for(n))
        spaces[n, "leading directions"] = np.eye(WIDE, dimension_for(n))
    small = {key: {"mean": sweep.mean @ P, "cov": (P.T * sweep.lam) @ P} for key, P in spaces.items()}
    for t in SCALES:
        x = sweep.samples(float(t), common, draw((COUNTS[-1], WIDE), np.float32))
        now = {(n, "kid"): value for n, value in _kid(x[: COUNTS[2]], sweep.mean, sweep.lam).items()}  # more: too slow
        for key, P in spaces.items():
            now[key], influence = _fid(x[: key[0]] @ P.astype(np.float32), small[key])
            influences.setdefault(key, []).append(influence)
        for n in COUNTS[:2]:
            now[n, "all directions, as it is"] = _plain(x[:n], sweep.mean, sweep.lam)
        for key, value in now.items():
            scores.setdefault(key, []).append(value)
    picks = {}
    for name in SPACES:
        for how in ("by intervals", "by halves"):
            known = influences if "intervals" in how else {}
            for axis in (False, True):
                words = f"{name}, {how}, {'range' if axis else 'list'}"
                picks[words] = _narrow_race(name, axis, scores, known)
    return [sweep.truth(float(t)) for t in SCALES], scores, picks


def _narrow_race(
    name: str, ordered: bool, scores: Found, influences: dict[tuple[int, str], list[np.ndarray]]
) -> tuple[int, float]:
    """The scale that a search by a projected distance chooses, with its share of the samples; without influences by the
    means alone.
    """
    from nag.search import Axis
    from tests.nag.simulated_sweeps import search

    def score(place: tuple[int, ...], n: int) -> tuple[list[float], list[np.ndarray | None]]:
        return [scores[n, name][place[0]]], [influences[n, name][place[0]] if influences else None]

    found = search([Axis(len(SCALES), ordered)], score, COUNTS[-1], BLOCK, MARGIN, None)
    return found.place[0], found.samples / (len(SCALES) * COUNTS[-1])


def _skewed(rng: np.random.Generator) -> Callable[..., np.ndarray]:
    return lambda shape, dtype: rng.standard_exponential(shape, dtype) - dtype(1)


def _fid(x: np.ndarray, reference: dict[str, np.ndarray]) -> tuple[float, np.ndarray]:
    from nag.metrics.fid import FID

    scores = FID()({"features": x}, reference)
    value = scores["values"]["fid"]["extrapolated"]
    assert value is not None
    return value, scores["arrays"]["influence"]


def _kid(x: np.ndarray, mean: np.ndarray, lam: np.ndarray) -> dict[int, float]:
    """KID, up to a constant, of the first n rows against all of a normal distribution: for x . r normal with mean m and
    variance v, E (x . r / d + 1)^3 = (m / d + 1)^3 + 3 (m / d + 1) v / d^2.
    """
    d = len(lam)
    a, v = x @ mean.astype(np.float32) / d + 1, (x**2) @ lam.astype(np.float32) / d**2
    across = (a.astype(np.float64) ** 3 + 3 * a * v).astype(np.float64)
    k = x @ x.T
    k /= d
    k += 1
    diagonal = np.diagonal(k).astype(np.float64) ** 3
    k *= k * k
    return {
        n: (k[:n, :n].sum(dtype=np.float64) - diagonal[:n].sum()) / (n * (n - 1)) - 2 * float(across[:n].mean())
        for n in COUNTS
        if n <= len(x)
    }


def _plain(x: np.ndarray, mean: np.ndarray, lam: np.ndarray) -> float:
    """D(N), biased, with fewer samples than dimensions: by the n x n matrix with the same eigenvalues."""
    middle = x.mean(axis=0, dtype=np.float64)
    z = (x - middle.astype(np.float32)).astype(np.float64)
    y = z * lam**0.5
    roots = np.sqrt(np.linalg.eigvalsh(y @ y.T / (len(x) - 1)).clip(min=0)).sum()
    return float(((middle - mean) ** 2).sum() + (z**2).sum() / (len(x) - 1) + lam.sum() - 2 * roots)


def smooth(size: int, rng: np.random.Generator, best: float = 1.0) -> np.ndarray:
    """(size,) distances with an optimum anywhere; from there they rise like squares, by 5 % to 200 % over the whole
    width, on either side at a rate of its own. The best of them is `best`.
    """
    at = np.linspace(0, 1, size) - rng.random()
    left, right = 0.05 * 40 ** rng.random(2)
    truth = 1 + np.where(at < 0, left, right) * at**2
    return truth / truth.min() * best


def _each(task: Callable[[int], Any], count: int) -> Iterator[Any]:
    """task(0) ... in order, on two processes of one thread each."""
    started = time.monotonic()
    with ProcessPoolExecutor(2, initializer=_one_thread) as pool:
        yield from pool.map(task, range(count), chunksize=2)
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def _one_thread() -> None:
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {function.__name__: function for function in (races, verdicts, projection)}
    parser.add_argument("what", choices=known)
    parser.add_argument("--repetitions", type=int, default=0)
    options = parser.parse_args()
    known[options.what](options)


if __name__ == "__main__":
    main()
