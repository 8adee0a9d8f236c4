"""`nfe` in place of `steps`: what each arm then really spends, its identity, and how it can be written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nag.estimator import Estimator
from nag.field import Calls, NetworkField
from nag.noise import Noise
from nag.registry import METHODS, find
from nag.sampling import guided
from orchestrator.plan.build import TaskBuilder
from orchestrator.plan.make import plan
from orchestrator.spec.equal_price import evaluations_of
from orchestrator.spec.model import Cell, Network, Sweep
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.spec.bad_sweep import message

STEPPED = [name for name in METHODS["samplers"] if not find("samplers", name).adaptive]
TRAIN = "train: {steps: 4, batch: 4, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2"
DATA = "data: {name: made_up, resolution: 4}"
TINY = "hidden: 8, depth: 1, heads: 1, patch: 4"
NETWORKS = {
    "sit": f"model: {{name: sit, {TINY}, learned_variance: true}}, interpolant: linear, predicts: velocity",
    "dit": f"model: {{name: dit, {TINY}, learned_variance: true}}, interpolant: vp, predicts: eps",
    "dit_without_variance": f"model: {{name: dit, {TINY}}}, interpolant: vp, predicts: eps",
}
ARMS = """\
  plain: {}
  cfg: {cfg: {scale: 1.5}}
  nag: {nag: {scale: 1.0}}
  both: {cfg: {scale: 1.5}, nag: {scale: 1.0}}
  nested: {cfg: {scale: 1.5}, nag: {scale: 1.0}, compose: nested}
  off: {cfg: {scale: 1.0}}
  zero: {cfg: {scale: 0.0}}
  zero_on_some: {cfg: {scale: 0.0, channels: 2}}
  channels: {cfg: {scale: 2.0, channels: 2}, nag: {scale: 1.0}}
  interval: {cfg: {scale: 1.5, interval: {low: 0.2, high: 0.45}}}
  narrow: {cfg: {scale: 1.5, interval: {low: 0.3, high: 0.301}}}
  two: {cfg: {scale: 1.5, interval: {high: 0.5}}, nag: {scale: 2.0, interval: {low: 0.4}}}
  dog: {dog: {scale: 1.5, reference: pre}, nag: {scale: 1.0}}
  of_pre: {dog: {scale: 0.0, reference: pre}}
  auto: {autoguidance: {scale: 1.5, reference: pre, interval: {low: 0.1, high: 0.7}}, cfg: {scale: 1.5}}
  itself: {dog: {scale: 1.5, reference: net}, cfg: {scale: 1.5}}
  twin: {dog: {scale: 1.5, reference: twin}, cfg: {scale: 1.5}}
  slope: {nag_classifier: {scale: 1.0, reference: meter}}
  slopes: {nag_classifier: {scale: 1.0, reference: meter, interval: {high: 0.5}}, cfg: {scale: 0.0}}
