"""The VAE, on a tiny one that the tests make and store as diffusers does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="the latents extra is not installed")

from safetensors.torch import load_file, save_file

from nag.autoencoders.kl import CONFIG, WEIGHTS, Autoencoder, files


def make(folder: Path, **fields) -> str:
    """An AutoencoderKL with 3 resolutions (a latent spans 4 pixels) and weights that are not all alike."""
    from diffusers import AutoencoderKL

    settings = {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(**(settings | fields)).save_pretrained(folder)
    return str(folder)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("vae"))


@pytest.fixture
def copy(path, tmp_path):
    """One that a test may spoil."""
    return Path(shutil.copytree(path, tmp_path / "copy"))


def reference(path: str):
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(path, low_cpu_mem_usage=False)


def test_decode_and_encode_are_those_of_diffusers_with_the_factor(path):
    vae, opened = reference(path), Autoencoder(path=path).open()
    z, x = normal(3, 4, 4, 4), normal(3, 3, 16, 16, seed=1).clamp(-1, 1)
    with torch.no_grad():
        wanted, posterior = vae.decode(z / 0.18215).sample, vae.encode(x).latent_dist
    found = opened.decode(z)
    assert (found.shape, found.dtype) == ((3, 3, 16, 16), torch.float32)
    assert torch.allclose(found, wanted.clamp(-1, 1), atol=1e-6)
    mean, std = opened.encode(x)
    assert torch.allclose(mean, posterior.mean * 0.18215, atol=1e-6)
    assert torch.allclose(std, posterior.std * 0.18215, atol=1e-6)
    assert not found.requires_grad
    assert not mean.requires_grad


def test_images_stay_within_their_range(path):
    found = Autoencoder(path=path).open().decode(100 * normal(2, 4, 4, 4))
    assert (found.min(), found.max()) == (-1, 1)


def test_a_shift_and_a_factor_of_the_file_s_own(tmp_path):
    path = make(tmp_path / "vae", shift_factor=0.25, scaling_factor=0.5)
    vae, opened = reference(path), Autoencoder(path=path, factor=0.5).open()
    z, x = normal(2, 4, 4, 4), normal(2, 3, 16, 16, seed=1)
    with torch.no_grad():
        assert torch.allclose(opened.decode(z), vae.decode(z / 0.5 + 0.25).sample.clamp(-1, 1), atol=1e-6)
        assert torch.allclose(opened.encode(x)[0], (vae.encode(x).latent_dist.mean - 0.25) * 0.5, atol=1e-6)
    with pytest.raises(ValueError, match=r"vae is scaled by 0\.5, not 0\.18215: write factor: 0\.5"):
        Autoencoder(path=path).open()


def test_an_image_does_not_depend_on_its_batch(path):
    opened = Autoencoder(path=path).open()
    z, x = normal(7, 4, 8, 8), normal(7, 3, 32, 32)
    together, means = opened.decode(z), opened.encode(x)[0]
    for i in range(7):
        assert (opened.decode(z[i : i + 1])[0] - together[i]).abs().max() < 1e-4
        assert (opened.encode(x[i : i + 1])[0][0] - means[i]).abs().max() < 1e-4


def test_bfloat16_is_near_and_comes_back_in_float32(path):
    z, x = normal(2, 4, 4, 4), normal(2, 3, 16, 16)
    exact, rough = Autoencoder(path=path).open(), Autoencoder(path=path, dtype="bfloat16").open()
    for a, b in ((exact.decode(z), rough.decode(z)), (exact.encode(x)[0], rough.encode(x)[0])):
        assert b.dtype == torch.float32
        assert 0 < (a - b).abs().mean() < 0.03 * a.abs().mean() + 0.02


def test_tiles_are_for_large_images_alone_and_never_for_encoding(path):
    whole, tiled = Autoencoder(path=path).open(), Autoencoder(path=path, tile=32).open()
    small, large = normal(2, 4, 8, 8), normal(2, 4, 16, 16)
    assert torch.equal(whole.decode(small), tiled.decode(small))
    assert tiled.decode(large).shape == (2, 3, 64, 64)
    assert not torch.equal(whole.decode(large), tiled.decode(large))
    x = normal(1, 3, 64, 64)
    assert torch.equal(whole.encode(x)[0], tiled.encode(x)[0])
    with pytest.raises(ValueError, match="tile: 30 is not a multiple of 4"):
        Autoencoder(path=path, tile=30).open()


def test_older_names_of_weights_are_understood(copy, path):
    """sd-vae-ft-ema's file calls its attention query, key, value and proj_attn."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(copy / WEIGHTS)
    for new, name in old.items():
        weights = {key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): w for key, w in weights.items()}
    save_file(weights, copy / WEIGHTS, {"format": "pt"})
    z = normal(1, 4, 4, 4)
    assert torch.equal(Autoencoder(path=str(copy)).open().decode(z), Autoencoder(path=path).open().decode(z))


