"""A sweep file becomes cells: axes, overrides, parameters, numbers and `--smoke`."""

import subprocess
import sys
from pathlib import Path

import pytest

from nag.registry import METHODS, build
from orchestrator.errors import BadInput
from orchestrator.spec.reader import Cell, Sample, Sweep, read_sweep
from orchestrator.spec.yaml_nodes import parse

NETWORK = """\
    data: digits
    model: {name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}
"""
SWEEP = f"""\
name: digits
networks:
  sit:
{NETWORK}
    train: {{steps: 500, batch: 128, lr: 2e-3, noise_dropout: 0.15, class_dropout: 0.1, seed: {{grid: [0, 1, 2]}}}}
sampler: {{name: euler, steps: 10}}
sample: {{count: 1000, block: 100}}
score: {{features: [digits, pixels], metrics: [fid, precision_recall, class_accuracy]}}
"""
DESIGN = """\
arms:
  plain:   {}
  cfg:     {cfg: {scale: {grid: [1.25, 1.5]}}}
  nag:     {nag: {scale: {grid: [1.0, 2.0]}}}
  cfg_nag: {cfg: {scale: 1.25}, nag: {scale: 1.0}, against: cfg}
"""


@pytest.fixture
def read(tmp_path: Path):
    def read_text(text: str, smoke: bool = False) -> Sweep:
        (tmp_path / "x.yaml").write_text(text)
        return read_sweep(tmp_path / "x.yaml", smoke)

    return read_text


def one_arm(read, arm: str, top: str = SWEEP, smoke: bool = False) -> list[Cell]:
    return list(read(f"{top}arms: {{a: {arm}}}\n", smoke).cells)


def test_the_sweep_of_the_design_has_three_trainings_and_eighteen_cells(read) -> None:
    sweep = read(SWEEP + DESIGN)
    assert len(sweep.cells) == 18
    assert len({id(cell.network) for cell in sweep.cells}) == 3
    assert sweep.shared_axes == {"train.seed"}
    assert [(arm.name, arm.against) for arm in sweep.arms] == [
        ("plain", None),
        ("cfg", "plain"),
        ("nag", "plain"),
        ("cfg_nag", "cfg"),
    ]
    assert sweep.arms[3].overrides == {"cfg.scale", "nag.scale"}
    last = sweep.cells[-1]
    assert last.params == {
        "network": "sit",
        "train.seed": 2,
        "sampler": "euler",
        "sampler.steps": 10,
        "cfg.scale": 1.25,
        "nag.scale": 1.0,
    }
    assert list(last.params) == ["network", "train.seed", "sampler", "sampler.steps", "cfg.scale", "nag.scale"]
    assert last.sampler == build("samplers", "euler", steps=10)
    assert last.guidance == (build("guidance", "cfg", scale=1.25), build("guidance", "nag", scale=1.0))
    assert last.sample == Sample(count=1000, block=100)
    assert (last.network.train.seed, last.network.train.lr) == (2, 0.002)
    assert sweep.score is not None
    assert [type(f).__name__ for f in sweep.score.features] == ["Digits", "Pixels"]


def test_guidance_that_is_off_is_dropped_but_reported(read) -> None:
    cells = one_arm(read, "{nag: {scale: {grid: [0, 1]}}, cfg: {scale: 1}}")
    assert [cell.guidance for cell in cells[:2]] == [(), (build("guidance", "nag", scale=1.0),)]
    assert [cell.params["nag.scale"] for cell in cells[:2]] == [0.0, 1.0]
    assert all(type(cell.params[key]) is float for cell in cells for key in ("cfg.scale", "nag.scale"))


def test_the_order_of_guidance_does_not_matter(read) -> None:
    first = one_arm(read, "{nag: {scale: 1}, cfg: {scale: 2}}")
    second = one_arm(read, "{cfg: {scale: 2}, nag: {scale: 1}}")
    assert [(c.guidance, list(c.params)) for c in first] == [(c.guidance, list(c.params)) for c in second]


