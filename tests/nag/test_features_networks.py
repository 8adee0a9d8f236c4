"""Extractors whose network comes from a file: timm's, DINOv2 among them, and TorchScript of one's own."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from nag.features import dinov2
from nag.features.dinov2 import DINOv2
from nag.features.timm_model import Timm
from nag.features.torchscript import TorchScript
from nag.pretrained import DINOV2
from tests.nag.inception_file import save

TINY = "test_vit"
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}  # makes any of timm's vision transformers quick


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


def images(n=3, height=40, width=30, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8))


def seeded(make, *arguments, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*arguments, **options).eval()


def stirred(network):
    """Every weight away from where it starts, for some start at zero."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return network


def same_for_any_batch(extract, batch):
    together = extract(batch)
    alone = [extract(image[None]) for image in batch]
    return all((torch.cat([x[name] for x in alone]) - value).abs().max() <= 1e-5 for name, value in together.items())


# timm


@pytest.fixture(scope="module")
def tiny(timm):
    return stirred(seeded(timm.create_model, TINY))


@pytest.mark.parametrize("form", ["safetensors", "pth", "training"])
def test_timm_is_timms_own_evaluation(form, timm, tiny, tmp_path):
    """Pillow's resize, ToTensor and Normalize with timm's configuration, on each image alone."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    path = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_file(tiny.state_dict(), path)
    else:
        torch.save({"state_dict": tiny.state_dict()} if form == "training" else tiny.state_dict(), path)
    batch = images(height=170, width=200)
    features = Timm(model=TINY, weights=str(path)).open()(batch)["features"]
    wanted = timm.data.resolve_model_data_config(tiny)
    prepared = []
    for image in batch:
        pillow = Image.fromarray(image.permute(1, 2, 0).numpy())
        resized = F.resize(pillow, list(wanted["input_size"][1:]), InterpolationMode(wanted["interpolation"]))
        prepared.append(F.normalize(F.to_tensor(resized), wanted["mean"], wanted["std"]))
    with torch.no_grad():
        expected = tiny.forward_head(tiny.forward_features(torch.stack(prepared)), pre_logits=True)
    assert features.dtype == torch.float32
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_timm_does_not_touch_the_global_generator_and_any_batch_is_the_same(tiny, tmp_path):
    save_file(tiny.state_dict(), tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    extract = Timm(model=TINY, weights=str(tmp_path / "weights.safetensors")).open()
    assert torch.equal(torch.get_rng_state(), before)
    assert same_for_any_batch(extract, images())
    grey = images(channels=1)
    assert torch.equal(extract(grey)["features"], extract(grey.repeat(1, 3, 1, 1))["features"])
    with pytest.raises(ValueError, match="images must be uint8"):
        extract(images().float())


def test_timm_names_what_is_wrong(timm, tiny, tmp_path):
    path, other = tmp_path / "weights.safetensors", tmp_path / "other.safetensors"
    save_file(tiny.state_dict(), path)
    with pytest.raises(ValueError, match=r"timm .* has no model 'vit_tinyy'"):
        Timm(model="vit_tinyy", weights=str(path)).open()
    with pytest.raises(FileNotFoundError, match="gone"):
        Timm(model=TINY, weights=str(tmp_path / "gone")).open()
    with pytest.raises(ValueError, match=r"weights\.safetensors: these are not weights of timm's test_resnet: .*conv"):
        Timm(model="test_resnet", weights=str(path)).open()
    missing = {name: weight for name, weight in tiny.state_dict().items() if name != "blocks.1.norm1.weight"}
    save_file(missing, other)
    with pytest.raises(ValueError, match=r"other\.safetensors: these are not weights .*blocks\.1\.norm1\.weight"):
        Timm(model=TINY, weights=str(other)).open()


class Evil:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_is_never_run(timm, tmp_path, capsys):
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth: it holds no weights, only a \(.*, which is not run\)"):
        Timm(model=TINY, weights=str(tmp_path / "evil.pth")).open()
    assert "ran" not in capsys.readouterr().out


# DINOv2


@pytest.fixture(scope="module")
def small_dinov2(timm):
    return stirred(seeded(timm.create_model, "vit_small_patch14_dinov2", num_classes=0, **SMALL))


def official(network):
    """The file as dinov2 publishes it: a mask token beside."""
    return {**network.state_dict(), "mask_token": torch.zeros(1, SMALL["embed_dim"])}


def opened(path):
    return dinov2.opened("vit_small_patch14_dinov2", path, "cpu", **SMALL)


def test_dinov2_is_the_class_token_after_dgm_evals_preparation(timm, small_dinov2, tmp_path):
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    torch.save(official(small_dinov2), tmp_path / "official.pth")
    save_file(small_dinov2.state_dict(), tmp_path / "timm.safetensors")
    batch = images(height=64, width=64)
    features = opened(tmp_path / "official.pth")(batch)["features"]
    assert torch.equal(opened(tmp_path / "timm.safetensors")(batch)["features"], features)

    prepared = []
    for image in batch:
        resized = F.resize(Image.fromarray(image.permute(1, 2, 0).numpy()), [224, 224], InterpolationMode.BICUBIC)
        prepared.append(F.normalize(F.to_tensor(resized), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224, **SMALL).eval()
    network.load_state_dict(dinov2._placed(small_dinov2.state_dict()))
    with torch.no_grad():
        expected = network.forward_features(torch.stack(prepared))[:, 0]
    assert features.shape == (3, SMALL["embed_dim"])
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert same_for_any_batch(opened(tmp_path / "official.pth"), batch)


def test_positions_are_stretched_as_dinov2_does_it():
    """By 16.1 / 37: position i of 16 reads at (i + 0.5) * 37 / 16.1 - 0.5, from the four patches around it, by the
    cubic of a = -3/4; written out here. timm reads at 37 / 16 from more patches. The class token's stays.
    """

    def cubic(d):
        near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
        return np.where(d < 1, near, np.where(d < 2, far, 0))

    place = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
    matrix = np.zeros((16, 37))
    for i, at in enumerate(place):
        for k in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            matrix[i, min(max(k, 0), 36)] += cubic(abs(at - k))
    positions = torch.randn(1, 1 + 37**2, 4, generator=torch.Generator().manual_seed(0))
    placed = dinov2._placed({"pos_embed": positions})["pos_embed"]
    assert torch.equal(placed[:, :1], positions[:, :1])
    expected = np.einsum("ij,kl,jlc->ikc", matrix, matrix, positions[0, 1:].reshape(37, 37, 4).double().numpy())
    assert np.abs(placed[0, 1:].reshape(16, 16, 4).numpy() - expected).max() <= 1e-4
    right = {"pos_embed": torch.randn(1, 257, 4)}
    assert dinov2._placed(right)["pos_embed"] is right["pos_embed"]


def test_the_large_network_takes_the_official_names(timm):
    """On the meta device: every name and shape, as published, fits timm's ViT-L/14."""
    with torch.device("meta"):
        large = timm.create_model(dinov2.ARCHITECTURE, num_classes=0)
        wanted = timm.create_model(dinov2.ARCHITECTURE, num_classes=0, img_size=dinov2.SIZE).state_dict()
    state = large.state_dict()
    assert state["pos_embed"].shape == (1, 1 + 37**2, 1024)
    assert "blocks.23.ls1.gamma" in state
    real = {**state, "pos_embed": torch.zeros(state["pos_embed"].shape)}
    placed = dinov2._placed(real)
    assert {name: weight.shape for name, weight in placed.items()} == {name: w.shape for name, w in wanted.items()}


