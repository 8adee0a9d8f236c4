"""DiT: the official numbers, diffusers' transformer, its levels, and the loss of a learned variance."""

import math
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch

from nag import sample
from nag.field import NetworkField
from nag.guidance.cfg import CFG
from nag.interpolants import VP, Linear, posterior
from nag.losses import Batch, prediction_loss
from nag.models.dit import DiT, hybrid_loss, official_level
from nag.models.sit import SiT
from nag.models.sizes import SIZES, heads_of
from nag.registry import build

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "dit.npz"
SMALL = DiT(hidden=48, depth=2, heads=3, patch=4, learned_variance=True)


def assert_near(found, expected):
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


def filled(module, seed=3):
    """The network with its zero layers filled too, so that its outputs are not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return module


@pytest.fixture(scope="module")
def official():
    """Numbers that the official code made, and our module with its weights."""
    if not VECTORS.exists():
        pytest.skip(f"{VECTORS} is not there: vectors of the official DiT code")
    with np.load(VECTORS) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    weights = {name[3:]: value for name, value in arrays.items() if name.startswith("sd/")}
    module = SMALL.module((4, 16, 16), 7, null_noise=False)
    assert {k: v.shape for k, v in module.state_dict().items()} == {k: v.shape for k, v in weights.items()}
    module.load_state_dict(weights)
    return NetworkField(module, VP(), "eps", (4, 16, 16), 7, False, True), arrays


def test_forward_is_official(official):
    field, given = official
    assert_near(field(given["x"], (given["t"] + 1) / 1000, given["y"]), given["fwd"])


@pytest.mark.parametrize(
    ("name", "guidance", "draws", "expected"),
    [
        ("ddim", (), None, "ddim_20"),
        ("ddpm", (), "ddpm_noises", "ddpm_20"),
        ("ddpm", (CFG(1.5, channels=3),), "ddpm_cfg_noises", "ddpm_20_cfg1.5_3ch"),
    ],
)
def test_samplers_are_official(official, name, guidance, draws, expected):
    field, given = official

    def noise(k):
        return given[draws][k - 1] if k else given["z"]

    x = sample(field, build("samplers", name, steps=20), noise=noise, labels=given["ys"], guidance=guidance)
    assert_near(x, given[expected])


def diffusers_weights(own, depth):
    """Our weights by the names of diffusers."""
    renamed = {f"pos_embed.proj.{part}": own[f"x_embedder.proj.{part}"] for part in ("weight", "bias")}
    for part in ("weight", "bias"):
        renamed[f"proj_out_1.{part}"] = own[f"final_layer.adaLN_modulation.1.{part}"]
        renamed[f"proj_out_2.{part}"] = own[f"final_layer.linear.{part}"]
        for i in range(depth):
            ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
            for letter, weight in zip("qkv", own[f"{ours}.attn.qkv.{part}"].chunk(3), strict=True):
                renamed[f"{theirs}.attn1.to_{letter}.{part}"] = weight
            for there, here in (
                ("norm1.emb.timestep_embedder.linear_1", "t_embedder.mlp.0"),
                ("norm1.emb.timestep_embedder.linear_2", "t_embedder.mlp.2"),
                ("norm1.linear", f"{ours}.adaLN_modulation.1"),
                ("attn1.to_out.0", f"{ours}.attn.proj"),
                ("ff.net.0.proj", f"{ours}.mlp.fc1"),
                ("ff.net.2", f"{ours}.mlp.fc2"),
            ):
                renamed[f"{theirs}.{there}.{part}"] = own[f"{here}.{part}"]
            table = "y_embedder.embedding_table.weight"
            renamed[f"{theirs}.norm1.emb.class_embedder.embedding_table.weight"] = own[table]
    return renamed


@pytest.mark.parametrize(
    ("fields", "side", "classes"),
    [
        ({"hidden": 48, "depth": 2, "heads": 3, "patch": 4}, 16, 7),
        ({"hidden": 32, "depth": 3, "heads": 2, "patch": 2}, 8, 10),
    ],
)
@pytest.mark.parametrize("learned_variance", [False, True])
def test_forward_is_that_of_diffusers(fields, side, classes, learned_variance):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    module = filled(DiT(**fields, learned_variance=learned_variance).module((4, side, side), classes, null_noise=False))
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=fields["heads"],
        attention_head_dim=fields["hidden"] // fields["heads"],
        in_channels=4,
        out_channels=4 * (1 + learned_variance),
        num_layers=fields["depth"],
        sample_size=side,
        patch_size=fields["patch"],
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,
    ).eval()
    theirs.load_state_dict(diffusers_weights(module.state_dict(), fields["depth"]))
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # the official frequencies; diffusers' differ by 1 / 127
    x = torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(0))
    level, y = torch.tensor([0, 431, 999]), torch.tensor([0, 3, classes])
    with torch.no_grad():
        assert_near(module(x, (level + 1) / 1000, y), theirs(x, timestep=level, class_labels=y).sample)


def test_levels_are_official_and_not_rounded():
    t = torch.tensor([0.001, 0.5, 0.50025, 1.0])
    torch.testing.assert_close(official_level(t), torch.tensor([0.0, 499.0, 499.25, 999.0]), atol=1e-4, rtol=0)


def test_dit_and_sit_are_one_transformer():
    """The same weights by name and shape, and from one seed the same numbers."""
    fields = {"hidden": 32, "depth": 2, "heads": 4, "patch": 2, "learned_variance": True}
    one, other = (cls(**fields).module((4, 8, 8), 10, True, 5).state_dict() for cls in (DiT, SiT))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_null_noise_replaces_the_level():
    module = filled(SMALL.module((4, 16, 16), 7, null_noise=True))
    x, y = torch.ones(2, 4, 16, 16), torch.tensor([0, 7])
    out = module(x, torch.tensor([0.3, -1.0]), y)
    assert out.shape == (2, 8, 16, 16)
    with torch.no_grad():
        module.null_noise.add_(1.0)
    changed = (module(x, torch.tensor([0.3, -1.0]), y) - out).abs().amax((1, 2, 3)) > 1e-4
    assert changed.tolist() == [False, True]


@pytest.mark.parametrize(("name", "million"), [("S/2", 33), ("B/2", 130), ("L/2", 458), ("XL/2", 675)])
def test_sizes_have_the_published_parameters(name, million):
    """As the DiT paper counts them, fixed position embeddings and all."""
    with torch.device("meta"):
        module = DiT(**SIZES[name], learned_variance=True).module((4, 32, 32), 1000, null_noise=False)
    count = sum(weight.numel() for weight in module.parameters()) + module.pos_embed.numel()
    assert count / 1e6 == pytest.approx(million, abs=1.0)


def test_sizes_by_name():
    assert len(SIZES) == 12
    assert SiT(**SIZES["XL/2"]) == SiT(hidden=1152, depth=28, heads=16, patch=2)
    assert heads_of(384, 12) == 6
    assert heads_of(384, 11) is None


def batch(t, x0, eps):
    n = len(t)
    return Batch(x0, eps, t, t, torch.zeros(n, dtype=torch.int64))


def fixed(module_out):
    """A network that says this, whatever it is asked."""
    return lambda x, t, y: module_out


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    x0, eps, off = (torch.randn(6, 1, 4, 4, generator=generator) for _ in range(3))
    return torch.tensor([0.0021, 0.01, 0.2, 0.5, 0.9, 0.9999]), x0, eps, eps + 0.3 * off


def test_the_bound_is_a_divergence_of_gaussians(states):
    """L_simple, and KL(q(x_s | x_t, x_0), p) in bits a dimension by torch's own formula."""
    t, x0, eps, guess = states
    for v in (-1.0, 0.2, 1.0):
        out = torch.cat([guess, torch.full_like(guess, v)], dim=1)
        found = hybrid_loss(VP(), "eps")(fixed(out), batch(t, x0, eps))
        expected = (guess - eps).square().mean().double()
        for i, level in enumerate(t.tolist()):
            q = posterior(VP(), level, level - 0.001)
            said = VP().sigma(level) / VP().alpha(level) * (eps[i] - guess[i])  # x_0 hat - x_0
            log_variance = (1 + v) / 2 * math.log(q.forward) + (1 - v) / 2 * math.log(q.variance)
            true = torch.distributions.Normal(torch.zeros(1, 4, 4), math.sqrt(q.variance))
            learned = torch.distributions.Normal(q.from_x0 * said, math.exp(log_variance / 2))
            expected += torch.distributions.kl_divergence(true, learned).mean() / math.log(2) / len(t)
        assert float(found) == pytest.approx(float(expected), rel=2e-3)


