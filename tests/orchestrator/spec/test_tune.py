"""`{tune: ...}`, `{match: ARM}`, `tune` and `compare`: what they are read as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.spec.grid import Pick
from orchestrator.spec.model import Cell, Compare, Sweep, Tune
from orchestrator.spec.reader import read_sweep
from orchestrator.spec.score_section import deciding_name

SWEEP = """\
name: tuned
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}}
sampler: {name: euler, steps: 2}
sample: {count: 40, block: 20}
score: {features: [digits, pixels], metrics: [fid, precision_recall]}
tune: {metric: fid, seed: 1, count: 40}
compare: {margin: 1.3 %, agree: [fid_pixels, recall]}
arms:
  plain: {}
  cfg: {cfg: {scale: {tune: [1.5, 2, 3]}}}
  nag: {nag: {scale: {tune: {low: 0.5, high: 4}}}}
  match: {cfg: {scale: {match: nag}}, against: nag}
"""
SCORE = "score: {features: [digits, pixels], metrics: [fid, precision_recall]}"
COMPARE = "compare: {margin: 1.3 %, agree: [fid_pixels, recall]}\n"
TUNE = "tune: {metric: fid, seed: 1, count: 40}\n"
SAMPLER = "sampler: {name: euler, steps: 2}"
TRAIN = "noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}"
VALUES, RANGE = "{tune: [1.5, 2, 3]}", "{tune: {low: 0.5, high: 4}}"
MATCH = "{cfg: {scale: {match: nag}}, against: nag}"

Read = Callable[..., Sweep]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """`read(old, new, old, new, ...)`: the sweep with replacements."""

    def made(*changes: str, smoke: bool = False) -> Sweep:
        text = SWEEP
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert old in text, old
            text = text.replace(old, new, 1)
        (tmp_path / "sweep.yaml").write_text(text)
        return read_sweep(tmp_path / "sweep.yaml", smoke=smoke)

    return made


def of(sweep: Sweep, arm: str) -> list[Cell]:
    """The cells of an arm with the first training seed."""
    return [cell for cell in sweep.cells if cell.arm == arm and cell.params.get("train.seed", 0) == 0]


def test_a_list_and_a_range_of_a_guidance(read: Read) -> None:
    sweep = read()
    assert sweep.tune == Tune(metric="fid", seed=1, count=40)
    assert sweep.compare == Compare(margin=0.013, relative=True, agree=("fid_pixels", "recall"))
    cfg, nag = of(sweep, "cfg"), of(sweep, "nag")
    assert [cell.guidance[0].scale for cell in cfg] == [1.5, 2, 3]
    assert [cell.tuned for cell in cfg] == [{"cfg.scale": Pick(place, 3, ordered=False)} for place in range(3)]
    assert [cell.params["nag.scale"] for cell in nag] == [0.5, 0.9375, 1.375, 1.812, 2.25, 2.688, 3.125, 3.562, 4]
    assert [cell.tuned for cell in nag] == [{"nag.scale": Pick(place, 9, ordered=True)} for place in range(9)]
    assert not any(cell.tuned for cell in of(sweep, "plain"))
    assert {arm.name: arm.overrides for arm in sweep.arms}["cfg"] == {"cfg.scale"}
    assert sweep.shared_axes == {"train.seed"}


def test_a_range_by_a_factor(read: Read) -> None:
    scales = [
        cell.params["nag.scale"]
        for cell in of(read(RANGE, "{tune: {low: 0.25, high: 4, points: 5, log: true}}"), "nag")
    ]
    assert scales == [0.25, 0.5, 1, 2, 4]


def test_mappings_of_an_interval(read: Read) -> None:
    """A value that sets nothing is a candidate too."""
    nag = of(read(RANGE, "2.0, interval: {tune: [{}, {high: 0.5}, {low: 0.2, high: 0.5}]}"), "nag")
    intervals = [cell.guidance[0].interval for cell in nag]
    assert [(each.low, each.high) for each in intervals] == [(0, 1), (0, 0.5), (0.2, 0.5)]
    assert [cell.tuned for cell in nag] == [{"nag.interval": Pick(place, 3, ordered=False)} for place in range(3)]
    high = of(read(RANGE, "2.0, interval: {high: {tune: {low: 0.3, high: 0.7, points: 3}}}"), "nag")
    assert [cell.guidance[0].interval.high for cell in high] == [0.3, 0.5, 0.7]


def test_fields_of_a_sampler_and_samplers(read: Read) -> None:
    """In an arm, and at the top level for all arms; whole methods by their names."""
    cells = of(read(VALUES, "2}, sampler: {steps: {tune: {low: 2, high: 10}}"), "cfg")
    assert [cell.sampler.steps for cell in cells] == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [cell.tuned["sampler.steps"].place for cell in cells] == [*range(9)]
    methods = "sampler: {tune: [{name: euler, steps: 4}, {name: heun, steps: 2}]}"
    sweep = read(SAMPLER, methods, MATCH, "{}")
    assert [(cell.params["sampler"], cell.sampler.steps) for cell in of(sweep, "plain")] == [("euler", 4), ("heun", 2)]
    both = [tuple(pick.place for pick in cell.tuned.values()) for cell in of(sweep, "cfg")]
    assert sorted(both) == [(sampler, scale) for sampler in (0, 1) for scale in (0, 1, 2)]


def test_a_tuned_dropout_trains_each_candidate(read: Read) -> None:
    """And the networks that are fine-tuned from it have the same candidates."""
    tuned = TRAIN.replace("noise_dropout: 0.2", "noise_dropout: {tune: [0.1, 0.2]}")
    sweep = read(TRAIN, tuned, MATCH, "{}")
    assert [cell.network.train.noise_dropout for cell in of(sweep, "plain")] == [0.1, 0.2]
    assert of(sweep, "plain")[1].tuned == {"train.noise_dropout": Pick(1, 2, ordered=False)}
    assert len(of(sweep, "nag")) == 2 * 9
    fine = (
        "  fine: {init: sit, data: digits, train: {steps: {tune: [1, 2]}, batch: 16, lr: 1e-3, noise_dropout: 0.1}}\n"
    )
    of_fine = read(TRAIN, tuned, MATCH, "{}", SAMPLER, f"{fine}network: fine\n{SAMPLER}")
    plain = [cell for cell in of_fine.cells if cell.arm == "plain" and cell.params["sit.train.seed"] == 0]
    keys = {"train.steps", "sit.train.noise_dropout"}
    assert all(cell.tuned.keys() == keys for cell in plain)
    assert [(cell.network.init.train.noise_dropout, cell.network.train.steps) for cell in plain] == [
        *((0.1, 1), (0.1, 2), (0.2, 1), (0.2, 2)),
    ]


def test_a_tuned_reference_network(read: Read) -> None:
    """Its training is tuned for the arms that use it, and for no other."""
    small = "  small: {data: digits, model: {name: sit, hidden: 8, depth: 1, heads: 2, patch: 4}, "
    small += "train: {steps: {tune: [2, 4]}, batch: 16, lr: 1e-2, class_dropout: 0.2}}\n"
    sweep = read(SAMPLER, f"{small}network: sit\n{SAMPLER}", VALUES, "2}, autoguidance: {scale: 2, reference: small")
    cells = of(sweep, "cfg")
    assert [cell.references["small"].train.steps for cell in cells] == [2, 4]
    assert [cell.tuned for cell in cells] == [{"small.train.steps": Pick(place, 2, ordered=False)} for place in (0, 1)]
    assert len(of(sweep, "plain")) == 1


def test_a_grid_beside_a_tuned_value(read: Read) -> None:
    """The grid multiplies: each of its values has its own choice."""
    cells = of(read(VALUES, f"{VALUES}}}, nag: {{scale: {{grid: [1, 2]}}"), "cfg")
    found = [(cell.params["nag.scale"], cell.tuned["cfg.scale"].place) for cell in cells]
    assert sorted(found) == [(scale, place) for scale in (1, 2) for place in range(3)]
    assert all(cell.tuned.keys() == {"cfg.scale"} for cell in cells)


def test_smoke_keeps_the_ends(read: Read) -> None:
    sweep = read(smoke=True)
    assert sweep.tune is not None
    assert sweep.tune.count == 32
    assert [cell.params["cfg.scale"] for cell in of(sweep, "cfg")] == [1.5, 3]
    assert [cell.params["nag.scale"] for cell in of(sweep, "nag")] == [0.5, 4]
    assert [cell.tuned for cell in of(sweep, "nag")] == [
        {"nag.scale": Pick(place, 2, ordered=True)} for place in (0, 1)
    ]


def test_a_matched_arm(read: Read) -> None:
    """CFG is on and costs two evaluations; its scale is told as what it is."""
    cell = of(read(SAMPLER, "sampler: {name: euler, nfe: 8}"), "match")[0]
    assert (cell.matches, cell.params["cfg.scale"], cell.sampler.steps, dict(cell.tuned)) == ("nag", "match nag", 4, {})


def test_what_tune_and_compare_are_by_default(read: Read) -> None:
    sweep = read(
        TUNE, "tune: {}\n", "compare: {margin: 1.3 %, agree: [fid_pixels, recall]}\n", "compare: {margin: 0.5}\n"
    )
    assert sweep.tune == Tune(metric="fid", seed=1, count=5000, candidates=None)
    assert sweep.compare == Compare(margin=0.5, relative=False, agree=())
    assert read("compare: {margin: 1.3 %, agree: [fid_pixels, recall]}\n", "").compare == Compare(margin=0.013)


def test_members_of_a_mean_can_have_to_agree_and_the_mean_decides(read: Read) -> None:
    """The mean leads, so it could never object to a verdict: `check` says so."""
    score, agree = ("[fid, precision_recall]", "[fid, fd_ratio]"), "[fid_pixels, recall]"
    sweep = read(*score, agree, "[fd_ratio_pixels, fid]")
    assert sweep.compare.agree == ("fd_ratio_pixels", "fid")
    message = "compare.agree.0.: verdicts are by 'fd_ratio_mean' itself, so it cannot object to one; remove it, or list"
    with pytest.raises(BadInput, match=message):
        read(*score, agree, "[fd_ratio_mean]")


@pytest.mark.parametrize(
    ("features", "metrics", "deciding"),
    [
        ("[digits, pixels]", "[fid, precision_recall]", "fid"),
        ("[digits, pixels]", "[precision_recall, fid]", "fid"),
        ("[digits, pixels]", "[kid, precision_recall]", "kid"),
        ("[digits, pixels]", "[kid, fd_ratio, fid]", "fd_ratio_mean"),
        ("[digits]", "[fid, fd_ratio]", "fd_ratio"),
    ],
)
def test_check_knows_what_decides(read: Read, features: str, metrics: str, deciding: str) -> None:
    score = f"score: {{features: {features}, metrics: {metrics}}}"
    sweep = read(SCORE, score, COMPARE, "", "metric: fid,", f"metric: {deciding},")
    assert sweep.score is not None
    assert deciding_name(sweep.score) == deciding