def test_dinov2_names_what_is_missing(timm, tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"nagbench fetch {DINOV2}"):
        DINOv2().open()
    save_file(tiny.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(
        ValueError, match=r"other\.safetensors: these are not weights of timm's vit_small_patch14_dinov2"
    ):
        opened(tmp_path / "other.safetensors")


# TorchScript


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x).mean(dim=[2, 3])


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3])


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean(dim=[2, 3]), x.amax(dim=[2, 3])


class Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"spatial": x[:, :, :2, :2], "features": x.mean(dim=[2, 3])}


class Batch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=0)


def extractor(module, tmp_path, **fields):
    return TorchScript(path=str(save(seeded(lambda: module), tmp_path / "own.pt")), **fields)


def test_torchscript_scales_and_normalises(tmp_path):
    flat = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(2, 3, 6, 6)
    for fields, expected in (
        ({}, [0.0, 0.2, 1.0]),
        ({"range": (-1.0, 1.0)}, [-1.0, -0.6, 1.0]),
        ({"range": (0.0, 255.0), "mean": (1.0, 2.0, 3.0), "std": (0.5,)}, [-2.0, 98.0, 504.0]),
    ):
        features = extractor(Mean(), tmp_path, **fields).open()(flat)["features"]
        assert torch.allclose(features, torch.tensor(expected), atol=1e-5), fields


