"""Every mistake in a sweep file gets one sentence: line, key path, value, known names, fix (STYLE.md, rule 11)."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nag.registry import METHODS
from orchestrator.errors import BadInput, SpecError
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import TINY, changed

SWEEP = """\
name: digits
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}
    train: {steps: 500, batch: 128, lr: 2e-3, noise_dropout: 0.15, class_dropout: 0.1, seed: {grid: [0, 1, 2]}}
sampler: {name: euler, steps: 10}
sample: {count: 1000, block: 100, seed: 0}
score: {features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}
arms:
  plain: {}
  cfg: {cfg: {scale: {grid: [1.25, 1.5]}}}
  nag: {nag: {scale: {grid: [1.0, 2.0]}}}
  both: {cfg: {scale: 1.75}, nag: {scale: 1.0}, against: cfg}
"""

DATA = "data: {name: digits}"
SMALL = "{name: sit, hidden: 8, depth: 1, heads: 2, patch: 2}"
SAMPLER = "{name: euler, steps: 10}"
FEATURES = "[digits, pixels]"
METRICS = "[fid, precision_recall, class_accuracy]"
PLAIN = "plain: {}"
PRE = "  sit:"
CFG = "cfg: {scale: 1.75}"
MANY = "{grid: [" + ", ".join(map(str, range(1, 400))) + "]}"


def known(family: str, *more: str) -> str:
    return ", ".join(sorted((*METHODS[family], *more)))


SAMPLERS = f"Known: {known('samplers')}."
DATASETS = f"Known: {known('datasets')}."
TOP = "Known: arms, keep, measure, name, network, networks, precision, published, sample, sampler, score."

# What stands in SWEEP, what a user wrote instead, and the message without the file's name.
YAML = [
    (
        PLAIN,
        "plain: {scale: 012}",
        "11: arms.plain.scale: 012 has a leading zero. Write 12, or quotes if text is meant.",
    ),
    (
        PLAIN,
        "plain: {scale: -01.5}",
        "11: arms.plain.scale: -01.5 has a leading zero. Write -1.5, or quotes if text is meant.",
    ),
    (PLAIN, "plain: {scale: .nan}", "11: arms.plain.scale: .nan is not allowed: a number must be finite."),
    (PLAIN, "plain: {scale: -.inf}", "11: arms.plain.scale: -.inf is not allowed: a number must be finite."),
    (PLAIN, "plain: {scale: 1e999}", "11: arms.plain.scale: 1e999 is too large for a number."),
    ("1000", "9" * 20, "8: sample.count: 99999999999999999999 is too large for a whole number (64 bits)."),
    (SAMPLER, "{name: euler, steps: 10, steps: 20}", "7: sampler: repeated key 'steps'; it is on line 7 already."),
    (PLAIN, "cfg: {}", "12: arms: repeated key 'cfg'; it is on line 11 already."),
    (PLAIN, "1: {}", "11: arms: a key must be text, not 1. Put it in quotes if text is meant."),
    (PLAIN, "true: {}", "11: arms: a key must be text, not true. Put it in quotes if text is meant."),
    (PLAIN, "[a]: {}", "11: arms: a key must be text, not a list. Put it in quotes if text is meant."),
    (PLAIN, "plain: {<<: {}}", "11: arms.plain: '<<' is not allowed. Write the keys out, or use an alias (*name)."),
    (PLAIN, "plain: !x {}", "11: arms.plain: tags are not allowed: !x. Write the plain value."),
    (
        PLAIN,
        "plain: !!python/object/apply:os.system [ls]",
        "11: arms.plain: tags are not allowed: !!python/object/apply:os.system. Write the plain value.",
    ),
    (PLAIN, "plain: *other", "11: there is no anchor &other above this line."),
    (PLAIN, "plain: &a {b: *a}", "11: it is nested deeper than 50 levels."),
    (PLAIN, "plain: " + "[" * 60, "11: it is nested deeper than 50 levels."),
    (PLAIN, "plain: {", "13: a ',' or the closing '}' is missing, here or above; it was opened on line 11."),
    (PLAIN, "plain: 'x", "11: a quote is opened and never closed."),
    (PLAIN, "\tplain: {}", "11: a tab; indent with spaces."),
    (PLAIN, "plain: %x", "11: a value cannot start with '%'; put it in quotes."),
    (
        PLAIN,
        "plain: a: b",
        "11: a ':' cannot stand here; check this line and the one above, or put the text in quotes.",
    ),
    (PLAIN, " plain: {}", "12: this line does not line up with the ones above it; check the indentation."),
    (PLAIN, "plain: {}\n---", "12: a second document begins here; a sweep file holds one (remove the '---')."),
    (PLAIN, "plain: \a", "11: the character '\\x07' is not allowed."),
]

VALUES = [
    (
        CFG,
        "cfg: {scal: 2}",
        "14: arms.both.cfg: unknown key 'scal'. Did you mean 'scale'? Known: channels, interval, scale.",
    ),
    (CFG, "cfg: {scale: -1}", "14: arms.both.cfg.scale: expected a number from 0 to 1000, got -1."),
    (CFG, "cfg: {scale: 2e3}", "14: arms.both.cfg.scale: expected a number from 0 to 1000, got 2000."),
    (CFG, "cfg: {scale: true}", "14: arms.both.cfg.scale: expected a number from 0 to 1000, got true."),
    (CFG, "cfg: {scale: [1, 2]}", "14: arms.both.cfg.scale: expected a number from 0 to 1000, got a list."),
    (CFG, "cfg: {}", "14: arms.both.cfg: 'scale' is missing; it is a number from 0 to 1000."),
    (CFG, "cfg: 1.75", "14: arms.both.cfg: expected a mapping such as {scale: ...}, got 1.75."),
    (
        CFG,
        "cfg: {scale: off}",
        "14: arms.both.cfg.scale: expected a number from 0 to 1000, got 'off'. Only true and false are booleans.",
    ),
    (
        CFG,
        "cfg: {scale: '1.5'}",
        "14: arms.both.cfg.scale: expected a number from 0 to 1000, got '1.5'. Write the number without quotes.",
    ),
    (
        CFG,
        "cfg: {scale: 1:30}",
        "14: arms.both.cfg.scale: expected a number from 0 to 1000, got '1:30'. With ':' it is text; write one number.",
    ),
    (
        "batch: 128",
        "ema_warmup: off",
        "6: networks.sit.train.ema_warmup: expected true or false, got 'off'. Only true and false are booleans.",
    ),
    ("batch: 128", "ema_warmup: 1", "6: networks.sit.train.ema_warmup: expected true or false, got 1."),
    ("lr: 2e-3", "lr: fast", "6: networks.sit.train.lr: expected a number above 0, got 'fast'."),
    (
        "noise_dropout: 0.15",
        "noise_dropout: 1.5",
        "6: networks.sit.train.noise_dropout: expected a number of at least 0 and below 1, got 1.5.",
    ),
    ("hidden: 64", "hidden: 66", "5: networks.sit.model: hidden (66) must be a multiple of heads (4)."),
    (DATA, "data: {name: digits, size: 8}", "4: networks.sit.data: unknown key 'size'. Known: none."),
    ("steps: 10", "steps: 10.5", "7: sampler.steps: expected a whole number from 1 to 100000, got 10.5."),
    ("steps: 10", "steps: 1_0", "7: sampler.steps: expected a whole number from 1 to 100000, got '1_0'. Write 10."),
    ("steps: 10", "step: 10", "7: sampler: unknown key 'step'. Did you mean 'steps'? Known: steps."),
    (": euler", ": eular", f"7: sampler.name: unknown name 'eular'. Did you mean 'euler'? {SAMPLERS}"),
    (": euler", ": 3", "7: sampler.name: expected text, got 3."),
    (SAMPLER, "10", "7: sampler: expected a mapping such as {name: euler, steps: 10}, got 10."),
    (SAMPLER, "euler", "7: sampler: 'steps' is missing; it is a whole number from 1 to 100000."),
    (SAMPLER, "{steps: 10}", f"7: sampler: 'name' is missing. {SAMPLERS}"),
    (
        SAMPLER,
        "{name: euler_maruyama, steps: 10, last_step: men}",
        "7: sampler.last_step: unknown value 'men'. Did you mean 'mean'? Known: euler, mean, none.",
    ),
    ("count: 1000", "count: 0", "8: sample.count: expected a whole number from 1 to 100000000, got 0."),
    ("block", "blok", "8: sample: unknown key 'blok'. Did you mean 'block'? Known: block, count, labels, seed."),
    ("seed: 0", "labels: even", "8: sample.labels: unknown value 'even'. Known: balanced, uniform."),
]

AXES = [
    ("[0, 1, 2]", "[]", "6: networks.sit.train.seed.grid: expected a list such as {grid: [1, 2]}, got an empty list."),
    ("[0, 1, 2]", "3", "6: networks.sit.train.seed.grid: expected a list such as {grid: [1, 2]}, got 3."),
    (
        "[0, 1, 2]",
        "[0, 1, 1]",
        "6: networks.sit.train.seed.grid[2]: 1 is on this axis already; a value may be there once.",
    ),
    (
        "[0, 1, 2]",
        "[1, 1e0]",
        "6: networks.sit.train.seed.grid[1]: 1 is on this axis already; a value may be there once.",
    ),
    ("[0, 1, 2]", "[0, x]", "6: networks.sit.train.seed.grid[1]: expected a whole number of at least 0, got 'x'."),
    (
        "[0, 1, 2]",
        "[0, null]",
        "6: networks.sit.train.seed.grid[1]: null is no value of an axis; it only removes a key in an arm.",
    ),
    (
        "[0, 1, 2]",
        "[0, 1], x: 2",
        "6: networks.sit.train.seed.x: an axis is {grid: [1, 2]} and nothing else; 'x' stands beside it.",
    ),
    (
        "steps: 10",
        "steps: {grid: [10, {grid: [5]}]}",
        "7: sampler.steps.grid[1]: an axis cannot stand inside an axis; "
        "write the combinations out as mappings: {grid: [..., ...]}.",
    ),
    (
        "steps: 10",
        "steps: [{grid: [5]}]",
        "7: sampler.steps[0]: an axis cannot stand inside a list; make the whole list a value: {grid: [..., ...]}.",
    ),
    (
        PLAIN,
        f"plain: {{sampler: {{grid: [{SAMPLER}, {SAMPLER}]}}}}",
        "11: arms.plain.sampler.grid[1]: a mapping is on this axis already; a value may be there once.",
    ),
    (
        METRICS,
        "[{name: precision_recall, k: {grid: [3, 5]}}]",
        "9: score.metrics[0].k: an axis cannot stand here, only in networks, sampler, sample and arms.",
    ),
    (
        PLAIN,
        "plain: {network: {grid: [sit]}}",
        "11: arms.plain.network: expected the name of one network, got a mapping. Known: sit.",
    ),
    (
        "steps: 500, batch: 128",
        f"steps: {MANY}, batch: {MANY}",
        "3: networks.sit: its axes have 477,603 combinations; at most 100,000 are allowed.",
    ),
    (
        PLAIN,
        f"plain: {{cfg: {{scale: {MANY}}}, nag: {{scale: {MANY}}}}}",
        "11: arms.plain: with this arm the sweep has 477,603 cells; at most 100,000 are allowed.",
    ),
]

SECTIONS = [
    ("name: digits\n", "", "1: 'name' is missing. A sweep needs name, networks and arms."),
    (
        "name: digits\n",
        "name: my digits\n",
        "1: name: 'my digits' is no name: a letter, then up to 63 letters, digits, '_' or '-'.",
    ),
    ("name: digits\n", "name: {grid: [a, b]}\n", "1: name: expected text, got a mapping."),
    ("sampler:", "samplers:", f"7: unknown key 'samplers'. Did you mean 'sampler'? {TOP}"),
    ("sample:", "nag: {scale: 1}\nsample:", "8: nag: guidance stands in an arm: {arms: {NAME: {nag: ...}}}."),
    ("  sit:", "  2x:", "3: networks.2x: '2x' is no name: a letter, then up to 63 letters, digits, '_' or '-'."),
    (DATA, "", "3: networks.sit: 'data' is missing. A network needs data, model and train."),
    (DATA, "data: digit", f"4: networks.sit.data: unknown name 'digit'. Did you mean 'digits'? {DATASETS}"),
    (
        DATA,
        "dat: digits",
        "4: networks.sit: unknown key 'dat'. Did you mean 'data'? "
        "Known: autoencoder, data, interpolant, model, predicts, train.",
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
        "3: networks.pre.checkpoint: there is no file 'nothing.pt'. One that is elsewhere needs its family: dit or "
        "sit.",
    ),
    (
        PRE,
        "  pre: {checkpoint: x.yaml}\n  sit:",
        "3: networks.pre.checkpoint: it does not describe itself, so say what it is: family: dit or family: sit.",
    ),
    (
        PRE,
        "  pre: {checkpoint: x.yaml, family: dti}\n  sit:",
        "3: networks.pre.family: unknown family 'dti'. Did you mean 'dit'? Known: dit, sit.",
    ),
    (
        PRE,
        "  ft: {init: sti, data: digits, train: {steps: 1}}\n  sit:",
        "3: networks.ft.init: unknown network 'sti'. Did you mean 'sit'? Known: sit.",
    ),
    (
        PRE,
        "  a: {init: b, data: digits, train: {steps: 1}}\n  b: {init: a, data: digits, train: {steps: 1}}\n  sit:",
        "4: networks.b.init: a -> b -> a is a circle; a network starts from another.",
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
        "4: networks.sit.data.name: 'name' is one of ours and 'use' one of yours; only one of them can stand here.",
    ),
    (
        DATA,
        f"{DATA}\n    interpolant: {{use: ./x.py:X}}",
        "5: networks.sit.interpolant.use: a file of your own cannot stand here, "
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
        "9: score.metrics[2]: 'class_accuracy' needs logits, which none of these features gives. Add one of: digits, "
        "inception.",
    ),
    (
        f"sampler: {SAMPLER}\n",
        "",
        f"10: arms.plain: it has no sampler; write {SAMPLER} here or at the top level. {SAMPLERS}",
    ),
]

ARMS = [
    (PLAIN, "plain:", "11: arms.plain: an arm that changes nothing is written {}."),
    (PLAIN, "plain: x", "11: arms.plain: expected a mapping such as {cfg: {scale: 1.5}}, got 'x'."),
    (PLAIN, "a b: {}", "11: arms.a b: 'a b' is no name: a letter, then up to 63 letters, digits, '_' or '-'."),
    (
        PLAIN,
        "plain: {gpus: 8}",
        f"11: arms.plain: unknown key 'gpus'. "
        f"Known: {known('guidance', 'against', 'compose', 'network', 'sample', 'sampler')}.",
    ),
    (
        PLAIN,
        "plain: {compose: nested}",
        "11: arms.plain.compose: nested is NAG inside both branches of CFG; the arm needs cfg and nag.",
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
        "11: arms.plain.cfg: 'cfg' is a name of ours; give your guidance another name.",
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
        "11: arms.plain.compose: unknown way to compose 'nest'. Did you mean 'nested'? Known: nested, sum.",
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


def message(text: str) -> str:
    Path("x.yaml").write_text(text)
    with pytest.raises(BadInput) as caught:
        read_sweep("x.yaml")
    return str(caught.value)


@pytest.mark.parametrize(("right", "wrong", "expected"), [*YAML, *VALUES, *AXES, *SECTIONS, *ARMS])
def test_one_clear_message(right: str, wrong: str, expected: str) -> None:
    assert right in SWEEP
    assert message(SWEEP.replace(right, wrong, 1)) == f"x.yaml:{expected}"


def test_the_first_mistake_of_the_file_is_the_one_reported() -> None:
    text = SWEEP.replace("hidden: 64", "hidden: 0").replace("steps: 10", "steps: 0").replace(PLAIN, "plain: {x: 1}")
    assert message(text).startswith("x.yaml:5: networks.sit.model.hidden: ")
    assert message(text.replace("hidden: 0", "hidden: 64")).startswith("x.yaml:7: sampler.steps: ")


def test_an_arm_cannot_set_a_field_of_a_whole_axis() -> None:
    text = SWEEP.replace(SAMPLER, f"{{grid: [{SAMPLER}]}}").replace(PLAIN, "plain: {sampler: {steps: 4}}")
    assert message(text) == (
        "x.yaml:11: arms.plain.sampler: a field cannot be set on the axis of line 7; "
        "write the whole value with its name, or an axis."
    )


def test_a_block_style_mistake_is_shown_at_the_line_of_its_key() -> None:
    text = SWEEP.replace(PLAIN, "plain:\n    cfg:\n      scale:\n        grid:\n          - 1.5\n          - -2")
    assert message(text) == "x.yaml:16: arms.plain.cfg.scale.grid[1]: expected a number from 0 to 1000, got -2."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "x.yaml: the file is empty. A sweep needs name, networks and arms."),
        (b"# later\n", "x.yaml: the file is empty. A sweep needs name, networks and arms."),
        (b"\x7fELF\xff", "x.yaml: this is no sweep: it is not UTF-8 text (byte 4, line 1)."),
        (b"name: \0", "x.yaml: this is no sweep: it is a binary file."),
        (b"#" * 1_000_001, "x.yaml: this is no sweep: it is over 1 MB."),
        (b"- a", "x.yaml:1: expected a mapping such as {name: ..., networks: ..., arms: ...}, got a list."),
    ],
)
def test_a_file_that_is_no_sweep(content: bytes, expected: str) -> None:
    Path("x.yaml").write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_sweep("x.yaml")
    assert str(caught.value) == expected


def test_a_path_that_is_no_file() -> None:
    Path("sweeps").mkdir()
    Path("sweeps/digits.yaml").write_text(SWEEP)
    for path, expected in {
        "sweeps": "sweeps: this is a directory; give one sweep file, such as sweeps/digits.yaml.",
        "sweeps/digit.yaml": "sweeps/digit.yaml: there is no such file. Did you mean sweeps/digits.yaml?",
        "nowhere/x.yaml": "nowhere/x.yaml: there is no such file.",
        "sweeps/digits.yaml/x": "sweeps/digits.yaml/x: cannot be read: Not a directory.",
    }.items():
        with pytest.raises(BadInput) as caught:
            read_sweep(path)
        assert str(caught.value) == expected


def test_a_yaml_bomb_is_refused_early() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert message("\n".join(lines)).endswith(": it has over 100,000 values, its anchors written out.")


def test_any_key_or_value_may_be_wrong_without_a_traceback() -> None:
    """Every line of the sweep with every value swapped for one of another kind: a message, or a sweep."""
    for number, line in enumerate(SWEEP.splitlines()):
        for value in ("null", "[]", "{}", "x", "-1", "{grid: [x]}", "[[{}]]", "{use: x}", "{__dataclass_self__: 1}"):
            lines = SWEEP.splitlines()
            lines[number] = f"{line.partition(':')[0]}: {value}"
            Path("x.yaml").write_text("\n".join(lines))
            with contextlib.suppress(SpecError):
                read_sweep("x.yaml")


def peak(text: str, tmp_path: Path, command: str) -> tuple[str, float]:
    """What a command says of a sweep, and the most memory that it took, in MB."""
    (tmp_path / "big.yaml").write_text(text)
    code = (
        "import sys\nfrom pathlib import Path\nfrom orchestrator.cli import main\ntry:\n    main()\nfinally:\n"
        "    told = Path('/proc/self/status').read_text()\n"
        "    print(told.partition('VmHWM:')[2].split()[0], file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", code, command, str(tmp_path / "big.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert done.returncode == 2
    said, memory = done.stderr.rstrip("\n").rsplit("\n", 1)
    assert len(said) < 1000
    return said, int(memory) / 1024


def test_large_sweeps_take_little_memory(tmp_path: Path) -> None:
    long_key = f"name: x\n? {'k' * 400_000}\n: [{','.join('1' * 60_000)}]\n"
    said, memory = peak(long_key, tmp_path, "check")
    assert said.startswith(f"{tmp_path}/big.yaml:2: unknown key 'kkkk")
    assert memory < 400
    blocks = changed(TINY, "count: 40, block: 20", "count: 100000000, block: 1")
    said, memory = peak(blocks, tmp_path, "plan")
    assert re.search(r"big.yaml:\d+: sample: count 100,000,000 in blocks of 1 are 100,000,000 files", said)
    assert memory < 400
    said, memory = peak(changed(TINY, "count: 40, block: 20", "count: 90000, block: 1"), tmp_path, "plan")
    assert "its cells need 2,160,000 blocks, each a file; at most 2,000,000 are allowed" in said
    assert memory < 400
    aliases = f"name: x\na: &a {'b' * 9000}\nc: [{','.join(['*a'] * 200)}]\n"
    said, memory = peak(aliases, tmp_path, "check")
    assert "over 1,000,000 characters, its anchors written out" in said
