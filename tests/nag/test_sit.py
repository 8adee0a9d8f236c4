import math
from pathlib import Path

import numpy as np
import pydantic
import pytest
import torch

from nag import sample
from nag.field import NetworkField
from nag.guidance.cfg import CFG
from nag.guidance.nag import NAG
from nag.interpolants import Linear
from nag.models.sit import SiT
from nag.noise import Noise, labels
from nag.registry import build

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "sit.npz"
SMALL = SiT(hidden=32, depth=2, heads=4, patch=2)


def network(null_noise=True, seed=3):
    """A network whose outputs are not zero: the zero layers of the official start are filled too."""
    module = SMALL.module((1, 8, 8), 10, null_noise, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return module


def as_field(module, shape=(1, 8, 8), num_classes=10, null_noise=True):
    return NetworkField(module, Linear(), "velocity", shape, num_classes, null_noise, True)


@pytest.fixture(scope="module")
def official():
    """Numbers that the official code made, and our module with its weights."""
    if not VECTORS.exists():
        pytest.skip(f"{VECTORS} is not there: vectors of the official SiT code")
    with np.load(VECTORS) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    weights = {name[3:]: value for name, value in arrays.items() if name.startswith("sd/")}
    module = SiT(hidden=48, depth=2, heads=3, patch=4, learned_variance=True).module((4, 16, 16), 7, null_noise=False)
    own = module.state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in weights.items()}
    torch.testing.assert_close(own["pos_embed"], weights["pos_embed"])
    module.load_state_dict(weights)
    return as_field(module, (4, 16, 16), 7, null_noise=False), arrays


def assert_near(found, expected, relative=1e-4):
    assert float((found - expected).abs().max() / expected.abs().max()) < relative


def test_forward_is_official(official):
    field, given = official
    assert_near(field(given["x"], 1 - given["t"], given["y"]), -given["fwd"])


@pytest.mark.parametrize(
    ("name", "steps", "expected"),
    [
        ("euler", 10, "ode_euler_11"),
        ("heun", 10, "ode_heun2_11"),
        ("euler_maruyama", 20, "sde_em_20_sigma_mean0.04"),
    ],
)
def test_samplers_are_official(official, name, steps, expected):
    field, given = official

    def noise(k):
        return given["sde_noises"][k - 1] if k else given["z"]

    x = sample(field, build("samplers", name, steps=steps), noise=noise, labels=given["ys"])
    assert_near(x, given[expected])


def test_dopri5_is_official(official):
    pytest.importorskip("torchdiffeq")
    field, given = official
    x = sample(field, build("samplers", "dopri5"), noise=lambda k: given["z"], labels=given["ys"])
    assert_near(x, given["ode_dopri5"], relative=1e-3)


def test_guidance_on_three_channels_is_official(official):
    field, given = official
    for guidance, near in ((CFG(1.5, channels=3), True), (CFG(1.5), False)):
        x = sample(
            field,
            build("samplers", "euler", steps=10),
            noise=lambda k: given["z"],
            labels=given["ys"],
            guidance=guidance,
        )
        if near:
            assert_near(x, given["ode_euler_11_cfg1.5_3ch"])
        else:
            assert (x - given["ode_euler_11_cfg1.5_3ch"]).abs().max() > 0.01


def test_initial_weights_are_official():
    module = SiT(hidden=64, depth=2, heads=4, patch=2).module((4, 16, 16), 10, null_noise=True)
    weights = dict(module.named_parameters())
    for name, weight in weights.items():
        if name.endswith("bias") or "adaLN" in name or name.startswith("final_layer"):
            assert not weight.any(), name
        elif name == "null_noise" or name.startswith(("t_embedder", "y_embedder")):
            assert weight.std().item() == pytest.approx(0.02, rel=4 / math.sqrt(weight.numel())), name
        else:
            fan_out, fan_in = weight.flatten(1).shape
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert 0.95 * bound < weight.abs().max().item() <= bound, name
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05), name
    drawn = [w.flatten()[:64] for w in weights.values() if w.any()]
    assert len({tuple(w.tolist()) for w in drawn}) == len(drawn), "two weights got the same numbers"


def test_weights_are_a_function_of_the_seed_alone():
    before = torch.get_rng_state()
    one, again, other = (SMALL.module((1, 8, 8), 10, True, seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])
    bare = SMALL.module((1, 8, 8), 10, False, 5).state_dict()
    assert set(one) - set(bare) == {"null_noise"}
    assert all(torch.equal(one[name], bare[name]) for name in bare)


def test_null_noise_replaces_the_time_and_nothing_else():
    module, x, y = network(), Noise(0, range(3), (1, 8, 8))(0), torch.tensor([0, 4, 10])
    t = torch.tensor([0.3, -1.0, 0.7])
    out = module(x, t, y)
    with torch.no_grad():
        module.null_noise.add_(1.0)
    changed = (module(x, t, y) - out).abs().amax((1, 2, 3)) > 1e-4
    assert changed.tolist() == [False, True, False]
    out.sum().backward()
    assert module.null_noise.grad.abs().sum() > 0
    assert all(w.grad.isfinite().all() for w in module.parameters())


def test_on_meta_it_stays_without_weights():
    with torch.device("meta"):
        module = SMALL.module((1, 8, 8), 10, True)
    assert {t.device.type for t in module.state_dict().values()} == {"meta"}
    module.load_state_dict(network().state_dict(), assign=True)
    x, t, y = torch.ones(2, 1, 8, 8), torch.tensor([0.1, -1.0]), torch.tensor([1, 10])
    assert torch.equal(module(x, t, y), network()(x, t, y))


def test_states_need_not_be_square():
    module = SMALL.module((3, 4, 8), 10, False)
    assert module.pos_embed.shape == (1, 8, 32)
    assert module(torch.ones(2, 3, 4, 8), torch.ones(2), torch.zeros(2, dtype=torch.int64)).shape == (2, 3, 4, 8)


def test_samples_agree_in_any_batch():
    """Fixed-step samplers agree within 1e-5 in float32, whatever the micro-batch; in equal ones to the bit."""
    field, indices = as_field(network()), np.arange(9)

    def draw(part):
        return sample(
            field,
            build("samplers", "euler_maruyama", steps=6),
            noise=Noise(0, part, field.shape),
            labels=labels(0, part, field.num_classes),
            guidance=(CFG(1.25), NAG(1.0)),
        )

    whole = draw(indices)
    assert whole.abs().max() > 0.1
    assert torch.equal(whole, draw(indices))
    torch.testing.assert_close(torch.cat([draw(indices[:4]), draw(indices[4:])]), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat([draw([i]) for i in indices]), whole, atol=1e-5, rtol=1e-5)


def test_smoke_is_tiny_with_the_same_patches():
    tiny = SiT(hidden=1152, depth=28, heads=16, patch=4, learned_variance=True).smoke()
    assert tiny.patch == 4
    assert sum(w.numel() for w in tiny.module((4, 32, 32), 10, True).parameters()) < 20_000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden": 30, "heads": 4}, r"hidden \(30\) must be a multiple of heads \(4\)"),
        ({"hidden": 30, "heads": 3}, r"hidden \(30\) must be a multiple of 4"),
        ({"depth": 0}, "depth"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"dropout": 0.1}, "dropout"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        SiT(**{"hidden": 32, "depth": 1, "heads": 4, "patch": 2} | fields)


def test_patches_must_tile():
    with pytest.raises(ValueError, match="patches of side 2 do not tile states of 8 x 7"):
        SMALL.module((1, 8, 7), 10, False)