@pytest.mark.parametrize(
    ("module", "outputs", "sizes"),
    [
        (One(), ("features",), (5,)),
        (Two(), ("features", "logits"), (3, 3)),
        (Two(), ("features",), (3,)),
        (Named(), ("features", "spatial"), (3, 12)),
    ],
    ids=["tensor", "tuple", "first of a tuple", "dict"],
)
def test_torchscript_gives_what_it_says(module, outputs, sizes, tmp_path):
    method = extractor(module, tmp_path, outputs=outputs)
    assert method.outputs == outputs
    extract = method.open()
    given = extract(images())
    assert tuple(given) == outputs
    assert tuple(x.shape for x in given.values()) == tuple((3, size) for size in sizes)
    assert all(x.dtype == torch.float32 and not x.requires_grad for x in given.values())
    assert same_for_any_batch(extract, images())


def test_torchscript_outputs_are_known_on_the_class():
    assert TorchScript.outputs == ("features",)
    assert TorchScript(path="x", **json.loads('{"outputs": ["features", "logits"]}')).outputs == ("features", "logits")


def test_torchscript_resizes_and_takes_grey(tmp_path):
    extract = extractor(Named(), tmp_path, outputs=("spatial", "features"), size=2, channels=1).open()
    assert extract(images(channels=1))["spatial"].shape == (3, 4)
    with pytest.raises(ValueError, match=r"own\.pt is for grey images"):
        extract(images())
    grey = images(channels=1)
    rgb = extractor(Mean(), tmp_path, size=16).open()
    assert torch.equal(rgb(grey)["features"], rgb(grey.repeat(1, 3, 1, 1))["features"])


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (Two(), {"outputs": ("features", "logits", "spatial")}, "should be features, logits, spatial; .* 2 tensors"),
        (Named(), {"outputs": ("features", "logits")}, "should be features, logits; .* a dict of spatial, features"),
        (Batch(), {}, r"features should be \(N, d\), one row for each image; for 4 images it is \(3, 40, 30\)"),
        (One(), {"size": 1}, r"the network cannot take images \(4, 3, 1, 1\): .*size"),
    ],
    ids=["too few", "other names", "no rows", "too small"],
)
def test_torchscript_names_what_is_wrong(module, fields, message, tmp_path):
    with pytest.raises(ValueError, match=rf"own\.pt: .*{message}"):
        extractor(module, tmp_path, **fields).open()(images(n=4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"outputs": ("logits",)}, "have 'features' among them"),
        ({"outputs": ("features", "features")}, "different names"),
        ({"mean": (0.1, 0.2)}, "mean must have 1 or 3 values"),
        ({"std": (0.0,)}, "std must be above 0"),
        ({"range": (1.0,)}, "range"),
        ({"size": 0}, "size"),
    ],
)
def test_torchscript_fields_are_checked(fields, message):
    with pytest.raises(ValidationError, match=message):
        TorchScript(path="x", **fields)


def test_torchscript_files_of_another_kind_are_named(tmp_path):
    (tmp_path / "text.pt").write_text("not a network")
    with pytest.raises(ValueError, match=r"text\.pt: not a TorchScript file"):
        TorchScript(path=str(tmp_path / "text.pt")).open()
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        TorchScript(path=str(tmp_path / "gone.pt")).open()