"""


def sweep(kind: str, sampler: str, arms: str = ARMS, seed: str = "0") -> str:
    network = f"{{{DATA}, {NETWORKS[kind]}, {TRAIN}, seed: {seed}}}}}"
    pre = f"{{{DATA}, {NETWORKS[kind]}, {TRAIN}, seed: 7}}}}"
    path = "interpolant: linear" if kind == "sit" else "interpolant: vp"
    meter = f"{{{DATA}, model: {{name: noise_level, {TINY}}}, {path}, train: {{steps: 4, batch: 4, lr: 1e-2}}}}"
    networks = f"networks:\n  net: {network}\n  pre: {pre}\n  twin: {network}\n  meter: {meter}\nnetwork: net\n"
    return f"name: t\n{networks}sampler: {sampler}\nsample: {{count: 4, block: 4}}\narms:\n{arms}"


def read(folder: Path, text: str, **options: Any) -> Sweep:
    (folder / "sweep.yaml").write_text(text)
    return read_sweep(folder / "sweep.yaml", **options)


class Spent:
    """Counts the network evaluations of a sample of a cell, by sampling it."""

    def __init__(self) -> None:
        self.builder = TaskBuilder()
        self.made: dict[str, Any] = {}  # by the digest of its task: equal networks are one, as in a run

    def network(self, network: Network) -> Any:
        key = self.builder.network(network)
        if key not in self.made:
            data = network.data
            module = network.model.module(data.shape, data.num_classes, null_noise=True)
            args = (network.interpolant, network.predicts, data.shape, data.num_classes, True, True)
            field = NetworkField(module, *args)
            self.made[key] = field if network.generates else Estimator(module, network.interpolant, data.shape)
        return self.made[key]

    def __call__(self, cell: Cell, steps: int) -> int:
        calls = Calls()
        own = calls.counted(self.network(cell.network))
        others = {name: calls.counted(self.network(other)) for name, other in cell.references.items()}
        field = guided(own, cell.guidance, others, cell.compose)
        replace(cell.sampler, steps=steps)(field, torch.tensor([1]), Noise(0, [0], field.shape))
        return calls.made


def fitting() -> Iterator[tuple[str, str, int]]:
    """Every fixed-step sampler with every network that it takes."""
    for kind in NETWORKS:
        for name in STEPPED:
            path, predicts = ("linear", "velocity") if kind == "sit" else ("vp", "eps")
            if find("samplers", name)(steps=5).refuses(find("interpolants", path)(), predicts) is None:
                yield kind, name, 23 if name == "heun" else 17


@pytest.mark.parametrize(("kind", "name", "nfe"), list(fitting()))
def test_no_arm_spends_more_and_one_step_more_would(kind: str, name: str, nfe: int, tmp_path: Path) -> None:
    spent = Spent()
    cells = read(tmp_path, sweep(kind, f"{{name: {name}, nfe: {nfe}}}")).cells
    assert len(cells) == len(ARMS.splitlines())
    for cell in cells:
        steps = cell.sampler.steps
        assert spent(cell, steps) == evaluations_of(cell) <= nfe, cell.arm
        assert spent(cell, steps + 1) > nfe, cell.arm


def test_the_answer_is_the_highest_number_of_steps(tmp_path: Path) -> None:
    """Where guidance acts at few levels, more steps may cost less: every number up to twice as high is tried."""
    arms = "".join(
        f"  a{place}: {{cfg: {{scale: 2.0, interval: {{low: {low}, high: {high}}}}}, nag: {{scale: 1.0}}}}\n"
        for place, (low, high) in enumerate([(0.5, 0.501), (0.33, 0.34), (0.1, 0.9), (0.0, 0.07), (0.98, 1.0)])
    )
    for kind, name in (("sit", "euler"), ("dit", "ddim"), ("sit", "heun")):
        for cell in read(tmp_path, sweep(kind, f"{{name: {name}, nfe: 97}}", arms)).cells:
            ours = cell.sampler.steps
            costs = {n: evaluations_of(replace(cell, sampler=replace(cell.sampler, steps=n))) for n in range(1, 200)}
            assert ours == max(n for n, cost in costs.items() if cost is not None and cost <= 97), (name, cell.arm)


def test_how_many_steps_fifty_evaluations_are(tmp_path: Path) -> None:
    arms = ARMS + "  heun: {cfg: {scale: 1.5}, sampler: {name: heun, nfe: 50}}\n"
    cells = read(tmp_path, sweep("sit", "{name: euler, nfe: 50}", arms)).cells
    steps = {cell.arm: cell.sampler.steps for cell in cells}
    assert {arm: steps[arm] for arm in ("plain", "cfg", "nag", "both", "nested", "heun")} == {
        "plain": 50,
        "cfg": 25,
        "nag": 25,
        "both": 16,
        "nested": 12,
        "heun": 12,
    }


def test_identity_is_that_of_the_steps(tmp_path: Path) -> None:
    arms = "  cfg: {cfg: {scale: 1.5}}\n  both: {cfg: {scale: 1.5}, nag: {scale: 1.0}%s}\n"
    by_nfe = plan(read(tmp_path, sweep("sit", "{name: euler, nfe: 50}", arms % "")))
    written = plan(read(tmp_path, sweep("sit", "{name: euler, steps: 25}", arms % ", sampler: {steps: 16}")))
    assert [cell.digest for cell in by_nfe.cells] == [cell.digest for cell in written.cells]
    assert by_nfe.tasks.keys() == written.tasks.keys()


def test_reports_see_the_given_number_on_which_arms_agree(tmp_path: Path) -> None:
    arms = "  plain: {}\n  cfg: {cfg: {scale: 1.5}}\n  more: {cfg: {scale: 2}, sampler: {nfe: 20}}\n"
    text = sweep("sit", "{name: euler_maruyama, diffusion: linear, nfe: {grid: [20, 5e1]}}", arms)
    known = read(tmp_path, text)
    named = [(cell.arm, cell.params["sampler.nfe"], cell.sampler.steps) for cell in known.cells]
    assert named == [("plain", 20, 20), ("plain", 50, 50), ("cfg", 20, 10), ("cfg", 50, 25), ("more", 20, 10)]
    assert all("sampler.steps" not in cell.params for cell in known.cells)
    assert list(known.cells[0].params) == ["network", "sampler", "sampler.diffusion", "sampler.nfe"]
    assert "sampler.nfe" in known.shared_axes
    assert [arm.overrides - {"cfg.scale"} for arm in known.arms] == [set(), set(), {"sampler.nfe"}]


AXIS = "{grid: [{name: euler, nfe: 50}, {name: heun, steps: 4}]}"


@pytest.mark.parametrize(
    ("top", "own", "steps", "overrides"),
    [
        ("{name: euler, nfe: 50}", "{steps: 10}", [10], {"sampler.nfe", "sampler.steps"}),
        ("{name: euler, steps: 10}", "{nfe: 50}", [25], {"sampler.nfe", "sampler.steps"}),
        ("{name: euler, nfe: 50}", "{steps: {grid: [10, 11]}}", [10, 11], {"sampler.nfe", "sampler.steps"}),
        ("{name: euler, nfe: 50}", "{nfe: 20}", [10], {"sampler.nfe"}),
        ("{name: euler, nfe: 50}", "{nfe: null, steps: 3}", [3], {"sampler.nfe", "sampler.steps"}),
        ("{name: euler, nfe: 50}", "{name: heun, steps: 3}", [3], {"sampler", "sampler.nfe", "sampler.steps"}),
        ("{name: euler, nfe: 50}", "{name: heun}", None, set()),
        ("euler", "{nfe: 50}", [25], {"sampler.nfe"}),
        (AXIS, "{name: ddim, nfe: 8}", [4], None),
        (
            AXIS,
            "{grid: [{name: ddim, nfe: 8}, ddpm]}",
            None,
            None,
        ),
    ],
)
def test_each_replaces_the_other_in_an_arm(
    top: str, own: str, steps: list[int] | None, overrides: set[str] | None, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    text = sweep("sit", top, f"  cfg: {{cfg: {{scale: 1.5}}, sampler: {own}}}\n")
    if steps is None:
        assert "'steps' is missing" in message(text)
        return
    known = read(tmp_path, text)
    assert [cell.sampler.steps for cell in known.cells] == steps
    assert overrides is None or known.arms[0].overrides == {*overrides, "cfg.scale"}


MISTAKES = [
    ("{name: euler, nfe: 50, steps: 3}", "x.yaml:8: sampler.nfe: the number of steps follows from nfe; remove one"),
    ("{name: euler, nfe: 0}", "x.yaml:8: sampler.nfe: expected a whole number from 1 to 1000000, got 0."),
    ("{name: euler, nfe: 2.5}", "x.yaml:8: sampler.nfe: expected a whole number from 1 to 1000000, got 2.5."),
    ("{name: euler, nfe: many}", "x.yaml:8: sampler.nfe: expected a whole number from 1 to 1000000, got 'many'."),
    ("{name: euler, nfe: true}", "x.yaml:8: sampler.nfe: expected a whole number from 1 to 1000000, got true."),
    (
        "{name: euler, nfe: {grid: [2, 50]}}",
        "x.yaml:8: sampler.nfe.grid[0]: 2 network evaluations are too few for arm 'both': one step takes 3 with "
        "'euler'. Set nfe to 3 or more.",
    ),
    (
        "{name: euler_maruyama, nfe: 3}",
        "x.yaml:8: sampler.nfe: 3 network evaluations are too few for arm 'cfg': 2 steps, its fewest, take 4 with "
        "'euler_maruyama'. Set nfe to 4 or more.",
    ),
    (
        "{name: dopri5, nfe: 50}",
        "x.yaml:8: sampler.nfe: nfe is not possible with 'dopri5': its steps depend on the states. Remove nfe, or",
    ),
    (
        "{name: ddim, nfe: 4_000}",
        "x.yaml:8: sampler.nfe: expected a whole number from 1 to 1000000, got '4_000'. Write 4000.",
    ),
    (
        "{name: ddim, nfe: 1001}",
        "x.yaml:8: sampler.nfe: 1,001 are too many for arm 'plain': 1,000, the most steps that 'ddim' takes, are 1,000 "
        "network evaluations. Set nfe to 1000 or less.",
    ),
    ("{name: ddpm, nfe: 50}", "'ddpm' cannot sample network 'net': its steps are those of trained betas"),
    ("{name: heun, nfe: 50, order: 3}", "x.yaml:8: sampler: unknown key 'order'"),
    ("{name: heun, nef: 50}", "x.yaml:8: sampler: unknown key 'nef'"),
    ("{nfe: 50}", "'name' is missing"),
    ("{name: ehun, nfe: 50}", "unknown name 'ehun'"),
]


@pytest.mark.parametrize(("sampler", "expected"), MISTAKES)
def test_mistakes(sampler: str, expected: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in message(sweep("sit", sampler))


def test_a_solver_that_refuses_so_many_steps(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text = sweep("dit", "{name: dpmpp_2m, nfe: 1500}", "  cfg: {cfg: {scale: 1.5}}\n  plain: {}\n")
    assert "'dpmpp_2m' cannot sample network 'net': more than 1000 steps" in message(text)


def test_smoke_takes_few_steps_of_every_arm(tmp_path: Path, monkeypatch: Any) -> None:
    cells = read(tmp_path, sweep("sit", "{name: euler, nfe: {grid: [50, 60, 100]}}"), smoke=True).cells
    few = {(cell.arm, cell.params["sampler.nfe"]): cell.sampler.steps for cell in cells}
    assert {few[arm, 6] for arm in ("plain", "off")} == {6}
    assert (few["cfg", 6], few["both", 6], few["nested", 6]) == (3, 2, 1)
    assert (few["plain", 9], few["cfg", 9]) == (9, 4)
    monkeypatch.chdir(tmp_path)
    Path("y.yaml").write_text(sweep("sit", "{name: euler, nfe: 2}"))
    with pytest.raises(Exception, match="too few for arm 'both'"):
        read_sweep("y.yaml", smoke=True)  # the whole file is still checked
    wide = "".join(
        f"  a{n}: {{cfg: {{scale: {n}}}, nag: {{scale: 1}}, dog: {{scale: 2, reference: pre}}, "
        "autoguidance: {scale: 2, reference: twin}, compose: nested}\n"
        for n in (2, 3)
    )
    cells = read(tmp_path, sweep("sit", "{name: heun, nfe: 50}", wide), smoke=True).cells
    assert [cell.sampler.steps for cell in cells] == [1, 1]  # where 6 would be too few for a step


USERS = '''\
from typing import ClassVar

from nag.guidance.terms import Term
from nag.registry import Int, method
from nag.samplers.fixed_step import levels, march, velocity


@method
class Push:
    scale: float
    needs: ClassVar[frozenset[str]] = frozenset({"null_class"})
    off: ClassVar[bool] = False

    def terms(self):
        return Term(False, False, self.scale), Term(False, True, -self.scale)


@method
class Third:
    """Three calls a step, at levels that it does not tell."""

    steps: Int

    def network_calls(self):
        return 3 * self.steps

    def __call__(self, field, y, noise, *, observe=None):
        return march(self, field, y, noise, levels(1.0, 0.0, self.steps), observe)

    def step(self, field, x, y, t, t_next, draw):
        return x + (t_next - t) * sum(velocity(field, x, y, t) for _ in range(3)) / 3


@method
class Own:
    """It has a field of that name itself."""

    nfe: Int

    def network_calls(self):
        return self.nfe

    def __call__(self, field, y, noise, *, observe=None):
        return noise(0)


@method
class Endless(Own):
    nfe: ClassVar[int] = 3
'''


def test_a_users_own_code(tmp_path: Path, monkeypatch: Any) -> None:
    """A guidance that is only parsed cannot be counted: `check` accepts it, and the steps follow when it is imported.
    A sampler that does not tell its levels pays for every call what the dearest costs.
    """
    (tmp_path / "mine.py").write_text(USERS)
    arms = "  plain: {}\n  mine: {push: {use: ./mine.py:Push, scale: 2.0}}\n"
    for run, steps in ((False, [50, 1]), (True, [50, 25])):
        known = read(tmp_path, sweep("sit", "{name: euler, nfe: 50}", arms), run_user_code=run)
        assert [cell.sampler.steps for cell in known.cells] == steps
        assert [cell.params["sampler.nfe"] for cell in known.cells] == [50, 50]
    some = arms + "  part: {cfg: {scale: 2.0, interval: {high: 0.1}}}\n"
    known = read(tmp_path, sweep("sit", "{use: ./mine.py:Third, nfe: 50}", some))
    assert [cell.sampler.steps for cell in known.cells] == [16, 8, 8]
    assert read(tmp_path, sweep("sit", "{use: ./mine.py:Third, nfe: 50}", some), run_user_code=False).cells
    assert read(tmp_path, sweep("sit", "{use: ./mine.py:Own, nfe: 50}", arms)).cells[0].sampler.nfe == 50
    monkeypatch.chdir(tmp_path)
    assert "it has no field steps" in message(sweep("sit", "{use: ./mine.py:Endless, nfe: 50}", arms))


def test_a_thousand_cells_are_settled_without_torch(tmp_path: Path) -> None:
    """Cells that differ in seeds have the same sampler object, so that its identity is computed once."""
    scales = ", ".join(str(1 + place / 10) for place in range(1, 51))
    arms = f"  cfg: {{cfg: {{scale: {{grid: [{scales}]}}, interval: {{high: {{grid: [0.3, 0.7, 1.0]}}}}}}}}\n"
    known = read(tmp_path, sweep("sit", "{name: euler, nfe: 100}", arms, seed="{grid: [0, 1, 2, 3, 4, 5, 6]}"))
    assert len(known.cells) == 7 * 50 * 3
    assert len({id(cell.sampler) for cell in known.cells}) <= 50 * 3


def test_the_table_in_the_documentation_is_right(tmp_path: Path) -> None:
    """docs/statistics.md, "Equal NFE"."""
    arms = """\
  plain: {}
  cfg: {cfg: {scale: 1.5}}
  both: {cfg: {scale: 1.5}, nag: {scale: 1.0}}
  nested: {cfg: {scale: 1.5}, nag: {scale: 1.0}, compose: nested}
  interval: {cfg: {scale: 1.5, interval: {low: 0.2, high: 0.5}}}
  heun: {cfg: {scale: 1.5}, sampler: {name: heun, nfe: 50}}
"""
    on_sit = read(tmp_path, sweep("sit", "{name: euler, nfe: 50}", arms)).cells
    on_vp = read(tmp_path, sweep("dit", "{name: heun, nfe: 50}", "  cfg: {cfg: {scale: 1.5}}\n")).cells
    ours = [(cell.sampler.steps, evaluations_of(cell)) for cell in (*on_sit, *on_vp)]
    text = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text().partition("## Equal NFE")[2]
    rows = [line.split("|")[3:5] for line in text.partition("## ")[0].splitlines() if line.startswith("|")][2:]
    assert [(int(steps), int(nfe)) for steps, nfe in rows] == ours
