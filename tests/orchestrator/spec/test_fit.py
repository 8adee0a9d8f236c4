"""`check` refuses guidance that does not fit the network, the sampler or other guidance, and says why and where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.plan.make import plan
from orchestrator.spec.equal_price import evaluations_of
from orchestrator.spec.reader import read_sweep
from orchestrator.tasks.sample import planned_calls
from tests.orchestrator.spec.bad_sweep import message

SWEEP = """\
name: t
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 8, depth: 2, heads: 2, patch: 2}
    train: {steps: 4, batch: 4, lr: 1e-2, class_dropout: 0.1}
  dit:
    data: {name: digits}
    model: {name: dit, hidden: 8, depth: 2, heads: 2, patch: 2}
    interpolant: vp
    predicts: eps
    train: {steps: 4, batch: 4, lr: 1e-2, class_dropout: 0.1}
network: sit
sampler: {name: euler, steps: 5}
sample: {count: 4, block: 4}
arms:
  plain: {}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("pag: {scale: 1, layers: [0, 2]}", "bad.pag: there is no layer 2; the network has 2, numbered 0 to 1."),
        (
            "pag: {scale: 1, layers: [0, 0]}",
            "pag.layers: the layers must be numbers of blocks, at least one, each once, got a list.",
        ),
        (
            "skip_layer: {scale: 1, layers: []}",
            "skip_layer.layers: the layers must be numbers of blocks, at least one, each once, got an empty list.",
        ),
        ("seg: {scale: 1}", "seg: 'layers' is missing; it is a list"),
        ("self_guidance: {scale: 1, shift: 1.5}", "self_guidance.shift: expected a number from 0 to 1, got 1.5."),
        (
            "self_guidance: {scale: 1, shift: 0.2, previous: true}",
            "self_guidance: shift changes nothing with previous: leave one of the two out.",
        ),
        (
            "self_guidance: {scale: 1, previous: true}, sampler: {name: heun, steps: 3}",
            "it remembers the step before, so it needs a sampler with one network call a step, which heun is not.",
        ),
        (
            "tsg: {scale: 2}, sampler: {name: dopri5, steps: null}",
            "tsg: it draws anew in every call, and dopri5 chooses its steps by how predictions differ.",
        ),
        (
            "cfg_zero: {scale: 2}, network: dit, sampler: {name: ddim, steps: 3}",
            "cfg_zero: it is defined for velocities, and the network predicts eps; take cfg or apg.",
        ),
        (
            "cfgpp: {scale: 0.5}, network: dit",
            "cfgpp: the steps of euler on this path are not of the form alpha x_0 + sigma eps; take ddim with eta 0.",
        ),
        ("cfgpp: {scale: 1.5}", "cfgpp.scale: expected a number from 0 to 1, got 1.5."),
        (
            "cfg: {scale: 2}, apg: {scale: 2}",
            "apg and cfg both guide away from the same prediction, and apg is no sum that could be added; keep one",
        ),
        ("rescale: {}", "rescale changes what other guidance does, and there is none: add one, such as cfg."),
        (
            "cfg: {scale: 2, schedule: {name: linaer}}",
            "cfg.schedule.name: unknown value 'linaer'. Did you mean 'linear'?",
        ),
        (
            "cfg: {scale: 2, schedule: {name: linear, a: 3}}",
            "cfg.schedule: a and b belong to the schedule beta: leave them out of linear.",
        ),
        ("nag: {scale: 1}", "nag: 'nag' needs a network that has learned the null noise condition"),
        (
            "autoguidance: {scale: 2, reference: sit, null_noise: true}",
            "reference: 'autoguidance' needs a network that has learned the null noise condition: set networks.sit",
        ),
        ("epsilon_scaling: {b: 0}", "epsilon_scaling.b: expected a number from 0.5 to 2, got 0."),
    ],
)
def test_it_says_why(arm: str, said: str) -> None:
    text = message(f"{SWEEP}  bad: {{{arm}}}\n")
    assert text.startswith("x.yaml:18: arms.bad")
    assert said in text, text


