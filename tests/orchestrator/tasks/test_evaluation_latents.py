"""Streams of latents: decoded for scores and exports, by the autoencoder that the score section names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the latents extra is not installed")

from nag.autoencoders.kl import Autoencoder
from nag.datasets.dataset import to_uint8
from nag.datasets.image_folder import ImageFolder
from orchestrator.errors import BadInput, TaskError
from orchestrator.plan.make import plan
from orchestrator.report.exported_images import export_images
from orchestrator.spec.deep_check import check_inputs
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from orchestrator.tasks import extract, previews
from orchestrator.tasks.context import Context
from tests.nag.test_autoencoder import make
from tests.orchestrator.conftest import Ran, nagbench, run_here
from tests.orchestrator.made_images import picture_folder, pixels, written

SWEEP = """\
name: latents
networks:
  sit:
    data: {name: npz, path: latents.npz}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 2}
    train: {steps: 4, batch: 8, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 20, block: 10}
score:
  features: [pixels]
  metrics: [kid, fid]
  reference: {name: image_folder, path: data, resolution: 16}
  decode: {path: vae}
arms:
  plain: {}
"""
FROM_FILE = """\
name: from_file
networks:
  net: {checkpoint: net.safetensors}
sampler: {name: euler, steps: 2}
sample: {count: 20, block: 10}
score: {features: [pixels], metrics: [kid], reference: images.npz, decode: {path: vae}}
arms:
  plain: {}
"""


SECOND = """\
from nag.features.pixels import Pixels
from nag.registry import method


