"""Choosing settings: what racing costs and misses, and what a verdict on chosen settings is worth (by simulation)."""

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
    from nag.racing import Axis
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
    from nag.racing import Axis
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
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {function.__name__: function for function in (races, verdicts)}
    parser.add_argument("what", choices=known)
    parser.add_argument("--repetitions", type=int, default=0)
    options = parser.parse_args()
    known[options.what](options)


if __name__ == "__main__":
    main()
