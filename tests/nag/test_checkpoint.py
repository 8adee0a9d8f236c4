"""Checkpoints: official files of DiT and SiT as they are, what of them is refused and how, and our own form."""

import argparse
import collections
from pathlib import Path

import numpy as np
import pytest
import torch

from nag import load_network
from nag.checkpoint import dump_network, own_form, parse_network
from nag.field import NetworkField
from nag.interpolants import GVP, VP, Linear
from nag.models.dit import DiT
from nag.models.sit import SiT
from nag.models.sizes import SIZES

SHARED = Path(__file__).parents[2].parent / "shared" / "vectors"
MODELS = {"dit": DiT, "sit": SiT}
SMALL = {"hidden": 48, "depth": 2, "heads": 3, "patch": 4}
ARGS = argparse.Namespace(
    data_path="/data",
    model="SiT-XL/2",
    path_type="Linear",
    prediction="velocity",
    cfg_scale=4.0,
    ckpt=None,
    wandb=False,
)


def module(family, shape=(4, 16, 16), classes=7, null_noise=False, learned_variance=True, **fields):
    """A network of random weights, none of them zero."""
    made = MODELS[family](**SMALL | fields, learned_variance=learned_variance).module(
        shape, classes, null_noise, seed=2
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in made.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


@pytest.fixture
def save(tmp_path):
    def write(content, name="network.pt", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write


def refused(path, family="sit", **architecture):
    """The words with which it is refused; they begin with the path."""
    with pytest.raises(ValueError, match=r".") as error:
        load_network(path, family, **architecture)
    words = str(error.value)
    assert words.startswith(f"{path}: ")
    assert "\n" not in words
    return words


def answer(network, x, t, y):
    with torch.no_grad():
        return network(x, t, y)


def asked(shape=(4, 16, 16), classes=7):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.2, 0.9, 1.0]), torch.tensor([0, classes - 1, classes])


@pytest.mark.parametrize("family", ["dit", "sit"])
@pytest.mark.parametrize(
    ("shape", "classes", "fields"),
    [
        ((4, 16, 16), 7, {}),
        ((1, 8, 8), 10, {"hidden": 32, "heads": 4, "depth": 3, "patch": 2, "learned_variance": False}),
        ((3, 24, 24), 2, {"hidden": 16, "heads": 1, "depth": 1, "patch": 8, "mlp_ratio": 2.75}),
        ((4, 8, 8), 5, {"hidden": 36, "heads": 3, "mlp_ratio": 2.73}),  # int(36 * 2.73) is 98, and 98 / 36 * 36 is less
    ],
)
def test_what_a_network_is_its_weights_say(save, family, shape, classes, fields):
    made = module(family, shape, classes, **fields)
    field = load_network(save(made.state_dict()), family, heads=(SMALL | fields)["heads"])
    assert (field.shape, field.num_classes, field.has_null_noise, field.has_null_class) == (shape, classes, False, True)
    path, predicts = {"dit": (VP(), "eps"), "sit": (Linear(), "velocity")}[family]
    assert (field.interpolant, field.predicts) == (path, predicts)
    assert torch.equal(field(*asked(shape, classes)), answer(made, *asked(shape, classes)))
    assert not field.module.training


def test_with_a_null_noise_row(save):
    field = load_network(save(module("sit", null_noise=True).state_dict()), "sit", heads=3)
    assert field.has_null_noise
    x, t, y = asked()
    assert not torch.equal(field(x, -torch.ones(3), y), field(x, t, y))


@pytest.mark.parametrize("name", ["ema", "model"])
def test_training_files_of_the_official_code(save, name):
    """{"model", "ema", "opt", "args"}, args being an argparse.Namespace: which torch.load refuses unless it is told."""
    made, other = module("sit"), module("sit")
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(0.5)
    optimizer = torch.optim.AdamW(made.parameters())
    for weight in made.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    content = {name: made.state_dict(), "opt": optimizer.state_dict(), "args": ARGS}
    if name == "ema":
        content["model"] = other.state_dict()
    field = load_network(save(content), "sit", heads=3)
    assert torch.equal(field(*asked()), answer(made, *asked()))
    assert load_network(save(content | {"args": vars(ARGS)}), "sit", heads=3).shape == (4, 16, 16)


