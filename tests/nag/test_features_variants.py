"""CLIP, SigLIP 2, MAE and ConvNeXt V2 on small random weights in the form in which theirs are published."""

import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate, layer_norm, linear

from nag.features.clip import CLIP
from nag.features.convnext_v2 import ConvNeXtV2
from nag.features.mae import MAE
from nag.features.siglip2 import SigLIP2
from nag.pretrained import KNOWN
from nag.registry import find
from tests.nag.test_features_networks import images, same_for_any_batch, seeded, stirred

timm = pytest.importorskip("timm")
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
METHODS = (CLIP, SigLIP2, MAE, ConvNeXtV2)
TAGS = {CLIP: "openai", SigLIP2: "v2_webli", MAE: "mae", ConvNeXtV2: "fcmae_ft_in22k_in1k"}
FILE = "resolve/main/model.safetensors"
VARIANTS = [(cls, model) for cls in METHODS for model in cls.VARIANTS]


def as_pillow(batch, size, mean, std):
    """Pillow's resize, ToTensor and Normalize on each image alone."""
    from PIL import Image
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    resized = [
        F.resize(Image.fromarray(i.permute(1, 2, 0).numpy()), [size, size], InterpolationMode.BICUBIC) for i in batch
    ]
    return torch.stack([F.normalize(F.to_tensor(one), mean, std) for one in resized])


@pytest.mark.parametrize(("cls", "model"), VARIANTS, ids=[f"{c.__name__} {m}" for c, m in VARIANTS])
def test_each_variant_is_timms_network_of_that_size_and_normalisation(cls, model):
    """Architecture, image size, filter, mean, standard deviation and place of the weights as timm has them, and the
    columns of the output.
    """
    variant = cls.VARIANTS[model]
    with torch.device("meta"):
        network = timm.create_model(variant.architecture, num_classes=variant.columns if cls.projects else 0).eval()
        given = network(torch.empty(1, 3, variant.size, variant.size))
    published = timm.models.get_pretrained_cfg(f"{variant.architecture}.{TAGS[cls]}")
    assert published.input_size == (3, variant.size, variant.size)
    assert (published.mean, published.std) == cls.NORMAL
    assert published.interpolation == "bicubic"
    assert KNOWN[variant.file].url in (published.url, f"https://huggingface.co/{published.hf_hub_id}/{FILE}")
    assert given.shape == (1, variant.columns)
    extractor = cls(model=model)
    assert extractor.dims((3, 8, 8)) == {"features": variant.columns}
    assert extractor.FILES["weights"] == variant.file
    assert f"{variant.size}x{variant.size}" in extractor.prepares


# CLIP


def openais(state):
    """A small state dict of timm's CLIP in OpenAI's and open_clip's names, with a text encoder beside it."""
    names = {
        "patch_embed.proj": "conv1",
        "norm_pre": "ln_pre",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
    }
    names |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "norm1": "ln_1", "norm2": "ln_2"}
    published = {"logit_scale": torch.zeros(()), "transformer.resblocks.0.ln_1.weight": torch.zeros(8)}
    for name, weight in state.items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"^blocks", "transformer.resblocks", re.sub(r"^norm\.", "ln_post.", name))
        published[f"visual.{name}"] = weight
    published["visual.class_embedding"] = published.pop("visual.cls_token")[0, 0]
    published["visual.positional_embedding"] = published.pop("visual.pos_embed")[0]
    published["visual.proj"] = published.pop("visual.head.weight").T.contiguous()
    published.pop("visual.head.bias")
    return published


def clips_own_forward(w, x, heads):
    """encode_image of OpenAI's code, written out from its state dict."""
    w = {name.removeprefix("visual."): weight for name, weight in w.items() if name.startswith("visual.")}
    width = len(w["class_embedding"])
    patches = nn.functional.conv2d(x, w["conv1.weight"], stride=w["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), patches], dim=1) + w["positional_embedding"]

    def norm(x, name):
        return layer_norm(x, (width,), w[f"{name}.weight"], w[f"{name}.bias"])

    x, block = norm(x, "ln_pre"), 0
    while f"transformer.resblocks.{block}.ln_1.weight" in w:
        at = f"transformer.resblocks.{block}"
        qkv = linear(norm(x, f"{at}.ln_1"), w[f"{at}.attn.in_proj_weight"], w[f"{at}.attn.in_proj_bias"])
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in qkv.chunk(3, -1))
        mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        mixed = mixed.transpose(1, 2).flatten(2)
        x = x + linear(mixed, w[f"{at}.attn.out_proj.weight"], w[f"{at}.attn.out_proj.bias"])
        hidden = linear(norm(x, f"{at}.ln_2"), w[f"{at}.mlp.c_fc.weight"], w[f"{at}.mlp.c_fc.bias"])
        hidden = hidden * (1.702 * hidden).sigmoid()
        x = x + linear(hidden, w[f"{at}.mlp.c_proj.weight"], w[f"{at}.mlp.c_proj.bias"])
        block += 1
    return norm(x[:, 0], "ln_post") @ w["proj"]


@pytest.fixture(scope="module")
def small_clip():
    architecture = CLIP.VARIANTS["ViT-B/32"].architecture
    return stirred(seeded(timm.create_model, architecture, num_classes=16, **SMALL)).state_dict()


def test_clip_is_openais_encode_image_after_its_preprocessing(small_clip, tmp_path):
    published = openais(small_clip)
    save_file(published, tmp_path / "open_clip.safetensors")
    small_clip = {**small_clip, "head.bias": torch.zeros(16)}
    save_file(small_clip, tmp_path / "timm.safetensors")
    batch = images(height=40, width=40)
    extract = CLIP(model="ViT-B/32", weights=str(tmp_path / "open_clip.safetensors")).open(embedding=16, **SMALL)
    features = extract(batch)["features"]
    expected = clips_own_forward(published, as_pillow(batch, 224, *CLIP.NORMAL), heads=2)
    assert features.shape == (3, 16)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert same_for_any_batch(extract, batch)
    of_timm = CLIP(model="ViT-B/32", weights=str(tmp_path / "timm.safetensors")).open(embedding=16, **SMALL)
    assert torch.equal(of_timm(batch)["features"], features)


def test_cmmds_mode_resizes_as_its_code_does(small_clip, tmp_path):
    """torch's bicubic of the image in 0 .. 1, without antialiasing; what lies outside 0 .. 1 is not clipped."""
    published = openais(small_clip)
    save_file(published, tmp_path / "open_clip.safetensors")
    extractor = CLIP(model="ViT-B/32", mode="cmmd", weights=str(tmp_path / "open_clip.safetensors"))
    batch = images(height=300, width=300)
    resized = interpolate(batch.float() / 255, size=(224, 224), mode="bicubic")
    assert not 0 <= float(resized.min()) <= float(resized.max()) <= 1
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in CLIP.NORMAL)
    expected = clips_own_forward(published, (resized - mean) / std, heads=2)
    features = extractor.open(embedding=16, **SMALL)(batch)["features"]
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)
    assert "PyTorch's bicubic" in extractor.prepares
    assert "Pillow's bicubic" in CLIP().prepares