def test_the_loss_is_the_official_one_in_float64(states):
    """With DiT's tables over levels j: betas, posterior mean and variance, the mean from x_0 of the predicted eps."""
    _, *float32 = states
    x0, eps, guess = (tensor.double() for tensor in float32)
    j = np.array([1, 2, 9, 199, 500, 999])
    betas = np.linspace(1e-4, 0.02, 1000)
    bar = np.cumprod(1 - betas)
    bar_j, before = bar[j], bar[j - 1]

    def spread(values):
        return torch.from_numpy(values).view(-1, 1, 1, 1)

    x = spread(np.sqrt(bar_j)) * x0 + spread(np.sqrt(1 - bar_j)) * eps
    of_x0 = betas[j] * np.sqrt(before) / (1 - bar_j)
    of_x = (1 - before) * np.sqrt(1 - betas[j]) / (1 - bar_j)
    low, high = np.log(betas[j] * (1 - before) / (1 - bar_j)), np.log(betas[j])
    v = torch.linspace(-1.2, 1.2, x0.numel(), dtype=torch.float64).view(x0.shape)
    log_variance = (v + 1) / 2 * spread(high) + (1 - v) / 2 * spread(low)
    x0_hat = x / spread(np.sqrt(bar_j)) - spread(np.sqrt(1 / bar_j - 1)) * guess
    true, said = (spread(of_x0) * start + spread(of_x) * x for start in (x0, x0_hat))
    gap = log_variance - spread(low)
    kl = 0.5 * (-1 + gap + torch.exp(-gap) + (true - said) ** 2 * torch.exp(-log_variance))
    expected = ((guess - eps) ** 2).mean() + kl.mean() / np.log(2)

    t = torch.from_numpy((j + 1) / 1000)
    found = hybrid_loss(VP(), "eps")(fixed(torch.cat([guess, v], dim=1)), batch(t, x0, eps))
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_the_bound_trains_the_variance_alone(states):
    t, x0, eps, guess = states
    out = torch.cat([guess, torch.zeros_like(guess)], dim=1).requires_grad_()
    hybrid_loss(VP(), "eps")(fixed(out), batch(t, x0, eps)).backward()
    plain = guess.clone().requires_grad_()
    prediction_loss(VP(), "eps")(fixed(plain), batch(t, x0, eps)).backward()
    torch.testing.assert_close(out.grad[:, :1], plain.grad)
    assert out.grad[:, 1:].abs().amin() > 0


