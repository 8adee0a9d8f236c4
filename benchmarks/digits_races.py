"""Races on real samples: does a race choose as the exhaustive grid does, and with which share of its samples?

    python -m benchmarks.digits_races        about 4 minutes on 2 cores; tables of 16 repetitions

A small SiT on the digits, eight NAG scales, FID on 400 samples at most in blocks of 50, one and two trainings, eight
seeds of the samples that choose. The grid scores every scale on all 400 samples of the same seed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

SCALES = "[0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4]"
MARGIN = 0.013  # of the grid's best value
SWEEP = """\
name: NAME
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 32, depth: 2, heads: 2, patch: 2}
    train: {steps: 400, batch: 64, lr: 2e-3, noise_dropout: 0.15, class_dropout: 0.1, seed: TRAININGS}
sampler: {name: euler, steps: 8}
sample: {count: COUNT, block: 50, seed: SEED}
score: {features: [digits], metrics: [fid]}
TUNEarms:
  nag: {nag: {scale: {HOW: SCALES}}}
"""


@dataclass(frozen=True)
class Repetition:
    """share: of the grid's samples. loss: how far the grid has the chosen scale above its best, as a share of that."""

    share: float
    same: bool
    loss: float


def text(name: str, trainings: str, seed: int) -> str:
    race = name == "race"
    given = {"NAME": name, "TRAININGS": trainings, "SCALES": SCALES, "HOW": "tune" if race else "grid"}
    given |= {"SEED": "0" if race else str(seed), "COUNT": "50" if race else "400"}
    given |= {"TUNE": f"tune: {{metric: fid, seed: {seed}, count: 400}}\n" if race else ""}
    sweep = SWEEP
    for word, value in given.items():
        sweep = sweep.replace(word, value)
    return sweep


def repetition(folder: Path, trainings: str, seed: int) -> Repetition:
    from orchestrator.report.comparisons import groups
    from orchestrator.report.results import collect
    from tests.orchestrator.conftest import run_here

    paths = {name: folder / f"{name}.yaml" for name in ("race", "grid")}
    for name, path in paths.items():
        path.write_text(text(name, trainings, seed))
    ran = {name: run_here(path, folder / "store") for name, path in paths.items()}
    results = {name: collect(one.plan, one.store) for name, one in ran.items()}
    [choice] = results["race"].choices
    assert choice.chosen is not None
    chosen = choice.chosen.params["nag.scale"]
    values = {group.params["nag.scale"]: group.mean("fid", "extrapolated") for group in groups(results["grid"], "nag")}
    known = {scale: value for scale, value in values.items() if value is not None}
    best = min(known, key=known.__getitem__)
    loss = (known[chosen] - known[best]) / known[best]
    return Repetition(choice.samples / choice.exhaustive, chosen == best, loss)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    every: list[Repetition] = []
    with tempfile.TemporaryDirectory() as folder:
        for trainings in ("0", "{grid: [0, 1]}"):
            for seed in range(1, 9):
                every.append(one := repetition(Path(folder), trainings, seed))
                print(
                    f"trainings {trainings:<15} seed {seed}  samples {one.share:.0%}  loss {one.loss:.2%}", flush=True
                )
    same, within = sum(one.same for one in every), sum(one.loss <= MARGIN for one in every)
    share = sum(one.share for one in every) / len(every)
    print(f"{len(every)} repetitions: the grid's in {same}, within {MARGIN:.1%} in {within}; {share:.0%} of samples")


if __name__ == "__main__":
    main()