def test_dog_needs_a_reference_with_a_null_class() -> None:
    train = "{steps: 4, batch: 4, lr: 1e-2, class_dropout: 0}"
    model = "{name: sit, hidden: 8, depth: 1, heads: 2, patch: 2}"
    plain = f"  plain: {{data: {{name: digits}}, model: {model}, train: {train}}}\n"
    text = SWEEP.replace("network: sit\n", f"{plain}network: sit\n")
    found = message(f"{text}  bad: {{dog: {{scale: 2, reference: plain}}}}\n")
    assert "reference: 'dog' needs a network that has learned the null class condition: set networks.plain" in found


@pytest.mark.parametrize(
    ("other", "guidance", "said"),
    [
        (
            "data: {name: digits}, model: SMALL, interpolant: vp",
            "autoguidance: {scale: 2, reference: other}",
            "autoguidance.reference: the reference has other states at the same level: its interpolant is VP, the ",
        ),
        (
            "data: {name: made_up, resolution: 4}, model: SMALL",
            "dog: {scale: 2, reference: other}",
            "dog.reference: the reference has states of shape (3, 4, 4), the network (1, 8, 8).",
        ),
        (
            "data: {name: npz, path: five.npz}, model: SMALL",
            "autoguidance: {scale: 2, reference: other}",
            "autoguidance.reference: it asks the reference for the same class, and it has 5, the network 10 classes.",
        ),
        (
            "data: {name: digits}, model: SMALL, predicts: eps",
            "dog: {scale: 2, reference: other}",
            "dog.reference: the reference predicts eps, the network velocity, and at t = 1 this prediction cannot be ",
        ),
    ],
)
def test_a_reference_must_fit_the_network(other: str, guidance: str, said: str) -> None:
    images = np.zeros((10, 8, 8, 1), dtype=np.uint8)
    np.savez("five.npz", images=images, labels=np.arange(10) % 5)
    model = other.replace("SMALL", "{name: sit, hidden: 8, depth: 1, heads: 2, patch: 2}")
    entry = f"  other: {{{model}, train: {{steps: 4, class_dropout: 0.1}}}}\n"
    text = message(f"{SWEEP.replace('network: sit', entry + 'network: sit')}  bad: {{{guidance}}}\n")
    assert said in text, text
    assert text.startswith("x.yaml:19: arms.bad.")


def test_an_estimator_must_see_exact_states() -> None:
    meter = "{data: {name: digits}, model: {name: noise_level, hidden: 8, depth: 1, heads: 2, patch: 2}, train: "
    train = "{steps: 4, batch: 4, lr: 1e-2, input_perturbation: 0.1}}"
    text = message(SWEEP.replace("network: sit\n", f"  meter: {meter}{train}\nnetwork: sit\n"))
    assert "networks.meter.train: input_perturbation is for networks that generate" in text


SMALL = "model: {name: noise_level_residual, hidden: 8, depth: 1, heads: 2, patch: 2}"