@method
class Second(Pixels):
    pass
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents to train on, pictures to score against, and an autoencoder whose latents span 4 pixels."""
    path = tmp_path_factory.mktemp("latents")
    rng = np.random.default_rng(0)
    np.savez(path / "latents.npz", arr_0=rng.normal(size=(40, 4, 4, 4)).astype(np.float32), arr_1=np.arange(40) % 3)
    picture_folder(path / "data", size=16)
    np.savez(path / "images.npz", arr_0=pixels(30, 16))
    make(path / "vae")
    return path


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    return run_here(written(folder, SWEEP), folder / "store")


def decoded(folder: Path, latents: np.ndarray) -> np.ndarray:
    """(N, 3, 16, 16) uint8, one by one."""
    vae = Autoencoder(path=str(folder / "vae")).open()
    parts = [to_uint8(vae.decode(torch.from_numpy(one[None].astype(np.float32)))).numpy() for one in latents]
    return np.concatenate(parts)


def blocks(ran: Ran, digest: str, name: str) -> np.ndarray:
    return np.concatenate([ran.store.read_arrays(f"blocks/{digest}/{n:06d}.safetensors")[0][name] for n in (0, 1)])


def test_features_are_of_the_decoded_images(ran: Ran, folder: Path) -> None:
    assert not ran.failed
    (cell,) = ran.plan.cells
    latents = blocks(ran, cell.stream, "samples")
    assert (latents.shape, latents.dtype) == ((20, 4, 4, 4), np.float16)
    images = decoded(folder, latents)
    features = blocks(ran, cell.extracts[0], "features")
    assert features.shape == (20, 3 * 16 * 16)
    gap = np.abs((features + 1) * 127.5 - images.reshape(20, -1))
    assert gap.max() <= 1.01  # a quantum: images are decoded in a batch
    assert (gap > 0.5).mean() < 0.01


def test_latents_have_pictures(ran: Ran, folder: Path) -> None:
    """Those of block 0, decoded in the pass that extracts the features."""
    (cell,) = ran.plan.cells
    pictures, labels = previews.read(ran.store, cell.stream, cell.extracts)
    assert (pictures.shape, labels.shape) == ((10, 3, 16, 16), (10,))
    gap = np.abs(pictures.astype(int) - decoded(folder, blocks(ran, cell.stream, "samples")[:10]))
    assert gap.max() <= 1
    assert previews.PREVIEW not in ran.store.read_arrays(block_name(cell.extracts[0], 1))[0]


def test_what_an_autoencoder_is_is_its_content(ran: Ran, folder: Path, tmp_path: Path) -> None:
    """Its folder may be anywhere; other settings make another task, but not another stream."""
    extracts = {}
    for name, change in (
        ("moved", ("path: vae", "path: elsewhere/vae")),
        ("tiled", ("path: vae}", "path: vae, tile: 8}")),
    ):
        text = (
            SWEEP.replace(*change)
            .replace("latents.npz", str(folder / "latents.npz"))
            .replace("path: data", f"path: {folder / 'data'}")
        )
        place = tmp_path / name
        (place / "elsewhere").mkdir(parents=True)
        (place / "vae").symlink_to(folder / "vae")
        (place / "elsewhere" / "vae").symlink_to(folder / "vae")
        (cell,) = plan(read_sweep(written(place, text))).cells
        assert cell.stream == ran.plan.cells[0].stream
        extracts[name] = cell.extracts
    assert extracts["moved"] == ran.plan.cells[0].extracts
    assert extracts["tiled"] != ran.plan.cells[0].extracts
    assert "decode" in ran.plan.tasks[ran.plan.cells[0].extracts[0]].params


def test_the_autoencoder_is_read_from_the_store(ran: Ran, folder: Path) -> None:
    """Nodes do not have the user's paths, so they decode with the copy among the store's assets."""
    task = ran.plan.tasks[ran.plan.cells[0].extracts[0]]
    content = task.params["decode"]["fields"]["path"]
    assert ran.store.list(f"assets/{content.rstrip('/')}") == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert ran.document()["cells"][0]["stamps"]["kid"]["decode"] == task.params["decode"]


def test_two_extractors_decode_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    decode = extract.decoded_by
    monkeypatch.setattr(extract, "decoded_by", lambda *given: (calls.append(1), decode(*given))[1])
    module = tmp_path / "own.py"
    module.write_text(SECOND)
    text = SWEEP.replace("[pixels]", f"[pixels, {{use: {module}:Second}}]")
    found = run_here(written(folder, text, name="two.yaml"), tmp_path / "store")
    assert not found.failed
    assert len(calls) == 2  # blocks


def test_a_checkpoint_without_data_is_scored(ran: Ran, folder: Path) -> None:
    network = ran.plan.tasks[ran.plan.cells[0].stream].params["network"]
    (folder / "net.safetensors").write_bytes(ran.store.read(f"files/{network}/network.safetensors"))
    path = written(folder, FROM_FILE, name="from_file.yaml")
    found = run_here(path, folder / "other")
    assert not found.failed
    (cell,) = found.document()["cells"]
    assert cell["stamps"]["kid"]["reference_size"] == 30
    np.testing.assert_array_equal(
        blocks(found, found.plan.cells[0].stream, "samples"), blocks(ran, ran.plan.cells[0].stream, "samples")
    )
    assert "score.decode: [4, 4, 4] of net to images [3, 16, 16]" in list(check_inputs(read_sweep(path)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  decode: {path: vae}\n",
            "",
            "9: score: network 'sit' makes latents, and 'pixels' reads images; add decode: {path: FOLDER of the VAE}",
        ),
        (
            "  reference: {name: image_folder, path: data, resolution: 16}\n",
            "",
            "9: score: the data of network 'sit' are latents; to compare images, add reference: the path or URL",
        ),
        (
            "{name: image_folder, path: data, resolution: 16}",
            "{name: npz, path: latents.npz}",
            "12: score.reference: these are latents; a reference must be images.",
        ),
        ("{path: vae}", "{}", "13: score.decode: 'path' is missing; it is the folder of an AutoencoderKL"),
        ("{path: vae}", "{path: data}", "13: score.decode.path: "),
        ("{path: vae}", "{path: vae, factor: 0}", "13: score.decode.factor: expected a number above 0, got 0."),
    ],
)
def test_what_check_refuses(folder: Path, old: str, new: str, message: str) -> None:
    path = written(folder, SWEEP, old, new, name="wrong.yaml")
    with pytest.raises(BadInput) as caught:
        read_sweep(path)
    assert f"{path}:{message}" in str(caught.value)


def test_decode_where_nothing_is_latent(folder: Path) -> None:
    text = SWEEP.replace("{name: npz, path: latents.npz}", "{name: image_folder, path: data, resolution: 16}")
    with pytest.raises(BadInput, match=r"13: score.decode: no network of this sweep makes latents; remove this key."):
        read_sweep(written(folder, text, name="pixels.yaml"))


def test_a_width_that_does_not_fit_is_found_by_deep(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "wide", latent_channels=8)
    text = SWEEP.replace("path: vae", f"path: {tmp_path / 'wide'}")
    with pytest.raises(BadInput, match=r"score.decode: the latents are \[1, 4, 4, 4\]; .*wide takes 8 channels"):
        list(check_inputs(read_sweep(written(folder, text, name="wide.yaml"))))


def test_latents_that_give_no_image_name_their_block(ran: Ran, tmp_path: Path) -> None:
    store, decode = Store(str(tmp_path)), ran.plan.tasks[ran.plan.cells[0].extracts[0]].params["decode"]
    latents = np.zeros((3, 4, 4, 4), np.float16)
    latents[1] = np.inf  # beyond float16, as under a guidance that is far too strong
    store.create_arrays("blocks/stream/000002.safetensors", {"samples": latents, "labels": np.zeros(3)}, {"number": 2})
    context = Context(store)
    context.loaded["asset"] = {decode["fields"]["path"]: str(Path(ran.plan.sweep.path).parent / "vae")}
    with pytest.raises(TaskError, match=r"blocks/stream/000002.safetensors cannot be decoded: .* not finite"):
        extract.images(context, "stream", 2, decode)


# Export of a cell's images


def test_export_gives_adm_what_it_reads(ran: Ran, folder: Path, tmp_path: Path) -> None:
    (cell,) = ran.plan.cells
    made = export_images(ran.plan, ran.store, tmp_path / "out.npz", cell)
    with np.load(made.path) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        images, labels = arrays["arr_0"], arrays["arr_1"]
    assert (images.shape, images.dtype) == ((20, 16, 16, 3), np.uint8)
    features = blocks(ran, cell.extracts[0], "features").reshape(20, 3, 16, 16)
    np.testing.assert_array_equal(images, np.round((features + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(labels, blocks(ran, cell.stream, "labels"))
    sweep, store = ran.plan.sweep.path, ran.store.root
    few = nagbench("export", sweep, tmp_path / "few.npz", "--cell", cell.digest[:12], "--count", "13", "--store", store)
    assert few.returncode == 0, few.stderr
    assert few.stdout == f"{tmp_path / 'few.npz'}: 10.6 kB\n"
    with np.load(tmp_path / "few.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], images[:13])


def test_a_folder_of_images_is_read_again_with_its_labels(ran: Ran, tmp_path: Path) -> None:
    (cell,) = ran.plan.cells
    sweep, store, folder = ran.plan.sweep.path, ran.store.root, tmp_path / "images"
    folder.mkdir()
    done = nagbench("export", sweep, folder, "--cell", cell.digest[:12], "--count", "13", "--store", store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{folder}: 14 files, ")
    assert list(tmp_path.iterdir()) == [folder]
    made = export_images(ran.plan, ran.store, tmp_path / "all.npz", cell)
    split = ImageFolder(str(folder), 16).open("train")
    order = np.argsort([name for name, _ in split.files])
    with np.load(made.path) as arrays:
        np.testing.assert_array_equal(split.labels(order), arrays["arr_1"][:13])
        for number, image in enumerate(arrays["arr_0"][:13]):
            with Image.open(folder / f"{number:06d}.png") as stored:
                np.testing.assert_array_equal(np.asarray(stored), image)


def test_export_that_cannot_be(ran: Ran, folder: Path, tmp_path: Path) -> None:
    (cell,) = ran.plan.cells
    with pytest.raises(
        BadInput, match=r"has 2 blocks of 10 samples in the store, 3 are needed. Run the sweep, or give"
    ):
        export_images(ran.plan, ran.store, tmp_path / "out.npz", cell, count=21)
    (tmp_path / "out.npz").write_text("mine")
    with pytest.raises(BadInput, match="already exists"):
        export_images(ran.plan, ran.store, tmp_path / "out.npz", cell)
    with pytest.raises(BadInput, match=r"already exists. Give the name of a new folder, or of an .npz file."):
        export_images(ran.plan, ran.store, tmp_path, cell)
    unscored = SWEEP.partition("score:")[0] + "arms:\n  plain: {}\n"
    planned = plan(read_sweep(written(folder, unscored, name="unscored.yaml")))
    with pytest.raises(BadInput, match=r"has latents; say what decodes them: score: \{decode: \{path: ...\}\}"):
        export_images(planned, ran.store, tmp_path / "x.npz", planned.cells[0])