def test_guidance_that_is_off_needs_no_dropout(read) -> None:
    cells = one_arm(read, "{nag: {scale: 0}}", SWEEP.replace("noise_dropout: 0.15", "noise_dropout: 0"))
    assert [cell.guidance for cell in cells] == [()] * 3


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("{}", {"sampler": "euler_maruyama", "sampler.steps": 10, "sampler.last_step": "none"}),
        ("{sampler: {steps: 5}}", {"sampler": "euler_maruyama", "sampler.steps": 5, "sampler.last_step": "none"}),
        ("{sampler: {last_step: null}}", {"sampler": "euler_maruyama", "sampler.steps": 10}),
        ("{sampler: {name: heun, steps: 3}}", {"sampler": "heun", "sampler.steps": 3}),
        (
            "{sampler: {name: euler_maruyama, steps: 3}}",
            {"sampler": "euler_maruyama", "sampler.steps": 3, "sampler.last_step": "none"},
        ),
    ],
)
def test_an_arm_is_written_over_the_top_level(read, arm: str, expected: dict[str, object]) -> None:
    top = SWEEP.replace("{name: euler, steps: 10}", "{name: euler_maruyama, steps: 10, last_step: none}")
    params = dict(one_arm(read, arm, top)[0].params)
    assert {key: value for key, value in params.items() if key.startswith("sampler")} == expected


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        ("{}", set()),
        ("{network: sit}", {"network"}),
        ("{sampler: {steps: 5}}", {"sampler.steps"}),
        ("{sampler: {name: euler_maruyama, steps: 5}}", {"sampler", "sampler.steps"}),
        ("{sampler: {grid: [{name: heun, steps: 5}]}, sample: {seed: 1}}", {"sampler", "sampler.steps", "sample.seed"}),
        ("{sample: {count: null}}", {"sample.count"}),
    ],
)
def test_an_arm_overrides_what_it_writes_and_what_vanishes(read, arm: str, expected: set[str]) -> None:
    sweep = read(f"{SWEEP}arms: {{a: {arm}}}\n")
    assert sweep.arms[0].overrides == expected


def test_another_name_lets_the_old_fields_vanish(read) -> None:
    top = SWEEP.replace("{name: euler, steps: 10}", "{name: euler_maruyama, steps: {grid: [4, 8]}, last_step: none}")
    sweep = read(f"{top}arms: {{a: {{sampler: {{name: heun, steps: 5}}}}}}\n")
    assert sweep.arms[0].overrides == {"sampler", "sampler.steps", "sampler.last_step"}
    assert sweep.shared_axes == {"train.seed", "sampler.steps"}
    assert {cell.sampler for cell in sweep.cells} == {build("samplers", "heun", steps=5)}


def test_an_axis_of_mappings_gives_their_entries_as_parameters(read) -> None:
    top = SWEEP.replace("{name: euler, steps: 10}", "{grid: [{name: euler, steps: 10}, {steps: 5, name: heun}]}")
    sweep = read(f"{top}arms: {{a: {{}}}}\n")
    assert [(c.params["sampler"], c.params["sampler.steps"]) for c in sweep.cells[:2]] == [("euler", 10), ("heun", 5)]
    assert list(sweep.cells[1].params) == ["network", "train.seed", "sampler", "sampler.steps"]
    assert sweep.shared_axes == {"train.seed", "sampler", "sampler.steps"}


def test_axes_of_names_of_sample_and_of_networks(read) -> None:
    top = SWEEP.replace("name: euler,", "name: {grid: [euler, heun]},")
    top = top.replace("{count: 1000", "{count: 1e3, seed: {grid: [0, 1]}").replace("depth: 4", "depth: {grid: [2, 4]}")
    sweep = read(f"{top}arms: {{a: {{}}}}\n")
    assert sweep.shared_axes == {"train.seed", "model.depth", "sampler", "sample.seed"}
    assert len(sweep.cells) == 3 * 2 * 2 * 2
    assert sweep.cells[-1].params == {
        "network": "sit",
        "model.depth": 4,
        "train.seed": 2,
        "sampler": "heun",
        "sampler.steps": 10,
        "sample.seed": 1,
    }
    assert sweep.cells[-1].sample == Sample(count=1000, block=100, seed=1)