@pytest.mark.parametrize(
    ("networks", "arm", "said"),
    [
        ("", "reference: small", "x.yaml:18: arms.bad.noise_level_correction.reference: unknown noise_level_residual "),
        ("", "reference: sit", "unknown noise_level_residual network 'sit'. Known: none."),
        (f"{SMALL}, train: {{steps: 4}}", "reference: small", "networks.small.train: a noise_level_residual learns "),
        (
            f"{SMALL}, train: {{steps: 4, level_error: 0.5, input_perturbation: 0.1}}",
            "reference: small",
            "networks.small.train: level_error and input_perturbation both change the noise: leave one of the two out",
        ),
        (
            "model: {name: sit, hidden: 8, depth: 1, heads: 2, patch: 2}, train: {steps: 4, level_error: 0.5}",
            "reference: small",
            "level_error is for a noise_level_residual, which learns to tell it. Remove it.",
        ),
        (
            f"{SMALL}, train: {{steps: 4, level_error: 0.5}}",
            "reference: small}, time_shift: {window: 0.1, cutoff: 0.2",
            "noise_level_correction and time_shift both say at which level networks are asked; keep one of them.",
        ),
        (
            f"{SMALL}, train: {{steps: 4, level_error: 0.5}}",
            "reference: small}, autoguidance: {scale: 2, reference: small",
            "arms.bad.autoguidance.reference: unknown generating network 'small'. Known: dit, sit.",
        ),
        (
            f"{SMALL}, train: {{steps: 4, level_error: 0.5}}",
            "reference: small}, network: small, cfg: {scale: 2",
            "arms.bad.network: unknown generating network 'small'",
        ),
        (
            f"{SMALL}, interpolant: vp, train: {{steps: 4, level_error: 0.5}}",
            "reference: small",
            "x.yaml:19: arms.bad.noise_level_correction.reference: the reference has other states at the same level: "
            "its interpolant is VP, the network Linear.",
        ),
    ],
)
def test_a_residual_network_is_checked(networks: str, arm: str, said: str) -> None:
    small = f"  small: {{data: {{name: digits}}, {networks}}}\n" if networks else ""
    sweep = SWEEP.replace("network: sit", f"{small}network: sit")
    text = message(f"{sweep}  bad: {{noise_level_correction: {{scale: 1, {arm}}}}}\n")
    assert said in text, text


def test_off_is_the_digest_of_plain_and_a_default_is_left_out() -> None:
    arms = """\
  off: {self_guidance: {scale: 2, shift: 0}, tsg: {scale: 2, noise: 0}, epsilon_scaling: {b: 1}, rescale: {phi: 0}}
  also: {pag: {scale: 0, layers: [1]}, time_shift: {window: 0, cutoff: 0.2}, icg: {scale: 1}, apg: {scale: 1}}
  cfg: {cfg: {scale: 2}}
  same: {cfg: {scale: 2, schedule: {name: constant}}, rescale: {phi: 0}}
  other: {cfg: {scale: 2, schedule: {name: linear}}}
"""
    Path("x.yaml").write_text(SWEEP + arms)
    cells = {cell.arm: cell for cell in plan(read_sweep("x.yaml")).cells}
    digests = {arm: cell.digest for arm, cell in cells.items()}
    assert digests["off"] == digests["also"] == digests["plain"]
    assert digests["same"] == digests["cfg"] != digests["other"]


def test_equal_price_counts_what_is_free_and_what_is_silent() -> None:
    arms = """\
  free: {epsilon_scaling: {}, time_shift: {window: 0.1, cutoff: 0.2}}
  previous: {self_guidance: {scale: 2, previous: true}}
  shifted: {self_guidance: {scale: 2}, rescale: {}}
  zero: {cfg_zero: {scale: 2, zero: 0.25}}
"""
    text = SWEEP.replace("steps: 5", "nfe: 12")
    Path("x.yaml").write_text(text + arms)
    cells = {cell.arm: cell for cell in read_sweep("x.yaml").cells}
    steps = {arm: cell.sampler.steps for arm, cell in cells.items()}
    assert steps == {"plain": 12, "free": 12, "previous": 12, "shifted": 6, "zero": 9}
    assert evaluations_of(cells["zero"]) == 12  # 9 steps, the first three at t above 0.75


def test_the_guess_of_a_cost_knows_what_is_free() -> None:
    arms = "  free: {epsilon_scaling: {}}\n  cfg: {cfg: {scale: 2}, rescale: {}}\n"
    Path("x.yaml").write_text(SWEEP + arms)
    planned = plan(read_sweep("x.yaml"))
    assert [planned_calls(planned.tasks[cell.stream]) for cell in planned.cells] == [5, 5, 10]


def test_layers_are_shrunk_with_the_network() -> None:
    Path("x.yaml").write_text(f"{SWEEP}  pag: {{pag: {{scale: 1, layers: {{grid: [[0], [1]]}}}}}}\n")
    assert len(plan(read_sweep("x.yaml", smoke=True)).cells) == 3