def test_shapes_are_known_without_weights(copy):
    (copy / WEIGHTS).write_bytes(b"")
    vae = Autoencoder(path=str(copy))
    assert vae.latent_shape((3, 256, 128)) == (4, 64, 32)
    with pytest.raises(ValueError, match=r"images have 1 channels, .*copy takes 3"):
        vae.latent_shape((1, 16, 16))
    with pytest.raises(ValueError, match="18 x 16 are not a multiple of 4"):
        vae.latent_shape((3, 18, 16))


def test_another_width_is_named(tmp_path, path):
    wide = make(tmp_path / "wide", latent_channels=16)
    with pytest.raises(ValueError, match=r"the latents are \[2, 4, 4, 4\]; .*wide takes 16 channels"):
        Autoencoder(path=wide).open().decode(normal(2, 4, 4, 4))
    with pytest.raises(ValueError, match="images have 4 channels"):
        Autoencoder(path=path).open().encode(normal(2, 4, 16, 16))


def spoil(copy: Path, how: str) -> None:
    weights = load_file(copy / WEIGHTS)
    first = next(iter(weights))
    match how:
        case "cut":
            (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:-1000])
        case "one less":
            del weights[first]
            save_file(weights, copy / WEIGHTS, {"format": "pt"})
        case "one more":
            save_file({**weights, "extra": torch.zeros(1)}, copy / WEIGHTS, {"format": "pt"})
        case "another shape":
            save_file({**weights, first: torch.zeros(3, 3)}, copy / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("how", ["cut", "one less", "one more", "another shape"])
def test_weights_that_do_not_fit_are_named(copy, how, capfd):
    spoil(copy, how)
    with pytest.raises(ValueError, match=f"copy: {WEIGHTS} does not fit {CONFIG}"):
        Autoencoder(path=str(copy)).open()


def test_a_folder_without_the_files_is_named(copy, tmp_path):
    (copy / WEIGHTS).rename(copy / "diffusion_pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=rf"copy has no {WEIGHTS}\. Pickled weights \(\.bin\) are never loaded"):
        Autoencoder(path=str(copy)).open()
    with pytest.raises(FileNotFoundError, match=f"has no {CONFIG} or {WEIGHTS}"):
        files(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"_class_name": "VQModel", "block_out_channels": [8]})])
def test_another_description_is_named(copy, text):
    (copy / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=f"copy/{CONFIG} (describes a VQModel|does not describe an autoencoder)"):
        Autoencoder(path=str(copy)).open()


def test_a_name_is_found_in_the_local_hugging_face_cache_and_never_fetched(path, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--someone--vae"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("abc123")
    shutil.copytree(path, repository / "snapshots/abc123")
    shutil.copytree(path, repository / "snapshots/abc123/inner")
    z = normal(1, 4, 4, 4)
    for name in ("someone/vae", "someone/vae/inner"):
        assert set(files(name)) == {CONFIG, WEIGHTS}
        assert torch.equal(Autoencoder(path=name).open().decode(z), Autoencoder(path=path).open().decode(z))
    with pytest.raises(
        FileNotFoundError, match=r"no folder 'someone/other/vae'.*To put it there: hf download someone/other$"
    ):
        files("someone/other/vae")
    for name in ("nothing", "../nowhere", "bad name/x y", ""):
        with pytest.raises(FileNotFoundError, match="no folder"):
            files(name)
