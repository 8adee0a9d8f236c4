"""Mistakes in sections and arms of a sweep: one message each, with line, key path, value, known names, fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.orchestrator.spec.bad_sweep import (
    DATA,
    DATASETS,
    FEATURES,
    METRICS,
    PLAIN,
    PRE,
    SAMPLER,
    SAMPLERS,
    SMALL,
    TOP,
    known,
    said,
)

# What stands in SWEEP, what a user wrote instead, and the message without the file's name.
SECTIONS = [
    ("name: digits\n", "", "1: 'name' is missing. A sweep needs name, networks and arms."),
    (
        "name: digits\n",
        "name: my digits\n",
        "1: name: 'my digits' is not a valid name: a letter, then up to 63 letters, digits, '_' or '-'.",
    ),
    ("name: digits\n", "name: {grid: [a, b]}\n", "1: name: expected text, got a mapping."),
    ("sampler:", "samplers:", f"7: unknown key 'samplers'. Did you mean 'sampler'? {TOP}"),
    ("sample:", "nag: {scale: 1}\nsample:", "8: nag: guidance belongs in an arm: {arms: {NAME: {nag: ...}}}."),
    (
        "  sit:",
        "  2x:",
        "3: networks.2x: '2x' is not a valid name: a letter, then up to 63 letters, digits, '_' or '-'.",
    ),
    (DATA, "", "3: networks.sit: 'data' is missing. A network needs data, model and train."),
    (DATA, "data: digit", f"4: networks.sit.data: unknown name 'digit'. Did you mean 'digits'? {DATASETS}"),
    (
        DATA,
        "dat: digits",
        "4: networks.sit: unknown key 'dat'. Did you mean 'data'? "
        "Known: autoencoder, data, interpolant, model, precondition, predicts, time, train.",
    ),
    (
        DATA,
        "predicts: noise\n    data: digits",
        "4: networks.sit.predicts: unknown prediction 'noise'. Known: eps, score, velocity, x0.",
    ),
    (
        DATA,
        "interpolant: cos\n    data: digits",
        f"4: networks.sit.interpolant: unknown name 'cos'. Known: {known('interpolants')}.",
    ),
    (
        PRE,
        "  pre: {checkpoint: nothing.pt}\n  sit:",
        "3: networks.pre.checkpoint: there is no file 'nothing.pt'. To plan without it, add family: dit or sit.",
    ),
    (
        PRE,
        "  pre: {checkpoint: x.yaml}\n  sit:",
        "3: networks.pre.checkpoint: x.yaml: neither a file of torch.save nor safetensors: "
        "it begins with b'name: dig'.",
    ),
    (
        PRE,
        "  pre: {checkpoint: x.yaml, family: dti}\n  sit:",
        "3: networks.pre.family: unknown family 'dti'. Did you mean 'dit'? Known: diffusers, dit, repa, sit.",
    ),
    (
        PRE,
        "  ft: {init: sti, data: digits, train: {steps: 1}}\n  sit:",
        "3: networks.ft.init: unknown network 'sti'. Did you mean 'sit'? Known: sit.",
    ),
    (
        PRE,
        "  a: {init: b, data: digits, train: {steps: 1}}\n  b: {init: a, data: digits, train: {steps: 1}}\n  sit:",
        "4: networks.b.init: a -> b -> a is a circle; a network must start from another one.",
    ),
    (
        PRE,
        "  ft: {init: sit, model: {name: sit}, data: digits, train: {steps: 1}}\n  sit:",
        "3: networks.ft: unknown key 'model'. Known: autoencoder, data, init, train.",
    ),
    (
        "class_dropout: 0.1",
        "only: null_noise",
        "6: networks.sit.train: only: null_noise needs init: NETWORK and a noise_dropout above 0.",
    ),
    (DATA, "data: {use: ./x.py:X}", "4: networks.sit.data.use: x.py: there is no such file."),
    (
        DATA,
        "data: {use: x.py}",
        "4: networks.sit.data.use: expected a file and a class in it, such as ./mine.py:MyClass, got 'x.py'.",
    ),
    (
        DATA,
        "data: {use: ./x.py:X, name: digits}",
        "4: networks.sit.data.name: 'name' (a method of nagbench) and 'use' (your own) exclude each other; remove one.",
    ),
    (
        DATA,
        f"{DATA}\n    interpolant: {{use: ./x.py:X}}",
        "5: networks.sit.interpolant.use: your own code is not possible here, "
        "only for datasets, features, guidance, metrics, models, samplers.",
    ),
    (f"features: {FEATURES}, ", "", f"9: score: 'features' is missing. Known: {known('features')}."),
    (FEATURES, "[digits, digits]", "9: score.features[1]: 'digits' is in the list already."),
    (FEATURES, "digits", "9: score.features: expected a list such as [digits, pixels], got 'digits'."),
    (
        METRICS,
        "[fid, fdi]",
        f"9: score.metrics[1]: unknown name 'fdi'. Did you mean 'fid'? Known: {known('metrics')}.",
    ),
    (
        FEATURES,
        "[pixels]",
        "9: score.metrics[2]: 'class_accuracy' needs logits, which none of these features provides. "
        "Add one of: digits, inception.",
    ),
    (
        f"sampler: {SAMPLER}\n",
        "",
        f"10: arms.plain: it has no sampler; add sampler: {SAMPLER} here or at the top level. {SAMPLERS}",
    ),
]

ARMS = [
    (PLAIN, "plain:", "11: arms.plain: an arm that changes nothing is {}."),
    (PLAIN, "plain: x", "11: arms.plain: expected a mapping such as {cfg: {scale: 1.5}}, got 'x'."),
    (PLAIN, "a b: {}", "11: arms.a b: 'a b' is not a valid name: a letter, then up to 63 letters, digits, '_' or '-'."),
    (
        PLAIN,
        "plain: {gpus: 8}",
        f"11: arms.plain: unknown key 'gpus'. "
        f"Known: {known('guidance', 'against', 'compose', 'network', 'sample', 'sampler')}.",
    ),
    (
        PLAIN,
        "plain: {compose: nested}",
        "11: arms.plain.compose: nested puts one guidance inside the branches of another, such as nag inside cfg; "
        "this arm has no guidance.",
    ),
    (
        PLAIN,
        "plain: {cfg: {scale: 1.5}, compose: nested}",
        "11: arms.plain.compose: nested puts one guidance inside the branches of another, such as nag inside cfg; "
        "this arm has cfg.",
    ),
    (
        PLAIN,
        "plain: {mine: {use: ./x.py:X}}",
        "11: arms.plain.mine.use: x.py: there is no such file.",
    ),
    (
        PLAIN,
        "plain: {mine: {use: {grid: [./x.py:X]}}}",
        "11: arms.plain.mine.use.grid[0]: x.py: there is no such file.",
    ),
    (
        PLAIN,
        "plain: {mine: {use: 3}}",
        "11: arms.plain.mine.use: expected text, got 3.",
    ),
    (
        PLAIN,
        "plain: {cfg: {use: ./x.py:X}}",
        "11: arms.plain.cfg: 'cfg' is a name of nagbench; give your guidance another name.",
    ),
    (
        PLAIN,
        "plain: {sit: {use: ./x.py:X}}",
        "11: arms.plain.sit: 'sit' is a network of this sweep; give your guidance another name.",
    ),
    (
        PLAIN,
        "plain: {mine: {grid: [{use: ./x.py:X}, {scale: 2}]}}",
        "11: arms.plain.mine.grid[0].use: x.py: there is no such file.",
    ),
    (PLAIN, "plain: {network: pre}", "11: arms.plain.network: unknown network 'pre'. Known: sit."),
    (
        PLAIN,
        "plain: {against: cgf}",
        "11: arms.plain.against: unknown arm 'cgf'. Did you mean 'cfg'? Known: both, cfg, nag, plain.",
    ),
    (
        PLAIN,
        "plain: {against: plain}",
        "11: arms.plain.against: 'plain' cannot be its own baseline. Known: both, cfg, nag.",
    ),
    (
        PLAIN,
        "plain: {sampler: {steps: null}}",
        "11: arms.plain.sampler: 'steps' is missing; it is a whole number from 1 to 100000.",
    ),
    (
        PLAIN,
        "plain: {sampler: heun}",
        "11: arms.plain.sampler: 'steps' is missing; it is a whole number from 1 to 100000.",
    ),
    (
        "noise_dropout: 0.15, ",
        "",
        "13: arms.nag.nag: 'nag' needs a network that has learned the null noise condition: "
        "set networks.sit.train.noise_dropout above 0 (it is 0), such as 0.1.",
    ),
    (
        "class_dropout: 0.1",
        "class_dropout: 0",
        "12: arms.cfg.cfg: 'cfg' needs a network that has learned the null class condition: "
        "set networks.sit.train.class_dropout above 0 (it is 0), such as 0.1.",
    ),
    (
        PLAIN,
        "plain: {compose: nest}",
        "11: arms.plain.compose: unknown value of compose 'nest'. Did you mean 'nested'? Known: nested, sum.",
    ),
    (
        PLAIN,
        "plain: {dog: {scale: 1.5, reference: pre}}",
        "11: arms.plain.dog.reference: unknown generating network 'pre'. Known: sit.",
    ),
    (
        PLAIN,
        "plain: {nag_classifier: {scale: 1.5, reference: sit}}",
        "11: arms.plain.nag_classifier.reference: unknown noise_level network 'sit'. Known: none.",
    ),
    (
        PLAIN,
        "plain: {cfg: {scale: 1.5, interval: {low: 0.5, high: 0.2}}}",
        "11: arms.plain.cfg.interval: low (0.5) must not be above high (0.2).",
    ),
    (
        PLAIN,
        "plain: {cfg: {scale: 1.5, interval: {lo: 0.5}}}",
        "11: arms.plain.cfg.interval: unknown key 'lo'. Did you mean 'low'? Known: high, low.",
    ),
    (
        PLAIN,
        "plain: {cfg: {scale: 1.5, interval: {low: 1.5}}}",
        "11: arms.plain.cfg.interval.low: expected a number from 0 to 1, got 1.5.",
    ),
    (
        PLAIN,
        "plain: {cfg: {scale: 1.5, channels: some}}",
        "11: arms.plain.cfg.channels: expected all or a whole number of at least 1, got 'some'.",
    ),
    (
        PLAIN,
        "plain: {sampler: {name: ddpm, steps: 10}}",
        "11: arms.plain.sampler: 'ddpm' cannot sample network 'sit': its steps are those of trained betas "
        "(interpolant vp); ddim with eta 1 takes such steps on any path.",
    ),
    (
        "sampler:",
        f"  pre: {{{DATA}, model: {SMALL}, train: {{steps: 1}}}}\nsampler:",
        "12: arms.plain: there are several networks; add network: NAME. Known: sit, pre.",
    ),
]


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("right", "wrong", "expected"), [*SECTIONS, *ARMS])
def test_one_clear_message(right: str, wrong: str, expected: str) -> None:
    assert said(right, wrong) == f"x.yaml:{expected}"
