"""Every mistake in a sweep file gives one message: line, key, value, known names, fix. More in test_bad_sections.py."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import BadInput, SpecError
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import TINY, changed
from tests.orchestrator.spec.bad_sweep import (
    CFG,
    DATA,
    MANY,
    METRICS,
    PLAIN,
    SAMPLER,
    SAMPLERS,
    SWEEP,
    message,
    said,
)

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
    (SAMPLER, "{name: euler, steps: 10, steps: 20}", "7: sampler: repeated key 'steps'; it is already on line 7."),
    (PLAIN, "cfg: {}", "12: arms: repeated key 'cfg'; it is already on line 11."),
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
    (PLAIN, "plain: 'x", "11: a quote is never closed."),
    (PLAIN, "\tplain: {}", "11: a tab; indent with spaces."),
    (PLAIN, "plain: %x", "11: a value cannot start with '%'; put it in quotes."),
    (
        PLAIN,
        "plain: a: b",
        "11: a ':' cannot stand here; check this line and the one above, or put the text in quotes.",
    ),
    (PLAIN, " plain: {}", "12: this line is not aligned with the ones above it; check the indentation."),
    (PLAIN, "plain: {}\n---", "12: a second document begins here; a sweep file holds one (remove the '---')."),
    (PLAIN, "plain: \a", "11: the character '\\x07' is not allowed."),
]

VALUES = [
    (
        CFG,
        "cfg: {scal: 2}",
        "14: arms.both.cfg: unknown key 'scal'. Did you mean 'scale'? Known: channels, interval, scale, schedule.",
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
        "6: networks.sit.train.seed.grid[2]: 1 is on this axis already; remove one of them.",
    ),
    (
        "[0, 1, 2]",
        "[1, 1e0]",
        "6: networks.sit.train.seed.grid[1]: 1 is on this axis already; remove one of them.",
    ),
    ("[0, 1, 2]", "[0, x]", "6: networks.sit.train.seed.grid[1]: expected a whole number of at least 0, got 'x'."),
    (
        "[0, 1, 2]",
        "[0, null]",
        "6: networks.sit.train.seed.grid[1]: null cannot be a value of an axis; it only removes a key in an arm.",
    ),
    (
        "[0, 1, 2]",
        "[0, 1], x: 2",
        "6: networks.sit.train.seed.x: an axis has no other key; remove 'x': {grid: [1, 2]}.",
    ),
    (
        "steps: 10",
        "steps: {grid: [10, {grid: [5]}]}",
        "7: sampler.steps.grid[1]: an axis cannot stand inside an axis; "
        "write each combination as a mapping: {grid: [..., ...]}.",
    ),
    (
        "steps: 10",
        "steps: [{grid: [5]}]",
        "7: sampler.steps[0]: an axis cannot stand inside a list; make each value a whole list: {grid: [..., ...]}.",
    ),
    (
        PLAIN,
        f"plain: {{sampler: {{grid: [{SAMPLER}, {SAMPLER}]}}}}",
        "11: arms.plain.sampler.grid[1]: a mapping is on this axis already; remove one of them.",
    ),
    (
        METRICS,
        "[{name: precision_recall, k: {grid: [3, 5]}}]",
        "9: score.metrics[0].k: an axis is not possible here, only in networks, sampler, sample and arms.",
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


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("right", "wrong", "expected"), [*YAML, *VALUES, *AXES])
def test_one_clear_message(right: str, wrong: str, expected: str) -> None:
    assert said(right, wrong) == f"x.yaml:{expected}"


def test_the_first_mistake_of_the_file_is_the_one_reported() -> None:
    text = SWEEP.replace("hidden: 64", "hidden: 0").replace("steps: 10", "steps: 0").replace(PLAIN, "plain: {x: 1}")
    assert message(text).startswith("x.yaml:5: networks.sit.model.hidden: ")
    assert message(text.replace("hidden: 0", "hidden: 64")).startswith("x.yaml:7: sampler.steps: ")


def test_an_arm_cannot_set_a_field_of_a_whole_axis() -> None:
    text = SWEEP.replace(SAMPLER, f"{{grid: [{SAMPLER}]}}").replace(PLAIN, "plain: {sampler: {steps: 4}}")
    assert message(text) == (
        "x.yaml:11: arms.plain.sampler: a field of the axis on line 7 cannot be set; "
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
        (b"\x7fELF\xff", "x.yaml: this is not a sweep file: it is not UTF-8 text (byte 4, line 1)."),
        (b"name: \0", "x.yaml: this is not a sweep file: it is binary."),
        (b"#" * 1_000_001, "x.yaml: this is not a sweep file: it is over 1 MB."),
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
    assert message("\n".join(lines)).endswith(": it has over 100,000 values, counting each use of an anchor.")


def test_any_key_or_value_may_be_wrong_without_a_traceback() -> None:
    """Every line of the sweep with its value replaced by one of another type: a message, or a valid sweep."""
    for number, line in enumerate(SWEEP.splitlines()):
        for value in ("null", "[]", "{}", "x", "-1", "{grid: [x]}", "[[{}]]", "{use: x}", "{__dataclass_self__: 1}"):
            lines = SWEEP.splitlines()
            lines[number] = f"{line.partition(':')[0]}: {value}"
            Path("x.yaml").write_text("\n".join(lines))
            with contextlib.suppress(SpecError):
                read_sweep("x.yaml")


def peak(text: str, tmp_path: Path, command: str) -> tuple[str, float]:
    """The output of a command on a sweep, and its peak memory in MB."""
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
    assert "over 1,000,000 characters, counting each use of an anchor" in said
