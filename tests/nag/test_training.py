"""What a training claims: pieces, kills and recomputing change nothing; averages and dropouts are what they say."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nag.training
from nag.datasets.dataset import ArraySplit
from nag.interpolants import Linear
from nag.losses import prediction_loss
from nag.models.noise_level import NoiseLevel
from nag.models.sit import SiT
from nag.numerics import Precision
from nag.training import PRESETS, Batches, Training, train
from tests.nag.test_distributed import CLOSE, far

CLASSES = 3
MODEL = SiT(hidden=16, depth=2, heads=2, patch=4)
TRAINING = Training(
    steps=12, batch=10, lr=1e-3, weight_decay=0.1, warmup=5, clip=1.0, noise_dropout=0.3, class_dropout=0.2, seed=7
)


@pytest.fixture(scope="module")
def split() -> ArraySplit:
    generator = np.random.default_rng(0)
    return ArraySplit(generator.uniform(-1, 1, (23, 1, 8, 8)), generator.integers(0, CLASSES, 23))


def sit() -> nn.Module:
    return MODEL.module((1, 8, 8), CLASSES, null_noise=True)


@pytest.fixture
def run(split: ArraySplit) -> Callable[..., dict[str, torch.Tensor]]:
    """`run(training, module=..., loss=..., **options of train)`."""

    def made(
        training: Training = TRAINING, module: nn.Module | None = None, loss: Any = None, **options: Any
    ) -> dict[str, torch.Tensor]:
        loss = MODEL.loss(Linear(), "velocity") if loss is None else loss
        return train(module or sit(), split, training, loss=loss, num_classes=CLASSES, **options)

    return made


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Saved:
    """Keeps the states that a training saves, by step."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    def __call__(self, step: int, state: Any) -> None:
        self.kept[step] = state


