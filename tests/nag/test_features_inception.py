"""Inception against clean-fid itself. The real weights reach no test: a file of the same interface stands for them."""

import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nag.features.inception import Inception
from nag.metrics.frechet import frechet_distance
from nag.metrics.moments import Moments
from nag.pretrained import INCEPTION, PYTORCH_FID
from tests.nag import inception_file
from tests.nag.inception_file import InceptionLike, network, save

DIMENSIONS = 24  # of the features that are compared as a distance: clean-fid's takes 17 s for 2,048


def pictures(n, size, seed, channels=3):
    """Smooth, each of its own brightness, with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 5, 5, channels), dtype=np.uint8)
    large = [np.array(Image.fromarray(x.squeeze()).resize((size, size), Image.Resampling.BICUBIC)) for x in coarse]
    noisy = np.stack(large).reshape(n, size, size, channels) + rng.normal(0, 12, (n, size, size, channels))
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def written(images, folder):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy().squeeze()).save(folder / f"{i:06d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory):
    return save(network(), tmp_path_factory.mktemp("torchscript") / INCEPTION)


@pytest.fixture(scope="module")
def state_dict(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "hub" / "checkpoints" / PYTORCH_FID
    path.parent.mkdir(parents=True)
    torch.save(inception_file.state_dict(), path)
    return path


@pytest.fixture
def clean_fid(monkeypatch, torchscript, state_dict):
    """clean-fid, all its own code, with the places where it keeps its downloads redirected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid = pytest.importorskip("cleanfid.fid")
        import cleanfid.features
        import scipy.linalg

    original = cleanfid.features.InceptionV3W
    monkeypatch.setattr(
        cleanfid.features, "InceptionV3W", lambda path, **options: original(str(torchscript.parent), **options)
    )
    monkeypatch.setenv("TORCH_HOME", str(state_dict.parents[2]))
    # SciPy 1.18 has no `disp`: then the root alone comes back.
    without_disp = SimpleNamespace(sqrtm=lambda a, disp=True: (scipy.linalg.sqrtm(a), 0.0))
    monkeypatch.setattr(fid, "linalg", without_disp)
    return fid


def their_model(fid, mode):
    with warnings.catch_warnings():  # of torch.jit.load, and its resizer switches off all warnings
        warnings.simplefilter("ignore")
        return fid.build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)


def fid_of(features):
    moments = []
    for x in features:
        moments.append(Moments(x.shape[1]))
        moments[-1].add(x)
    return frechet_distance(moments[0].mean, moments[0].cov, moments[1].mean, moments[1].cov)


@pytest.mark.outside
@pytest.mark.parametrize(("mode", "n"), [("clean", 48), ("legacy_tensorflow", 48), ("legacy_pytorch", 6)])
def test_clean_fid_on_folders_of_the_same_images_agrees(mode, n, clean_fid, torchscript, state_dict, tmp_path):
    """Every feature, and the distance of two folders (one of 32x32, one of 64x64) within 1e-3."""
    samples, reference = pictures(n, 32, seed=0), pictures(n, 64, seed=1)
    folders = [written(images, tmp_path / name) for name, images in (("samples", samples), ("reference", reference))]
    model = their_model(clean_fid, mode)
    extract = Inception(weights=str(state_dict if mode == "legacy_pytorch" else torchscript), mode=mode).open()
    ours = [torch.cat([extract(part)["features"] for part in images.split(20)]) for images in (samples, reference)]
    columns, seen = ours[0].std(dim=0).argsort(descending=True)[:DIMENSIONS], {}

    def some_features(batch):
        return seen.setdefault(len(seen), model(batch))[:, columns]

    options = {"num_workers": 0, "batch_size": 16, "device": torch.device("cpu"), "mode": mode, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = clean_fid.compare_folders(*folders, some_features, **options)

    scale = ours[0].std(dim=0).mean()
    assert (torch.cat(list(seen.values())) - torch.cat(ours)).abs().max() <= 1e-2 * scale
    assert scale > 1e-3
    assert theirs > 1e-3
    assert fid_of([x[:, columns] for x in ours]) == pytest.approx(theirs, rel=1e-3)


def test_modes_are_different_measures(torchscript):
    images = pictures(4, 32, seed=0)
    clean, tensorflow = (
        Inception(weights=str(torchscript), mode=mode).open()(images)["features"]
        for mode in ("clean", "legacy_tensorflow")
    )
    assert (clean - tensorflow).norm() > 1e-3 * clean.norm()


def test_outputs_are_what_the_file_computes(torchscript):
    """legacy_tensorflow: the file whole, asked for features and for probabilities without bias."""
    images, module = pictures(3, 64, seed=2), network()
    outputs = Inception(weights=str(torchscript), mode="legacy_tensorflow").open()(images)
    assert tuple(outputs) == Inception.outputs
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "features": (3, 2048),
        "logits": (3, 1008),
        "spatial": (3, 2023),
    }
    assert all(x.dtype == torch.float32 and not x.requires_grad for x in outputs.values())
    with torch.no_grad():
        features, probabilities = module(images, return_features=True), module(images, no_output_bias=True)
    assert torch.allclose(outputs["features"], features, rtol=1e-4, atol=1e-5)
    assert torch.allclose(outputs["logits"].softmax(dim=1), probabilities, rtol=1e-4, atol=1e-7)