def test_the_first_levels_have_no_bound(states):
    _, x0, eps, guess = states
    out = torch.cat([guess, torch.zeros_like(guess)], dim=1).requires_grad_()
    t = torch.tensor([0.0, 1e-5, 0.0005, 0.001, 0.0015, 0.0019])
    loss = hybrid_loss(VP(), "eps")(fixed(out), batch(t, x0, eps))
    assert float(loss.detach()) == pytest.approx(float((guess - eps).square().mean()), rel=1e-6)
    loss.backward()
    assert out.grad.isfinite().all()
    assert not out.grad[:, 1:].any()


def test_loss_of_each_kind():
    assert SMALL.loss(VP(), "eps") is not None
    with pytest.raises(ValueError, match="needs interpolant vp"):
        SMALL.loss(Linear(), "velocity")
    t, x0, eps = torch.tensor([0.3]), torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    loss = DiT(hidden=8, depth=1, heads=2, patch=2).loss(Linear(), "velocity")
    assert float(loss(fixed(eps), batch(t, x0, eps))) == 0


def test_smoke_is_tiny_with_the_same_patches_and_variance():
    tiny = DiT(**SIZES["XL/4"], learned_variance=True).smoke()
    assert (tiny.patch, tiny.learned_variance) == (4, True)
    assert sum(w.numel() for w in tiny.module((4, 32, 32), 10, True).parameters()) < 20_000


def test_bad_fields_are_refused():
    with pytest.raises(pydantic.ValidationError, match=r"hidden \(30\) must be a multiple of heads \(4\)"):
        DiT(hidden=30, depth=1, heads=4, patch=2)
    with pytest.raises(ValueError, match="patches of side 4 do not tile states of 8 x 6"):
        SMALL.module((4, 8, 6), 10, False)