class Norms(nn.Module):
    """Somebody's own: running statistics, dropout, a weight that is never used and one that is used rarely."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last, self.unused = nn.Conv2d(4, 1, 3, padding=1), nn.Parameter(torch.ones(3))
        self.rare = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(x + t.view(-1, 1, 1, 1)))
        if float(t[0]) < 0.2:
            x = x + self.rare
        return self.last(nn.functional.dropout(x, 0.2, self.training))


def norms() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Norms()


@pytest.mark.parametrize("micro_batch", [3, 64])
def test_pieces_of_a_batch_add_up(run: Callable[..., Any], micro_batch: int) -> None:
    training = dataclasses.replace(TRAINING, steps=50)
    losses: list[list[float]] = [[], []]
    whole = run(training, report=lambda step, loss, gradient: losses[0].append(loss))
    pieces = run(training, micro_batch=micro_batch, report=lambda step, loss, gradient: losses[1].append(loss))
    assert same(whole, pieces) if micro_batch >= 10 else 0 < far(whole, pieces) < CLOSE
    assert np.allclose(losses[0], losses[1], rtol=1e-4)


def test_clipping_bounds_the_gradient(run: Callable[..., Any]) -> None:
    """What is told is the norm before; a bound that is never reached changes no bit."""
    told: dict[float, list[float]] = {0.0: [], 1e-3: [], 1e6: []}
    found, left = {}, {}
    for clip, norms in told.items():
        training, module = dataclasses.replace(TRAINING, clip=clip), sit()
        found[clip] = run(training, module, report=lambda step, loss, gradient, norms=norms: norms.append(gradient))
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        left[clip] = float(torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients])))
    assert min(told[1e-3]) > 1e-2
    assert left[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert left[0.0] == pytest.approx(told[0.0][-1], rel=1e-5)
    assert same(found[0.0], found[1e6])
    assert not same(found[0.0], found[1e-3])


@pytest.mark.parametrize("make", [sit, norms])
def test_killed_at_any_step(run: Callable[..., Any], make: Callable[[], nn.Module]) -> None:
    """Each checkpoint leads to the same bits; one of another network is refused."""
    kept: dict[int, Any] = {}
    whole = run(module=make(), due=lambda: True, save=kept.__setitem__)
    assert sorted(kept) == list(range(1, TRAINING.steps))
    for step in (1, 4, 5, 11):
        assert same(run(module=make(), resume=kept[step]), whole), step
    assert not same(run(module=make(), resume=kept[4] | {"step": torch.tensor(5)}), whole)
    with pytest.raises(ValueError, match=r"a training checkpoint of another network: \['"):
        run(module=norms() if make is sit else sit(), resume=kept[1])


def test_recomputed_activations_change_no_bit(run: Callable[..., Any], split: ArraySplit) -> None:
    saved: list[int] = []

    def counting() -> Any:
        return torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t)

    with counting():
        plain = run()
    much, saved = sum(saved), []
    with counting():
        recomputed = run(recompute=True)
    assert same(plain, recomputed)
    assert sum(saved) < 0.6 * much
    levels = NoiseLevel(hidden=16, depth=2, heads=2, patch=4)
    for recompute in (False, True):
        module = levels.module((1, 8, 8), CLASSES, null_noise=False)
        found = run(module=module, loss=levels.loss(Linear(), "velocity"), recompute=recompute)
        plain = found if not recompute else plain
    assert same(plain, found)


@pytest.mark.parametrize("warmup", [False, True])
def test_ema_is_the_weighted_mean_of_all_weights(run: Callable[..., Any], warmup: bool) -> None:
    """EMA after n steps = sum over k of (1 - d_k) d_(k+1) ... d_n w_k, with w_0 in place of the missing weight."""
    training = dataclasses.replace(TRAINING, ema=0.8, ema_warmup=warmup, lr=1e-2, steps=9)
    module = sit()
    name = "blocks.0.mlp.fc1.weight"
    seen = [module.state_dict()[name].clone().double()]
    found = run(training, module, report=lambda *told: seen.append(module.state_dict()[name].clone().double()))[name]
    decays = [min(0.8, (1 + k) / (10 + k)) if warmup else 0.8 for k in range(9)]
    shares = [(1 - (decays[k - 1] if k else 0)) * np.prod(decays[k:]) for k in range(10)]
    assert np.isclose(sum(shares), 1)
    wanted = sum(share * weights for share, weights in zip(shares, seen, strict=True))
    assert float((found - wanted).abs().max()) < 1e-6
    assert float((found - seen[-1]).abs().max()) > 1e-3


def test_dropouts_have_their_rates_and_are_independent(split: ArraySplit) -> None:
    """Of each other, from step to step, and of level and class. 5,000 images: within 4 standard deviations."""
    training = Training(steps=1, batch=500, noise_dropout=0.15, class_dropout=0.3)
    batches = Batches(split, training, CLASSES, "cpu")
    made = [batches(step) for step in range(10)]
    no_noise = torch.cat([batch.told == -1 for batch in made]).double()
    no_class = torch.cat([batch.y == CLASSES for batch in made]).double()
    labels = torch.cat([torch.from_numpy(split.labels(batches.indices(step))) for step in range(10)])
    t = torch.cat([batch.t for batch in made]).double()
    for dropped, rate in ((no_noise, 0.15), (no_class, 0.3)):
        assert abs(float(dropped.mean()) - rate) < 4 * np.sqrt(rate * (1 - rate) / 5000)
    for other in (no_class, no_noise.roll(500), t, labels.double()):
        assert abs(np.corrcoef(no_noise, other)[0, 1]) < 4 / np.sqrt(5000)
    kept = no_noise == 0
    assert torch.equal(torch.cat([batch.told for batch in made])[kept], t[kept].float())
    kept = no_class == 0
    assert torch.equal(torch.cat([batch.y for batch in made])[kept], labels[kept])


def test_perturbed_inputs_have_their_variance_and_the_target_of_eps(split: ArraySplit) -> None:
    """arXiv 2301.11706: states of noise eps + gamma xi, xi independent of eps; all else is as without it."""
    gamma = 0.5
    plain = Batches(split, Training(steps=1, batch=500), CLASSES, "cpu")(0)
    batch = Batches(split, Training(steps=1, batch=500, input_perturbation=gamma), CLASSES, "cpu")(0)
    for name in ("x0", "eps", "t", "told", "y"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))
    assert batch.noise is not None
    xi = (batch.noise - batch.eps) / gamma
    rows = 4 / np.sqrt(xi.numel())
    assert abs(float(xi.std()) - 1) < rows
    assert abs(float((xi * batch.eps).mean())) < rows
    level = batch.t.view(-1, 1, 1, 1)
    assert torch.equal(batch.states(Linear()), (1 - level) * batch.x0 + level * batch.noise)
    missed = prediction_loss(Linear(), "eps")(lambda x, t, y: x, batch)  # type: ignore[arg-type]
    assert torch.equal(missed, (batch.states(Linear()) - batch.eps).square().mean())
    cut = batch.rows(slice(3, 5)).noise
    assert cut is not None
    assert torch.equal(cut, batch.noise[3:5])


def test_a_level_error_scales_the_noise_of_each_image(split: ArraySplit) -> None:
    """By 1 + eta, eta uniform, of the image alone; all else is as without it."""
    plain = Batches(split, Training(steps=1, batch=2000), CLASSES, "cpu")(0)
    wrong = Training(steps=1, batch=2000, level_error=0.5)
    batch = Batches(split, wrong, CLASSES, "cpu")(0)
    for name in ("x0", "eps", "t", "told", "y"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))
    assert batch.noise is not None
    eta = (batch.noise / batch.eps).flatten(1) - 1
    torch.testing.assert_close(eta, eta[:, :1].expand_as(eta), rtol=0, atol=1e-5)
    assert -0.5 <= float(eta.min()) < -0.49
    assert 0.49 < float(eta.max()) <= 0.5 + 1e-5
    assert abs(float(eta[:, 0].mean())) < 4 * 0.5 / np.sqrt(3 * 2000)
    assert abs(np.corrcoef(eta[:, 0], batch.t)[0, 1]) < 4 / np.sqrt(2000)
    part = Batches(split, wrong, CLASSES, "cpu", (700, 703))(0).noise
    assert part is not None
    assert torch.equal(part, batch.noise[700:703])


def test_parts_make_the_batch(split: ArraySplit) -> None:
    """Whoever takes which part, and made ahead or not; epochs of 23 images end within batches of 10."""
    whole = Batches(split, TRAINING, CLASSES, "cpu")
    for bounds in ([0, 10], [0, 5, 10], [0, 1, 7, 10]):
        parts = [
            Batches(split, TRAINING, CLASSES, "cpu", part, prefetch=part[0] == 0) for part in itertools.pairwise(bounds)
        ]
        for step in range(TRAINING.steps):
            made = [part(step) for part in parts]
            for name in ("x0", "eps", "t", "told", "y"):
                assert torch.equal(torch.cat([getattr(one, name) for one in made]), getattr(whole(step), name))
    seen = np.concatenate([whole.indices(step) for step in range(7)])
    assert [sorted(seen[23 * k : 23 * (k + 1)]) == list(range(23)) for k in range(3)] == [True] * 3


def test_a_split_may_draw_its_images() -> None:
    """As latents are drawn from their posterior: by step and index in the global batch, whoever takes which part."""

    class Drawn(ArraySplit):
        def draw(self, indices: np.ndarray, seed: int, step: int, place: np.ndarray) -> np.ndarray:
            assert seed == TRAINING.seed
            return self.images(indices) + (100 * step + place).astype(np.float32)[:, None, None, None]

    split = Drawn(np.zeros((23, 1, 8, 8)), np.zeros(23, dtype=np.int64))
    parts = [Batches(split, TRAINING, CLASSES, "cpu", part)(2).x0[:, 0, 0, 0] for part in ((0, 4), (4, 10))]
    assert torch.cat(parts).tolist() == list(range(200, 210))


def test_a_training_that_diverges_says_where(split: ArraySplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step, loss, gradient, and the image: here one that is broken, at the step that meets it."""
    images = split.images(np.arange(23))
    images[17] = np.nan
    broken = ArraySplit(images, split.labels(np.arange(23)))
    batches = Batches(broken, TRAINING, CLASSES, "cpu")
    step = next(step for step in range(12) if 17 in batches.indices(step))
    place = list(batches.indices(step)).index(17)
    loss = MODEL.loss(Linear(), "velocity")
    for micro_batch, late in ((None, False), (3, False), (3, True)):
        monkeypatch.setattr(nag.training, "late", lambda kind, late=late: late)
        module, states = sit(), Saved()
        given: dict[str, Any] = {"loss": loss, "num_classes": CLASSES, "micro_batch": micro_batch}
        with pytest.raises(FloatingPointError) as caught:
            train(module, broken, TRAINING, **given, due=lambda: True, save=states)
        assert list(states.kept) == list(range(1, step + 1))  # none that a broken step belongs to
        assert all(weight.isfinite().all() for weight in module.parameters())
        said = str(caught.value)
        assert said.startswith(f"the training loss is nan at step {step} of 12, its gradient norm nan")
        assert f"the worst image is number {place} of the batch, at t = {float(batches(step).t[place]):.4f}" in said
        assert ("(a step before, " in said) == (step > 0)