def test_old_files_and_half_precision(save):
    state = collections.OrderedDict((k, v.half()) for k, v in module("dit").state_dict().items())
    field = load_network(save(state, _use_new_zipfile_serialization=False), "dit", heads=3)
    assert {weight.dtype for weight in field.module.state_dict().values()} == {torch.float32}


def test_known_sizes_know_their_heads(save):
    state = module("dit", (4, 8, 8), 3, **{**SIZES["S/8"], "heads": 6}).state_dict()
    field = load_network(save(state), "dit")
    assert field.module.blocks[0].attn.heads == 6
    assert load_network(save(state), "dit", heads=12).module.blocks[0].attn.heads == 12


def test_given_sizes_must_agree(save):
    path = save(module("sit").state_dict())
    fields = {"hidden": 48, "depth": 2, "patch": 4, "mlp_ratio": 4.0, "learned_variance": True, "num_classes": 7}
    assert load_network(path, "sit", heads=3, shape=(4, 16, 16), **fields).num_classes == 7
    for key, wrong in (("hidden", 64), ("depth", 3), ("patch", 2), ("mlp_ratio", 2.0), ("learned_variance", False)):
        assert f"{key} {wrong} was given, but its weights have {fields[key]}" in refused(path, heads=3, **{key: wrong})
    assert "its class table has 8 rows" in refused(path, heads=3, num_classes=10)
    assert "shape (3, 16, 16) was given" in refused(path, heads=3, shape=(3, 16, 16))
    assert "unknown 'width'; what may be given: hidden" in refused(path, heads=3, width=48)
    assert "weights do not show heads: give heads" in refused(path)
    assert "hidden (48) must be a multiple of heads (5)" in refused(path, heads=5)
    for bad in (0, 2.5, "3", True):
        assert "heads must be a whole number" in refused(path, heads=bad)


def test_states_that_are_not_square(save):
    path = save(module("sit", (4, 8, 16)).state_dict())
    assert "8 patches of 4 x 4, which make no square: give shape=(C, H, W)" in refused(path, heads=3)
    assert load_network(path, "sit", heads=3, shape=(4, 8, 16)).shape == (4, 8, 16)


def test_trained_without_a_null_class(save):
    """Then the official table has a row less, which only num_classes can tell."""
    made = module("dit")
    state, name = made.state_dict(), "y_embedder.embedding_table.weight"
    path = save(state | {name: state[name][:-1].clone()})
    field = load_network(path, "dit", heads=3, num_classes=7)
    assert (field.num_classes, field.has_null_class) == (7, False)
    x, t, _ = asked()
    y = torch.tensor([0, 3, 6])
    assert torch.equal(field(x, t, y), answer(made, x, t, y))


def straight(sign, at):
    """A network that says `sign` times about its input, whatever the level: as at pure noise a trained one does."""
    made = module(at, (1, 8, 8), 3, hidden=32, heads=4, depth=1, patch=2)
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
        made.pos_embed.zero_()
        made.x_embedder.proj.weight.view(32, 4)[:4] = torch.eye(4)
        made.x_embedder.proj.weight.view(32, 4)[4:8] = -torch.eye(4)
        made.final_layer.linear.weight.view(2, 2, 2, 32)[:, :, 0].view(4, 32)[:, :4] = sign * torch.eye(4)
    return made.state_dict()


def test_the_other_family_is_recognised_by_its_answers(save):
    """All shapes of the two are the same. A DiT says eps at pure noise, a SiT (its own sign) data - eps."""
    dit, sit = save(straight(1.0, "dit"), "dit.pt"), save(straight(-1.0, "sit"), "sit.pt")
    load_network(dit, "dit", heads=4)
    load_network(sit, "sit", heads=4)
    assert "it answers as a DiT does" in refused(dit, "sit", heads=4)
    assert "it answers as a SiT does" in refused(sit, "dit", heads=4)


