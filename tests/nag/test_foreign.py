"""Checkpoints of other architectures: declared conventions, preconditioning, null conditions."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file

import nag
from nag.checkpoint import dump_network, foreign_form, parse_network
from nag.field import NetworkField
from nag.foreign_checkpoints import Foreign
from nag.interpolants import GVP, VP, Interpolant, Linear, convert
from nag.models.adapted import Adapted
from nag.models.adapted_module import AdaptedModule
from nag.models.convention import Convention
from nag.models.dit import DiT
from nag.models.sit import SiT
from nag.models.transformer import Transformer
from nag.noise import Noise
from nag.preconditions import EDM, VE
from nag.registry import method
from nag.seeding import seeded
from nag.training import Training, train
from tests.nag.foreign import CLASSES, SEEN, SHAPE, Echo, Model, Own, Teachable

PATHS: list[Interpolant] = [Linear(), GVP(), VP()]


@method
class Echoes(Model):
    """A network whose raw output is 0.3 times its input."""

    def module(self, shape: Any, num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        return Echo(lambda x: 0.3 * x)


@method
class Zeros(Model):
    def module(self, shape: Any, num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        return Echo(torch.zeros_like)


def field_of(model: Any, interpolant: Interpolant, predicts: str, time: Any = "t", precondition: Any = None) -> Any:
    adapted = Adapted(model, Convention(time, precondition), interpolant, predicts)
    module = adapted.module(SHAPE, CLASSES, null_noise=False)
    return NetworkField(module, interpolant, predicts, SHAPE, CLASSES, False, False)  # type: ignore[arg-type]


def states(n: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with seeded(0):
        return torch.randn(n, *SHAPE), torch.linspace(0.1, 0.9, n), torch.arange(n)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_the_module_is_told_its_own_time(path: Interpolant) -> None:
    x, t, y = states()
    told = {}
    for time in ("t", "1 - t", "0..999", "sigma", "log-sigma"):
        field_of(Echoes(), path, "eps", time)(x, t, y)
        told[time] = SEEN["time"].double()
    level = t.double()
    sigma = path.sigma(level) / path.alpha(level)
    wanted = {"t": level, "1 - t": 1 - level, "0..999": 1000 * level - 1, "sigma": sigma, "log-sigma": sigma.log()}
    for time, value in wanted.items():
        torch.testing.assert_close(told[time], value, rtol=1e-4, atol=1e-4)
    assert torch.equal(SEEN["x"], x)
    assert torch.equal(SEEN["y"], y)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("time", ["t", "1 - t", "0..999", "sigma", "log-sigma"])
def test_what_it_is_told_is_finite_at_both_ends(path: Interpolant, time: str) -> None:
    x, _, y = states(2)
    field_of(Echoes(), path, "eps", time)(x, torch.tensor([0.0, 1.0]), y)
    assert torch.isfinite(SEEN["time"]).all()


@method
class Official(Model):
    """The official transformer as its own code calls it: its own time, its own sign."""

    def module(self, shape: Any, num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        return Transformer(
            shape=shape, out_channels=1, hidden=16, depth=2, heads=2, patch=2, inner=64, num_classes=num_classes,
            null_noise=False, time=lambda t: t, output=lambda out: out,
        )  # fmt: skip

    null_class: ClassVar[str] = "last"


@pytest.mark.parametrize(
    ("family", "time", "predicts", "path"),
    [("sit", "1 - t", "velocity", Linear()), ("dit", "0..999", "eps", VP())],
)
def test_an_official_network_by_its_declared_conventions(
    family: str, time: str, predicts: str, path: Interpolant, tmp_path: Path
) -> None:
    """The same file by its family and as foreign code: the same field, in time and in the sign of a velocity."""
    model = {"sit": SiT, "dit": DiT}[family](hidden=16, depth=2, heads=2, patch=2)
    weights = model.module(SHAPE, CLASSES, null_noise=False, seed=3).state_dict()
    with seeded(1):
        weights = {n: w + 0.05 * torch.randn_like(w) if n != "pos_embed" else w for n, w in weights.items()}
    file = tmp_path / "network.pt"
    torch.save({"model": weights, "ema": weights, "opt": {}, "args": {}}, file)
    ours = nag.load_network(file, family, heads=2)
    foreign = nag.load_network(
        file, model=Official(), shape=SHAPE, num_classes=CLASSES, predicts=predicts, interpolant=path, time=time
    )
    x, t, y = states()
    y[-1] = CLASSES
    torch.testing.assert_close(foreign(x, t, y), ours(x, t, y), rtol=1e-5, atol=1e-6)
    assert foreign.has_null_class
    assert not foreign.has_null_noise


@pytest.mark.parametrize("path", PATHS, ids=lambda path: type(path).__name__)
def test_edm_is_its_table_1(path: Interpolant) -> None:
    """Against D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), with the paper's state and level, in float64."""
    x, t, y = states()
    got = field_of(Echoes(), path, "velocity", precondition=EDM(sigma_data=0.4))(x, t, y)
    level = t.double().view(-1, 1, 1, 1)
    alpha, sigma, data = path.alpha(level), path.sigma(level) / path.alpha(level), 0.4
    theirs = x.double() / alpha  # y + sigma n
    c_in, c_out = 1 / (sigma**2 + data**2).sqrt(), sigma * data / (sigma**2 + data**2).sqrt()
    denoised = data**2 / (sigma**2 + data**2) * theirs + c_out * 0.3 * (c_in * theirs)
    wanted = convert(denoised, "x0", "velocity", x.double(), t.double(), path)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(SEEN["time"].double(), sigma.flatten().log() / 4, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(SEEN["x"].double(), c_in * theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precondition", [EDM(sigma_data=0.4), VE()], ids=["edm", "ve"])
@pytest.mark.parametrize("path", [Linear(), GVP()], ids=["linear", "gvp"])
def test_edm_is_finite_at_both_ends(precondition: Any, path: Interpolant) -> None:
    x, _, y = states(2)
    time = precondition.times[0]
    out = field_of(Echoes(), path, "velocity", time, precondition)(x, torch.tensor([0.0, 1.0]), y)
    assert torch.isfinite(out).all()
    assert torch.isfinite(SEEN["x"]).all()
    assert torch.isfinite(SEEN["time"]).all()


@pytest.mark.parametrize("path", [Linear(), GVP()], ids=["linear", "gvp"])
def test_edm_samples_a_gaussian(path: Interpolant) -> None:
    """F = 0 is EDM's exact network for data N(0, sigma_data^2): its flow takes noise to sigma_data times that noise."""
    field = field_of(Zeros(), path, "velocity", precondition=EDM(sigma_data=0.4))
    noise = Noise(0, list(range(3)), SHAPE)
    made = nag.sample(field, nag.build("samplers", "heun", steps=100), noise=noise, labels=[0, 1, 2])
    torch.testing.assert_close(made, 0.4 * noise(0), rtol=2e-3, atol=2e-3)


def test_ve_has_the_papers_state() -> None:
    x, t, y = states()
    field_of(Echoes(), GVP(), "x0", "sigma", VE())(x, t, y)
    alpha = GVP().alpha(t)
    torch.testing.assert_close(SEEN["x"], x / alpha.view(-1, 1, 1, 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(SEEN["time"], GVP().sigma(t) / alpha, rtol=1e-4, atol=1e-5)


def test_a_null_condition_of_its_own_is_called_by_its_own_numbers() -> None:
    adapted = Adapted(Own(), Convention("0..999"), VP(), "eps")
    module = adapted.module(SHAPE, 40, null_noise=True)
    x = torch.zeros(2, *SHAPE)
    module(x, torch.tensor([-1.0, 0.5]), torch.tensor([40, 3]))
    assert SEEN["time"].tolist() == [-5.0, 499.0]
    assert SEEN["y"].tolist() == [10, 3]
    assert [name for name, _ in module.named_parameters()] == ["inner.weight"]


def test_a_learned_null_condition_changes_only_its_own_rows() -> None:
    with seeded(0):
        inner = Teachable().module(SHAPE, CLASSES, null_noise=False)
    how = (Teachable(), Convention("0..999"), VP(), "eps")
    module = AdaptedModule(copy.deepcopy(inner), *how, num_classes=CLASSES, null_noise=True)
    x, t, y = states()
    wanted = inner(x, 1000 * t - 1, y)
    assert torch.equal(module(x, t, y), wanted)
    null_t, null_y = t.clone(), y.clone()
    null_t[1], null_y[2] = -1, CLASSES
    out = module(x, null_t, null_y)
    assert torch.equal(out[[0, 3]], wanted[[0, 3]])
    without_noise = module.null_noise + inner.label_embed(y[1])
    without_class = inner.time_embed(t[2:3, None] - 1 / 1000)[0] + module.null_class
    hidden = inner.first(x)[1:3] + torch.stack([without_noise, without_class])[:, :, None, None]
    torch.testing.assert_close(out[1:3], inner.last(torch.nn.functional.silu(hidden)))


def test_a_fine_tune_of_the_null_embedding_alone(tmp_path: Path) -> None:
    """`only: null_noise` trains one vector: conditional predictions stay bit for bit, the null prediction improves."""
    from nag.datasets.digits import Digits

    adapted = Adapted(Teachable(), Convention("0..999"), VP(), "eps")
    with seeded(0):
        module = adapted.module(SHAPE, CLASSES, null_noise=True)
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    training = Training(steps=5, batch=8, lr=0.1, noise_dropout=0.5, class_dropout=0.0, only="null_noise")
    loss = adapted.loss(VP(), "eps")
    after = train(module, Digits().open("train"), training, loss=loss, num_classes=CLASSES)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"null_noise"}


def test_it_round_trips_as_a_file_of_ours(tmp_path: Path) -> None:
    """Convention, preconditioning and learned vectors are in the file; half precision and prefixes are read."""
    with seeded(0):
        net = Teachable().module(SHAPE, CLASSES, null_noise=False)
    file = tmp_path / "net.safetensors"
    save_file({f"module.{name}": weight.half() for name, weight in net.state_dict().items()}, file)
    precondition = EDM(sigma_data=0.3)
    given: dict[str, Any] = {"shape": SHAPE, "num_classes": CLASSES, "interpolant": GVP(), "precondition": precondition}
    field = nag.load_network(file, model=Teachable(), **given)
    data = foreign_form(file, Foreign(Teachable(), **given))
    again = parse_network(data, model_of=lambda described: Teachable())
    x, t, y = states()
    assert torch.equal(field(x, t, y), again(x, t, y))
    assert again.predicts == "velocity"
    direct = field_of(Teachable(), GVP(), "velocity", precondition=precondition)
    direct.module.inner.load_state_dict({name: weight.half().float() for name, weight in net.state_dict().items()})
    assert torch.equal(field(x, t, y), direct(x, t, y))


def test_its_own_load_renames_weights(tmp_path: Path) -> None:
    @method
    class Renamed(Teachable):
        def load(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {name.replace("embedder", "embed"): weight for name, weight in state.items()}

    net = Teachable().module(SHAPE, CLASSES, null_noise=False)
    file = tmp_path / "net.pt"
    torch.save({name.replace("embed", "embedder"): weight for name, weight in net.state_dict().items()}, file)
    given: dict[str, Any] = {"shape": SHAPE, "num_classes": CLASSES, "predicts": "eps"}
    x, t, y = states()
    assert torch.equal(nag.load_network(file, model=Renamed(), **given)(x, t, y), net(x, t, y))
    with pytest.raises(
        ValueError, match=r"net\.pt: these weights do not fit: time_embed\.0\.weight \[8, 1\] is missing"
    ):
        nag.load_network(file, model=Teachable(), **given)


def test_a_file_of_ours_with_a_given_class(tmp_path: Path) -> None:
    """A fine-tuned network in a store: its file names a class of the user's, which they give."""
    adapted = Adapted(Teachable(), Convention("0..999"), VP(), "eps")
    with seeded(0):
        module = adapted.module(SHAPE, CLASSES, null_noise=True)
    file = tmp_path / "network.safetensors"
    nulls = {"has_null_noise": True, "has_null_class": True}
    known: dict[str, Any] = {"interpolant": VP(), "predicts": "eps", "shape": SHAPE, "num_classes": CLASSES}
    file.write_bytes(dump_network(module.state_dict(), model=adapted, **known, **nulls))
    x, t, y = states()
    t[0], y[1] = -1, CLASSES
    assert torch.equal(nag.load_network(file, model=Teachable())(x, t, y), module(x, t, y))
    with pytest.raises(ValueError, match=r"its model is Teachable\(width=8\), not Teachable\(width=4\)"):
        nag.load_network(file, model=Teachable(width=4))


GIVEN: dict[str, Any] = {"shape": SHAPE, "num_classes": CLASSES, "predicts": "eps"}


@pytest.mark.parametrize(
    ("model", "changed", "said"),
    [
        (Teachable(), {"predicts": "v"}, "unknown prediction 'v'; known: velocity, eps, x0, score"),
        (Teachable(), {"time": "ms"}, "unknown time 'ms'; known: t, 1 - t, 0..999, sigma, log-sigma"),
        (Teachable(), {"precondition": EDM()}, "precondition edm makes a velocity of its network's output; leave out"),
        (Teachable(), {"precondition": VE()}, "precondition ve does not go with time: t; it needs time: sigma or log"),
        (Teachable(), {"predicts": None}, "'predicts' is missing: velocity, eps, x0 or score"),
        (Teachable(), {"shapes": 1}, "unknown 'shapes'; known: shape, num_classes, predicts"),
        (Teachable(width=4), {}, r"these weights do not fit: first.weight has shape \[8, 1, 3, 3\], not \[4, 1"),
    ],
)
def test_what_does_not_fit_is_said(model: Any, changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    save_file(Teachable().module(SHAPE, CLASSES, null_noise=False).state_dict(), file)
    with pytest.raises(ValueError, match=said) as caught:
        nag.load_network(file, model=model, **(GIVEN | changed))
    assert str(caught.value).startswith(str(file))


def test_a_wrong_name_of_an_embedding_is_said() -> None:
    @method
    class Misspelt(Teachable):
        time_embedding: ClassVar[str] = "time_emb"

    with pytest.raises(ValueError, match="time_embedding is 'time_emb', and its module has no such submodule; it has"):
        Adapted(Misspelt(), Convention(), VP(), "eps").module(SHAPE, CLASSES, null_noise=True)

    @method
    class First(Teachable):
        time_embedding: ClassVar[str] = "first"

    module = Adapted(First(), Convention(), VP(), "eps").module(SHAPE, CLASSES, null_noise=True)
    with pytest.raises(ValueError, match=r"time_embedding 'first' gives \(1, 8, 8, 8\), not \(1, 8\); name the last"):
        module(torch.zeros(1, *SHAPE), torch.ones(1), torch.zeros(1, dtype=torch.int64))


def test_levels_of_edm_are_in_order() -> None:
    with pytest.raises(ValueError, match=r"sigma_min \(90\) must be below sigma_max \(80\)"):
        EDM(sigma_min=90.0)
    assert math.isclose(EDM().sigma_max, 80)