def test_numbers_that_are_read_a_step_late_change_nothing(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU's are: same weights up to the fused optimiser's rounding, same reports, resumed to the same bits."""
    told: dict[bool, list[Any]] = {False: [], True: []}
    plain = run(report=lambda *numbers: told[False].append(numbers))
    monkeypatch.setattr(nag.training, "late", lambda kind: True)
    states = Saved()
    due = iter([False, False, True, False] * 3)
    late = run(report=lambda *numbers: told[True].append(numbers), due=lambda: next(due), save=states)
    assert far(plain, late) < CLOSE
    assert [step for step, *_ in told[True]] == list(range(1, 13))
    assert np.allclose(told[True], told[False], rtol=1e-4)
    assert list(states.kept) == [3, 7, 11]
    assert all(same(late, run(resume=state)) for state in states.kept.values())


def test_a_gradient_that_is_not_finite_stops_it_too(run: Callable[..., Any]) -> None:
    """The loss is finite, the derivative of its root at zero is not."""
    plain = prediction_loss(Linear(), "velocity")

    def loss(module: nn.Module, batch: Any) -> torch.Tensor:
        error = plain(module, batch)
        return error + (error - error.detach()).abs().sqrt()

    with pytest.raises(
        FloatingPointError, match=r"the training loss is \d\.\d+ at step 0 of 12, its gradient norm (nan|inf)"
    ):
        run(loss=loss)


def test_bfloat16_is_near_and_is_none_of_the_default(run: Callable[..., Any]) -> None:
    plain = run()
    rounded = run(dataclasses.replace(TRAINING, precision=Precision(dtype="bfloat16")))
    assert 1e-6 < far(plain, rounded) < 2e-2
    assert {tensor.dtype for tensor in rounded.values()} == {torch.float32}
    assert same(plain, run(dataclasses.replace(TRAINING, precision=Precision())))


@pytest.mark.filterwarnings("ignore")
def test_compiled_is_near(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled down to the operators of torch; to go on to C++ takes half a minute, and tests/nag/test_precision.py."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    training = dataclasses.replace(TRAINING, steps=3, precision=Precision(compile=True))
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = run(training)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # of two blocks
    assert far(run(dataclasses.replace(TRAINING, steps=3)), compiled) < CLOSE
    assert training.smoke().precision == Precision()


def test_what_is_not_trained_stays(run: Callable[..., Any]) -> None:
    training = dataclasses.replace(TRAINING, only="null_noise", weight_decay=0.0)
    kept: dict[int, Any] = {}
    before, module = run(dataclasses.replace(TRAINING, lr=1e-2)), sit()
    module.load_state_dict(before)
    found = run(training, module, due=lambda: True, save=kept.__setitem__)
    assert [name for name in found if not torch.equal(found[name], before[name])] == ["null_noise"]
    assert sum(name.startswith("weight.") for name in kept[1]) == 1
    module.load_state_dict(before)
    assert same(run(training, module, resume=kept[5]), found)
    with pytest.raises(ValueError, match="class_table: new would never be trained, with only: null_noise"):
        Training(steps=1, only="null_noise", class_table="new")


def test_presets_are_trainings() -> None:
    """The recipe of arXiv 2510.12497 for fine-tuning; anything beside it overrides."""
    recipe = Training(**PRESETS["dog_sft"])
    assert (recipe.steps, recipe.batch, recipe.lr, recipe.weight_decay) == (24_000, 32, 1e-4, 0.0)
    assert [recipe.ema_decay(step) for step in (0, 20_000)] == [0.9999, 0.9999]
    assert (recipe.class_dropout, recipe.class_table) == (0.1, "new")
    assert Training(**PRESETS["dog_sft"] | {"noise_dropout": 0.1}).noise_dropout == 0.1
    assert re.fullmatch(r"\w+", *PRESETS)


def test_precision_comes_back_from_a_digest() -> None:
    """Identities are JSON: nested fields are mappings there, and those at their default are left out."""
    from orchestrator.identity import changed_fields

    training = Training(steps=3, precision=Precision(dtype="bfloat16"))
    fields = changed_fields(training)
    assert fields == {"steps": 3, "precision": {"dtype": "bfloat16"}}
    assert Training(**fields) == training
    assert changed_fields(Training(steps=3, precision=Precision())) == {"steps": 3}