def test_what_a_training_file_says_of_itself(save):
    def trained(**said):
        args = argparse.Namespace(**vars(ARGS) | said)
        return save({"ema": module("sit").state_dict(), "args": args})

    assert "its training was of a DiT-B/4; say family 'dit'" in refused(trained(model="DiT-B/4"), heads=3)
    assert "its training was of a SiT-XL/2; say family 'sit'" in refused(trained(), "dit", heads=3)
    assert "to predict noise on the path Linear" in refused(trained(prediction="noise"), heads=3)
    assert "to predict velocity on the path VP" in refused(trained(path_type="VP"), heads=3)
    assert load_network(trained(path_type="GVP"), "sit", heads=3).interpolant == GVP()


def test_wrong_weights_are_named(save):
    state = module("sit").state_dict()

    def without(name):
        return {key: value for key, value in state.items() if key != name}

    bias = "blocks.1.attn.qkv.bias"
    assert f"do not fit: {bias} [144] is missing" in refused(save(without(bias)), heads=3)
    assert "projector.weight [2] is not known" in refused(save(state | {"projector.weight": torch.ones(2)}), heads=3)
    assert f"{bias} has shape [2], not [144]" in refused(save(state | {bias: torch.ones(2)}), heads=3)
    for value in (float("nan"), float("inf")):
        broken = state | {bias: state[bias].clone().index_fill_(0, torch.tensor(5), value)}
        assert f"weight {bias} is not finite" in refused(save(broken), heads=3)
    assert f"weight {bias} is of int64" in refused(save(state | {bias: state[bias].long()}), heads=3)
    unet = {"time_embed.0.weight": torch.ones(2, 2), "input_blocks.0.0.weight": torch.ones(2, 2)}
    assert "not the weights of a DiT or SiT: x_embedder.proj.weight is not there" in refused(save(unet), heads=3)
    odd = state | {"final_layer.linear.weight": torch.ones(48, 48)}
    assert "fits neither 4 channels in patches of 4 nor twice as many" in refused(save(odd), heads=3)
    flat = state | {"x_embedder.proj.weight": torch.ones(48, 64)}
    assert "x_embedder.proj.weight has shape (48, 64)" in refused(save(flat), heads=3)
    oblong = state | {"x_embedder.proj.weight": torch.ones(48, 4, 4, 2)}
    assert "x_embedder.proj.weight has shape [48, 4, 4, 2], not [48, 4, 4, 4]" in refused(save(oblong), heads=3)


class Config:
    """A class of somebody's own, as found in checkpoints that only their code can read."""


def test_objects_beside_the_weights_are_left_out(save):
    state = module("sit").state_dict()
    field = load_network(save({"ema": state, "config": Config()}), "sit", heads=3)
    assert all(torch.equal(weight, state[name]) for name, weight in field.module.state_dict().items())
    words = refused(save(torch.nn.Linear(2, 2)), heads=3)
    assert "a whole network of the class torch.nn.modules.linear.Linear" in words
    assert "torch.save(torch.load(PATH, weights_only=False).state_dict(), NEW_PATH)" in words