def test_a_network_is_one_object_wherever_it_appears(read) -> None:
    second = SWEEP.replace("sampler:", f"  big:\n{NETWORK.replace('64', '96')}    train: {{steps: 5}}\nsampler:")
    sweep = read(second + "arms: {a: {network: sit}, b: {network: big}, c: {network: sit, sampler: {steps: 5}}}\n")
    by_arm = {arm: [c.network for c in sweep.cells if c.arm == arm] for arm in "abc"}
    assert [id(network) for network in by_arm["a"]] == [id(network) for network in by_arm["c"]]
    assert [(n.name, n.model.hidden, n.axes) for n in by_arm["b"]] == [("big", 96, {})]


def test_the_top_level_may_leave_a_field_to_the_arms(read) -> None:
    top = SWEEP.replace(", steps: 10", "")
    assert one_arm(read, "{sampler: {steps: 7}}", top)[0].sampler == build("samplers", "euler", steps=7)


def test_anchors_are_values(read) -> None:
    sweep = read(SWEEP + "arms: {a: {nag: {scale: &s {grid: [1, 2]}}}, b: {cfg: {scale: *s}}}\n")
    assert [cell.params.get("cfg.scale") for cell in sweep.cells if cell.arm == "b"] == [1.0, 2.0] * 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("5e4", 50000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-0.0", 0.0),
        ("+3", 3),
        ("0", 0),
        ("true", True),
        ("~", None),
        ("", None),
        ("True", "True"),
        ("off", "off"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("'12'", "12"),
        ("'null'", "null"),
        ("é", "é"),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = parse(f"a: {text}", "x.yaml").value["a"].value
    assert found == value
    assert type(found) is type(value)
    assert str(found) == str(value)  # -0.0 is 0.0


def test_smoke_keeps_the_shape_with_the_ends_of_each_axis(read) -> None:
    full, smoke = read(SWEEP + DESIGN), read(SWEEP + DESIGN, smoke=True)
    assert smoke.name == "digits-smoke"
    assert smoke.arms == full.arms
    assert [cell.params["train.seed"] for cell in smoke.cells[:2]] == [0, 2]
    assert len(smoke.cells) == 2 * 6
    for cell in smoke.cells:
        assert cell.network.train.steps < 10
        assert cell.network.model.hidden < 64
        assert cell.sampler.steps <= 3
        assert cell.sample == Sample(count=32, block=16)


def test_smoke_keeps_the_values_of_an_axis_apart(read) -> None:
    top = SWEEP.replace("steps: 10", "steps: {grid: [10, 20, 50]}").replace("steps: 500", "steps: {grid: [200, 500]}")
    top = top.replace("count: 1000", "count: {grid: [1000, 5000]}").replace("hidden: 64", "hidden: {grid: [64, 128]}")
    cells = one_arm(read, "{}", top, smoke=True)
    assert len(cells) == len({str(sorted(cell.params.items())) for cell in cells}) == 2**5
    assert {(cell.sampler.steps, cell.params["sampler.steps"]) for cell in cells} == {(2, 2), (3, 3)}
    assert {(cell.sample.count, cell.sample.block) for cell in cells} == {(32, 16), (48, 16)}


def test_smoke_checks_the_whole_file(read) -> None:
    with pytest.raises(BadInput, match="got 0"):
        read(SWEEP.replace("steps: 10", "steps: {grid: [10, 0, 5]}") + DESIGN, smoke=True)


def test_names_come_from_the_registry_alone(read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS["samplers"], "other", METHODS["samplers"]["heun"])
    monkeypatch.setitem(METHODS["guidance"], "more", METHODS["guidance"]["nag"])
    cell = one_arm(read, "{sampler: {name: other, steps: 4}, more: {scale: 2}}")[0]
    assert cell.sampler == build("samplers", "heun", steps=4)
    assert (cell.params["sampler"], cell.params["more.scale"]) == ("other", 2.0)


def test_reading_a_sweep_imports_neither_torch_nor_numpy(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(SWEEP + DESIGN)
    code = (
        "import sys; sys.modules.update(torch=None, numpy=None, scipy=None, sklearn=None);"
        "from orchestrator.spec.reader import read_sweep; print(len(read_sweep(sys.argv[1]).cells))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.yaml"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("18\n", "")