def test_spatial_features_are_seven_channels_of_mixed_6_channel_last(torchscript):
    """As ADM's evaluator lays them out: TensorFlow's arrays are (N, 17, 17, 7) before they are flattened."""
    seen = []
    module = network()
    module.layers.mixed_6.conv.register_forward_hook(lambda _, __, out: seen.append(out))
    images = pictures(2, 64, seed=3)
    with torch.no_grad():
        module(images)
    spatial = Inception(weights=str(torchscript), mode="legacy_tensorflow").open()(images)["spatial"]
    expected = seen[0].permute(0, 2, 3, 1)[..., :7].reshape(2, -1)
    assert torch.allclose(spatial, expected, rtol=1e-4, atol=1e-4)
    assert torch.allclose(spatial[:, 1::7].reshape(2, 17, 17), seen[0][:, 1], rtol=1e-4, atol=1e-4)


def test_legacy_pytorch_has_the_same_outputs(state_dict, clean_fid):
    """Spatial: the first branch of Mixed_6d of clean-fid's own network."""
    outputs = Inception(weights=str(state_dict), mode="legacy_pytorch").open()(pictures(1, 32, seed=4))
    assert [tuple(outputs[name].shape) for name in Inception.outputs] == [(1, 2048), (1, 1008), (1, 2023)]

    from cleanfid.inception_pytorch import InceptionV3

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = InceptionV3(output_blocks=[3], resize_input=False).eval()
    seen = []
    mixed_6d = theirs.blocks[2][6]
    mixed_6d.branch1x1.register_forward_hook(lambda _, __, out: seen.append(out))
    resized = torch.nn.functional.interpolate(
        pictures(1, 32, seed=4).float(), (299, 299), mode="bilinear", align_corners=False
    )
    with torch.no_grad():
        theirs(resized / 255)
    expected = seen[0].permute(0, 2, 3, 1)[..., :7].reshape(1, -1)
    assert (outputs["spatial"] - expected).norm() <= 1e-3 * expected.norm()
    weight = torch.load(state_dict, weights_only=True)["fc.weight"]
    assert torch.allclose(outputs["logits"], outputs["features"] @ weight.T, rtol=1e-5, atol=1e-5)


def test_an_image_does_not_depend_on_its_batch(torchscript):
    """Nor on how often the network was called before: TorchScript rewrites itself after a few calls."""
    images, extract = pictures(9, 32, seed=5), Inception(weights=str(torchscript)).open()
    together = extract(images)
    for part in (1, 4):
        again = [extract(x) for x in images.split(part)]
        for name, value in together.items():
            assert (torch.cat([x[name] for x in again]) - value).abs().max() <= 1e-5, name
    for name, value in extract(images).items():
        assert torch.equal(value, together[name])


def test_grey_images_are_three_equal_channels(torchscript):
    extract, grey = Inception(weights=str(torchscript)).open(), pictures(2, 32, seed=6, channels=1)
    assert torch.equal(extract(grey)["features"], extract(grey.repeat(1, 3, 1, 1))["features"])