def test_what_is_no_state_dict(save):
    assert "it holds a int, not a state dict" in refused(save(3))
    assert "x_embedder.proj.weight is not there; there is x, ..." in refused(save({"x": torch.ones(2), "step": 3}))
    assert "it holds no weights, only step" in refused(save({"step": 3}))
    assert "it is empty" in refused(save({}))


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_file_that_is_cut_off(save, new, share):
    path = save(module("sit").state_dict(), _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "the file is cut off" in refused(path, heads=3)


def test_what_is_no_file_of_torch(tmp_path):
    path = tmp_path / "network.pt"
    for content in (b"", b"version https://git-lfs.github.com/spec/v1", b"<!DOCTYPE html>"):
        path.write_bytes(content)
        assert f"neither a file of torch.save nor safetensors: it begins with {content[:9]!r}" in refused(path)
    with pytest.raises(FileNotFoundError):
        load_network(tmp_path / "nothing.pt", "sit")


def test_the_family_is_asked_for(save, tmp_path):
    path = save(module("sit").state_dict())
    with pytest.raises(ValueError, match=r"does not describe itself: .* give its family: dit or sit"):
        load_network(path)
    assert "unknown family 'uvit'; known: dit, sit" in refused(path, "uvit")


def own(family="sit", **changes):
    made = module(family, null_noise=True)
    fields = {"model": MODELS[family](**SMALL, learned_variance=True), "interpolant": GVP(), "predicts": "velocity"}
    sizes = {"shape": (4, 16, 16), "num_classes": 7, "has_null_noise": True, "has_null_class": False}
    return made, dump_network(made.state_dict() | changes, **fields, **sizes)


@pytest.mark.parametrize("family", ["dit", "sit"])
def test_our_own_form_describes_itself(tmp_path, family):
    made, data = own(family)
    path = tmp_path / "network.safetensors"
    path.write_bytes(data)
    field = load_network(path)
    assert isinstance(field, NetworkField)
    assert (field.interpolant, field.predicts, field.num_classes) == (GVP(), "velocity", 7)
    assert (field.has_null_noise, field.has_null_class) == (True, False)
    assert torch.equal(field(*asked()), answer(made, *asked()))
    assert own_form(data) == data
    assert "a checkpoint of nagbench has no family" in refused(path, family)


def test_our_own_form_is_checked(tmp_path):
    path, (_, data) = tmp_path / "network.safetensors", own()
    path.write_bytes(data[: len(data) // 2])
    assert "network.safetensors" in refused(path, None)
    for changes, words in (
        ({"x_embedder.proj.bias": torch.full((48,), float("nan"))}, "weight x_embedder.proj.bias is not finite"),
        ({"x_embedder.proj.bias": torch.ones(3)}, "x_embedder.proj.bias has shape [3], not [48]"),
        ({"more": torch.ones(3)}, "more [3] is not known"),
    ):
        path.write_bytes(own(**changes)[1])
        assert words in refused(path, None)


@pytest.mark.parametrize("family", ["dit", "sit"])
def test_official_files_in_our_own_form(save, family):
    path = save({"model": module(family).state_dict()})
    data = own_form(path.read_bytes(), family, heads=3)
    assert own_form(path.read_bytes(), family, heads=3, shape=None) == data
    field, direct = parse_network(data), load_network(path, family, heads=3)
    assert torch.equal(field(*asked()), direct(*asked()))
    for name in ("interpolant", "predicts", "shape", "num_classes", "has_null_noise", "has_null_class"):
        assert getattr(field, name) == getattr(direct, name)
    with pytest.raises(ValueError, match="give its family: dit or sit"):
        own_form(path.read_bytes())


@pytest.mark.parametrize("family", ["dit", "sit"])
def test_official_weights(save, family):
    path = SHARED / f"{family}.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there: vectors of the official code")
    with np.load(path) as file:
        given = {name: torch.from_numpy(file[name]) for name in file.files}
    field = load_network(save({name[3:]: v for name, v in given.items() if name.startswith("sd/")}), family, heads=3)
    assert (field.shape, field.num_classes) == ((4, 16, 16), 7)
    t, sign = ((given["t"] + 1) / 1000, 1) if family == "dit" else (1 - given["t"], -1)
    found, expected = field(given["x"], t, given["y"]), sign * given["fwd"]
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.parametrize("side", [32, 64])
def test_the_published_networks_have_the_form_that_is_read(side):
    """DiT-XL-2-256x256.pt and -512x512.pt by names and shapes alone: the real files are 2.7 GB."""
    from nag.official_checkpoints import _inferred
    from nag.weights import Weights
    from nag.weights.stored import Storage, stored

    with torch.device("meta"):
        state = DiT(**SIZES["XL/2"], learned_variance=True).module((4, side, side), 1000, False).state_dict()
    tensors = {name: stored(Storage(b"", 2**40, 0), "float32", tuple(one.shape)) for name, one in state.items()}
    network = _inferred(Weights("", tensors), "dit", VP(), {})
    assert network.model == DiT(**SIZES["XL/2"], learned_variance=True)
    assert (network.shape, network.num_classes) == ((4, side, side), 1000)