# The others


def test_mae_is_the_class_token_of_the_official_file(tmp_path):
    network = stirred(seeded(timm.create_model, "vit_base_patch16_224", num_classes=0, **SMALL))
    torch.save({"model": network.state_dict()}, tmp_path / "official.pth")
    batch = images(height=64, width=64)
    features = MAE(model="B/16", weights=str(tmp_path / "official.pth")).open(**SMALL)(batch)["features"]
    with torch.no_grad():
        expected = network.forward_features(as_pillow(batch, 224, *MAE.NORMAL))[:, 0]
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "visual.trunk."], ids=["timm's file", "open_clip's file"])
def test_siglip2_is_its_attention_pooled_embedding(prefix, tmp_path):
    network = stirred(seeded(timm.create_model, "vit_base_patch16_siglip_256", num_classes=0, **SMALL))
    save_file({prefix + name: w.clone() for name, w in network.state_dict().items()}, tmp_path / "w.safetensors")
    batch = images(height=64, width=64)
    features = SigLIP2(model="B/16@256", weights=str(tmp_path / "w.safetensors")).open(**SMALL)(batch)["features"]
    with torch.no_grad():
        tokens = network.forward_features(as_pillow(batch, 256, *SigLIP2.NORMAL))
        expected = network.attn_pool(tokens)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)


def test_convnext_v2_takes_the_official_names(tmp_path):
    """Official: `downsample_layers`, `dwconv`, `pwconv` as linear layers and `grn.gamma` of four dimensions."""
    small = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}
    network = stirred(seeded(timm.create_model, "convnextv2_base", num_classes=5, **small))
    official = {}
    for name, weight in network.state_dict().items():
        name = re.sub(r"^stem\.", "downsample_layers.0.", name)
        name = re.sub(r"^stages\.(\d)\.blocks", r"stages.\1", name)
        name = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", name)
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        name = name.replace("mlp.grn.bias", "grn.beta").replace("mlp.grn.weight", "grn.gamma")
        name = name.replace("head.norm", "norm").replace("head.fc", "head")
        official[name] = weight.reshape(1, 1, 1, -1) if "grn" in name else weight
    torch.save({"model": official}, tmp_path / "official.pt")
    save_file(network.state_dict(), tmp_path / "timm.safetensors")
    batch = images(height=64, width=64)
    features = ConvNeXtV2(model="B", weights=str(tmp_path / "official.pt")).open(**small)(batch)["features"]
    of_timm = ConvNeXtV2(model="B", weights=str(tmp_path / "timm.safetensors")).open(**small)(batch)["features"]
    assert torch.equal(of_timm, features)
    with torch.no_grad():
        maps = network.forward_features(as_pillow(batch, 224, *ConvNeXtV2.NORMAL))
        norm = network.head.norm
        expected = layer_norm(maps.mean((2, 3)), (16,), norm.weight, norm.bias, eps=norm.eps)
    assert torch.allclose(features, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip2", "mae", "convnext_v2"])
def test_without_weights_and_with_others(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cls = find("features", name)
    with pytest.raises(FileNotFoundError, match=f"run 'nagbench fetch {re.escape(cls.FILES['weights'])}'"):
        cls().open()
    with pytest.raises(ValidationError, match="model"):
        cls(model="ViT-G/99")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    small = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)} if name == "convnext_v2" else SMALL
    with pytest.raises(ValueError, match=r"other\.safetensors: these are not weights of timm's"):
        cls(weights=str(tmp_path / "other.safetensors")).open(**small)
    assert cls().smoke().of == name
    assert np.isfinite(list(cls().dims((3, 8, 8)).values())).all()
