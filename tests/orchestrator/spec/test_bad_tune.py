"""Mistakes in `{tune: ...}`, `{match: ARM}`, `tune` and `compare`: one message each, with line, key path and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrator.spec.bad_sweep import known, message
from tests.orchestrator.spec.test_tune import MATCH, SAMPLER, SWEEP, TUNE, VALUES

SCORE = "score: {features: [digits, pixels], metrics: [fid, precision_recall]}\n"
SAMPLE = "sample: {count: 40, block: 20}"
METRICS = "Known: fid, fid_pixels, precision, precision_pixels, recall, recall_pixels."

SECTION = [
    (
        TUNE,
        "",
        "13: arms.cfg.cfg.scale: how to choose is missing: add a section such as tune: {metric: fid, seed: 1, "
        "count: 5000}.",
    ),
    ("metric: fid, ", "metric: fdi, ", f"10: tune.metric: unknown metric 'fdi'. Did you mean 'fid'? {METRICS}"),
    (
        "metric: fid, ",
        "metric: {tune: [fid, recall]}, ",
        "10: tune.metric: an axis is not possible here, only in networks, sampler, sample and arms.",
    ),
    (
        "metric: fid, ",
        "metric: {tune: 3}, ",
        "10: tune.metric: an axis is not possible here, only in networks, sampler, sample and arms.",
    ),
    (
        TUNE,
        "tune: {seed: 0}\n",
        "10: tune.seed: the seed 0 is also a sample.seed, but settings must not be chosen on the samples that "
        "compare them. Give another seed.",
    ),
    (
        SAMPLE,
        "sample: {count: 40, block: 20, seed: {grid: [0, 1]}}",
        "10: tune.seed: the seed 1 is also a sample.seed, but settings must not be chosen on the samples that "
        "compare them. Give another seed.",
    ),
    (
        TUNE,
        "tune: {sed: 1}\n",
        "10: tune: unknown key 'sed'. Did you mean 'seed'? Known: candidates, count, metric, seed.",
    ),
    (
        TUNE,
        "tune: {metric: recall, seed: 1, count: 3}\n",
        "10: tune.count: 'recall' needs at least 4 samples, but a race begins with 3 of 3; raise the count.",
    ),
    (TUNE, "tune: {candidates: 1}\n", "10: tune.candidates: expected a whole number from 2 to 1000, got 1."),
    (TUNE, "tune: 5\n", "10: tune: expected a mapping such as {metric: ...}, got 5."),
    (SCORE, "", "9: tune: a sweep without a score section chooses nothing; add score, or remove this section."),
    (
        "count: 40, block",
        "count: {tune: [40, 80]}, block",
        "8: sample.count: sample settings are not tuned; write a number, or {grid: [..., ...]}.",
    ),
    (
        "plain: {}",
        "plain: {sample: {count: {tune: [40, 80]}}}",
        "13: arms.plain.sample.count: sample settings are not tuned; write a number, or {grid: [..., ...]}.",
    ),
    (
        "seed: {grid: [0, 1]}",
        "seed: {tune: [0, 1]}",
        "6: networks.sit.train.seed: a training seed is not tuned, its spread is noise; write {grid: [..., ...]}.",
    ),
    (
        "train: {steps: 8, batch: 16, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2, seed: {grid: [0, 1]}}",
        "train: {tune: [{steps: 8}, {steps: 8, seed: 1}]}",
        "6: networks.sit.train: a training seed is not tuned, its spread is noise; write {grid: [..., ...]}.",
    ),
]

AT = "14: arms.cfg.cfg.scale"
AXIS = [
    ("{tune: [1.5]}", f"{AT}.tune[0]: one value leaves nothing to choose; write it without tune, or add others."),
    ("{tune: []}", f"{AT}.tune: expected a list such as {{tune: [1, 2]}}, got an empty list."),
    ("{tune: 2}", f"{AT}.tune: expected a list such as {{tune: [1, 2]}}, got 2."),
    ("{tune: [1.5, null]}", f"{AT}.tune[1]: null cannot be a value of an axis; it only removes a key in an arm."),
    ("{tune: [1.5, 2, 1.5]}", f"{AT}.tune[2]: 1.5 is on this axis already; remove one of them."),
    ("{tune: [2, 2.0]}", f"{AT}.tune[1]: 2 is on this axis already; remove one of them."),
    ("{tune: [1.5, x]}", f"{AT}.tune[1]: expected a number from 0 to 1000, got 'x'."),
    ("{tune: {low: 4, high: 1.1}}", f"{AT}.tune.low: low 4 is not below high 1.1."),
    ("{tune: {low: 4, high: 4}}", f"{AT}.tune.low: low 4 is not below high 4."),
    (
        "{tune: {high: 4}}",
        f"{AT}.tune: 'low' is missing. A range is {{tune: {{low: 1.1, high: 4}}}}, perhaps with points and log: true.",
    ),
    (
        "{tune: {low: 4}}",
        f"{AT}.tune: 'high' is missing. A range is {{tune: {{low: 1.1, high: 4}}}}, perhaps with points and log: true.",
    ),
    (
        "{tune: {low: a, high: 4}}",
        f"{AT}.tune.low: expected a number, got 'a'. A range is {{tune: {{low: 1.1, high: 4}}}}, perhaps with "
        "points and log: true.",
    ),
    ("{tune: {low: 1, high: .inf}}", f"{AT}.tune.high: .inf is not allowed: a number must be finite."),
    ("{tune: {low: 1, high: 4, points: 2}}", f"{AT}.tune.points: expected a whole number from 3 to 65, got 2."),
    ("{tune: {low: 1, high: 4, points: 66}}", f"{AT}.tune.points: expected a whole number from 3 to 65, got 66."),
    ("{tune: {low: 1, high: 4, points: 4.5}}", f"{AT}.tune.points: expected a whole number from 3 to 65, got 4.5."),
    ("{tune: {low: 0, high: 4, log: true}}", f"{AT}.tune.low: with log: true the range must be above 0, got 0."),
    ("{tune: {low: 1, high: 4, log: 1}}", f"{AT}.tune.log: expected true or false, got 1."),
    (
        "{tune: {low: 1, high: 4, pionts: 5}}",
        f"{AT}.tune: unknown key 'pionts'. Did you mean 'points'? Known: high, log, low, points.",
    ),
    (
        "{tune: {low: 1, high: 1.0001}}",
        f"{AT}.tune: its 9 points, to four digits, are not distinct; give fewer, or a wider range.",
    ),
    (
        "{tune: {low: -1, high: 4}}",
        f"{AT}.tune: expected a number from 0 to 1000, got -1. It is one of 9 points from -1 to 4.",
    ),
    (
        "{grid: [{tune: [1, 2]}, 3]}",
        f"{AT}.grid[0]: an axis cannot stand inside an axis; write each combination as a mapping: {{tune: [..., "
        "...]}.",
    ),
    (
        "{tune: [{grid: [1, 2]}, 3]}",
        f"{AT}.tune[0]: an axis cannot stand inside an axis; write each combination as a mapping: {{grid: [..., "
        "...]}.",
    ),
    (
        "[{tune: [1, 2]}]",
        f"{AT}[0]: an axis cannot stand inside a list; make each value a whole list: {{tune: [..., ...]}}.",
    ),
    ("{tune: [1, 2], high: 3}", f"{AT}.high: an axis has no other key; remove 'high': {{tune: [1, 2]}}."),
    ("{tune: [1, 2], grid: [3, 4]}", f"{AT}.tune: an axis has no other key; remove 'tune': {{grid: [1, 2]}}."),
    (
        "2, scael: {tune: [1, 2]}",
        "14: arms.cfg.cfg: unknown key 'scael'. Did you mean 'scale'? Known: channels, interval, scale, schedule.",
    ),
    (
        "2}, cgf: {scale: {tune: [1, 2]}",
        "14: arms.cfg: unknown key 'cgf'. Did you mean 'cfg'? Known: "
        f"{known('guidance', 'against', 'compose', 'network', 'sample', 'sampler')}.",
    ),
    (
        "2}, network: {tune: [sit, dit]",
        "14: arms.cfg.network: expected the name of one network, got a mapping. Known: sit.",
    ),
    ("2}, compose: {tune: [sum, nested]", "14: arms.cfg.compose: expected text, got a mapping."),
    (
        "2}, sampler: {steps: {tune: {low: 2, high: 9}}",
        "14: arms.cfg.sampler.steps.tune: expected a whole number from 1 to 100000, got 2.875. It is one of 9 "
        "points from 2 to 9; points: 8 gives whole numbers.",
    ),
    (
        "2}, sampler: {steps: {tune: {low: 2, high: 3}}",
        "14: arms.cfg.sampler.steps.tune: expected a whole number from 1 to 100000, got 2.125. It is one of 9 "
        "points from 2 to 3; write a list of whole numbers.",
    ),
]

MORE = [
    (
        SAMPLER,
        "sampler: {name: euler, steps: {tune: {low: 4, high: 9}}}",
        "7: sampler.steps.tune: expected a whole number from 1 to 100000, got 4.625. It is one of 9 points "
        "from 4 to 9; points: 6 gives whole numbers.",
    ),
    (
        "steps: 8",
        "steps: {tune: {low: 8, high: 16, points: 4}}",
        "6: networks.sit.train.steps.tune: expected a whole number of at least 1, got 10.67. It is one of 4 "
        "points from 8 to 16; points: 9 gives whole numbers.",
    ),
    (
        "noise_dropout: 0.2",
        "noise_dropout: {tune: [0, 0.2]}",
        "15: arms.nag.nag: 'nag' needs a network that has learned the null noise condition: set "
        "networks.sit.train.noise_dropout above 0 (it is 0), such as 0.1.",
    ),
]

EXPECTED = "expected a number in the metric's unit, or a percentage of the baseline's value such as 1.3 %"
COMPARE = [
    *(
        ("1.3 %", wrong, f"11: compare.margin: {EXPECTED}, got {shown}.")
        for wrong, shown in (
            *(("a", "'a'"), ("x %", "'x %'"), ("1.3%%", "'1.3%%'"), ("true", "true"), ("[1]", "a list")),
        )
    ),
    *(
        ("1.3 %", wrong, f"11: compare.margin: {EXPECTED}, above 0, got {shown}.")
        for wrong, shown in (*(("0", "0"), ("-1", "-1"), ("0 %", "'0 %'"), ("-2 %", "'-2 %'")),)
    ),
    (
        "[fid_pixels, recall]",
        "[fid_pixel]",
        f"11: compare.agree[0]: unknown metric 'fid_pixel'. Did you mean 'fid_pixels'? {METRICS}",
    ),
    (  # a mean over extractors, of a metric that the sweep does not have
        "[fid_pixels, recall]",
        "[fd_ratio_mean]",
        f"11: compare.agree[0]: unknown metric 'fd_ratio_mean'. {METRICS}",
    ),
    ("[fid_pixels, recall]", "[recall, recall]", "11: compare.agree[1]: 'recall' is in the list already."),
    (
        "[fid_pixels, recall]",
        "recall",
        "11: compare.agree: expected a list such as [fid_dinov2, recall], got 'recall'.",
    ),
    ("agree:", "agrees:", "11: compare: unknown key 'agrees'. Did you mean 'agree'? Known: agree, margin."),
]

SCALE = "16: arms.match.cfg.scale.match"
ONLY = "only the scale of cfg can match another arm: {cfg: {scale: {match: nag}}}."
MATCHES = [
    ("{cfg: {scale: {match: nga}}}", f"{SCALE}: unknown arm 'nga'. Did you mean 'nag'? Known: cfg, nag, plain."),
    ("{cfg: {scale: {match: match}}}", f"{SCALE}: match -> match is a circle; an arm must match another one."),
    (
        "{cfg: {scale: {match: two}}}\n  two: {cfg: {scale: {match: match}}}",
        f"{SCALE}: match -> two -> match is a circle; an arm must match another one.",
    ),
    (
        "{cfg: {scale: {match: two}}}\n  two: {cfg: {scale: {match: nag}}}",
        f"{SCALE}: 'two' matches an arm itself; match 'nag'.",
    ),
    ("{cfg: {scale: {match: plain}}}", f"{SCALE}: 'plain' has no guidance, so there is nothing to match."),
    ("{cfg: {scale: {match: [nag]}}}", f"{SCALE}: expected text, got a list."),
    ("{nag: {scale: {match: nag}}}", f"16: arms.match.nag.scale: {ONLY}"),
    ("{cfg: {match: nag}}", f"16: arms.match.cfg: {ONLY}"),
    ("{cfg: {scale: 2, interval: {low: {match: nag}}}}", f"16: arms.match.cfg.interval.low: {ONLY}"),
    ("{cfg: {scale: {grid: [{match: nag}, 2]}}}", f"16: arms.match.cfg.scale.grid[0]: {ONLY}"),
    (
        "{cfg: {scale: {match: nag, low: 1}}}",
        "16: arms.match.cfg.scale.low: match has no other key; remove 'low': {match: nag}.",
    ),
    (
        "{cfg: {scale: {match: nag}, interval: {tune: [{}, {high: 0.5}]}}}",
        f"{SCALE}: this arm is tuned too (2 candidates); only its scale may be left open.",
    ),
]


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        *SECTION,
        *((VALUES, wrong, expected) for wrong, expected in AXIS),
        *MORE,
        *COMPARE,
        *((MATCH, wrong, expected) for wrong, expected in MATCHES),
    ],
)
def test_one_clear_message(
    right: str, wrong: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert right in SWEEP
    assert message(SWEEP.replace(right, wrong, 1)) == f"x.yaml:{expected}"


def test_networks_of_a_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one network, which has learned the null class."""
    monkeypatch.chdir(tmp_path)
    other = SWEEP[SWEEP.index("  sit:") : SWEEP.index("sampler:")].replace("sit:", "two:", 1)
    two = SWEEP.replace("sampler:", f"{other}network: sit\nsampler:").replace(MATCH, f"{MATCH[:-1]}, network: two}}")
    assert message(two) == (
        "x.yaml:21: arms.match.cfg.scale.match: 'nag' samples another network; only arms of one network can be matched."
    )
    untaught = SWEEP.replace("class_dropout: 0.2", "class_dropout: 0").replace(
        f"  cfg: {{cfg: {{scale: {VALUES}}}}}\n", ""
    )
    assert message(untaught) == (
        "x.yaml:15: arms.match.cfg: 'cfg' needs a network that has learned the null class condition: "
        "set networks.sit.train.class_dropout above 0 (it is 0), such as 0.1."
    )