def test_weights_are_found_in_the_cache_by_mode(monkeypatch, tmp_path, torchscript):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"{INCEPTION} is not in .*: run 'nagbench fetch {INCEPTION}'"):
        Inception().open()
    with pytest.raises(FileNotFoundError, match=f"nagbench fetch {PYTORCH_FID}"):
        Inception(mode="legacy_pytorch").open()
    with pytest.raises(FileNotFoundError, match=r"gone\.pt: there is no such file"):
        Inception(weights=str(tmp_path / "gone.pt")).open()
    folder = tmp_path / "nagbench" / "weights"
    folder.mkdir(parents=True)
    shutil.copy(torchscript, folder / INCEPTION)
    assert Inception().open()(pictures(1, 32, seed=0))["features"].shape == (1, 2048)


def test_files_by_mode():
    assert Inception.FILES == {"weights": INCEPTION}
    assert Inception(mode="legacy_tensorflow").FILES == {"weights": INCEPTION}
    assert Inception(mode="legacy_pytorch").FILES == {"weights": PYTORCH_FID}


class Halved(InceptionLike):
    """Its layers are not all there is to it."""

    def forward(
        self,
        img: torch.Tensor,
        return_features: bool = False,
        use_fp16: bool = False,
        no_output_bias: bool = False,
    ) -> torch.Tensor:
        x = torch.nn.functional.interpolate(img, [299, 299]) / 128 - 1
        return 0.5 * self.layers(x).reshape(-1, 2048)


def test_a_file_whose_layers_are_not_the_whole_is_refused(tmp_path):
    path = save(Halved().eval(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: not the TorchScript file.*one by one, give features .* off"):
        Inception(weights=str(path)).open()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.nn.Linear(2, 2), "layers"),
        (torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)), "layers"),
    ],
    ids=["linear", "convolution"],
)
def test_another_torchscript_file_is_refused(module, message, tmp_path):
    path = save(module, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=rf"other\.pt: not the TorchScript file of Inception, 2015-12-05: .*{message}"):
        Inception(weights=str(path)).open()


def test_other_files_are_refused_and_named(tmp_path, torchscript, state_dict):
    text, cut, other = tmp_path / "text.pt", tmp_path / "cut.pt", tmp_path / "other.pth"
    text.write_text("not weights")
    cut.write_bytes(torchscript.read_bytes()[:100_000])
    torch.save({"fc.weight": torch.zeros(1008, 2048)}, other)
    for path in (text, cut):
        with pytest.raises(ValueError, match=rf"{path.name}: not a TorchScript file"):
            Inception(weights=str(path)).open()
    for path, words in ((text, "neither a file"), (cut, "the file is cut off")):
        with pytest.raises(ValueError, match=rf"{path.name}: {words}"):
            Inception(weights=str(path), mode="legacy_pytorch").open()
    with pytest.raises(
        ValueError, match=r"other\.pth: these are not weights of pytorch-fid's Inception: 'Conv2d_1a_3x3"
    ):
        Inception(weights=str(other), mode="legacy_pytorch").open()
    weights = torch.load(state_dict, weights_only=True)
    weights["Mixed_7c.branch1x1.conv.weight"] = weights["Mixed_7c.branch1x1.conv.weight"][:, :5]
    torch.save(weights, other)
    with pytest.raises(ValueError, match=r"other\.pth: these are not weights of pytorch-fid's Inception: .*channels"):
        Inception(weights=str(other), mode="legacy_pytorch").open()


def test_either_file_holds_the_network_of_any_mode(tmp_path, torchscript, state_dict):
    """At 299 pixels no mode resizes; legacy_pytorch alone scales by 127.5."""
    images = pictures(1, 299, seed=5)
    whole = network()
    with torch.no_grad():
        expected = whole.layers((images.float() - 127.5) / 127.5).flatten(1)
    found = Inception(weights=str(torchscript), mode="legacy_pytorch").open()(images)
    assert torch.allclose(found["features"], expected, rtol=1e-4, atol=1e-5)
    old = tmp_path / "old.pth"
    torch.save(torch.load(state_dict, weights_only=True), old, _use_new_zipfile_serialization=False)
    x = pictures(1, 64, seed=6)
    by_file = [Inception(weights=str(path), mode="clean").open()(x)["features"] for path in (state_dict, old)]
    assert torch.equal(*by_file)


def test_other_images_are_refused(torchscript):
    extract = Inception(weights=str(torchscript)).open()
    for wrong in (torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="images must be uint8"):
            extract(wrong)
