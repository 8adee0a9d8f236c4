"""Images are encoded once, as blocks with both flips; the same pass makes the reference; trainings read the blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nag.autoencoders.kl import Autoencoder
from nag.datasets.image_folder import ImageFolder, ImageSplit
from nag.datasets.latents import LatentSplit, encode_shard
from nag.training import Training, train
from orchestrator.errors import BadInput, SpecError
from orchestrator.execution.bundles import bundles
from orchestrator.plan import build as builder
from orchestrator.plan.make import plan
from orchestrator.plan.progress import Done, missing
from orchestrator.spec.reader import read_sweep
from orchestrator.store.layout import block_name
from orchestrator.store.store import Store
from tests.orchestrator.conftest import Ran, begun, nagbench, run_here
from tests.orchestrator.execution.test_kills import until, workers_of
from tests.orchestrator.pictures import autoencoder, pictures

SWEEP = """\
name: latents
networks:
  sit:
    data: {name: image_folder, path: images, resolution: 16, flip: true}
    autoencoder: {path: vae}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 2}
    train: {steps: 5, batch: 8, lr: 1e-2, noise_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 12, block: 6}
score: {features: [{name: made_up, of: test}], metrics: [fid]}
arms:
  plain: {}
  nag: {nag: {scale: 1.0}}
"""
SHARD = 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 27 training images in three classes, and the weights of an autoencoder."""
    folder = tmp_path_factory.mktemp("source")
    pictures(folder / "images", ["a", "b", "c"], 9)
    autoencoder(folder / "vae")
    return folder


@pytest.fixture
def sweep(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`sweep(old, new, ...)`: the sweep as a file, with replacements; its shards are of ten images."""
    monkeypatch.setattr(builder, "SHARD", SHARD)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(*changes: str) -> Path:
        text = SWEEP.replace("path: images", f"path: {source}/images").replace("path: vae", f"path: {source}/vae")
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            assert old in text, old
            text = text.replace(old, new)
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return path

    return made


def of_kind(ran: Ran, kind: str) -> list[str]:
    return [digest for digest, task in ran.plan.tasks.items() if task.kind == kind]


def test_a_training_reads_the_shards(sweep: Callable[..., Path], source: Path, tmp_path: Path) -> None:
    """It gives the weights of a training by hand on the same latents; samples are latents, scored as images."""
    ran = run_here(sweep(), tmp_path / "store")
    assert not ran.failed
    [encode] = of_kind(ran, "encode")
    data = ImageFolder(path=str(source / "images"), resolution=16, flip=True)
    vae = Autoencoder(path=str(source / "vae")).open()
    wanted = encode_shard(data.open("train"), np.arange(27), vae)
    found = [ran.store.read_arrays(block_name(encode, number))[0] for number in range(3)]
    assert [len(shard["labels"]) for shard in found] == [10, 10, 7]
    for name in ("posterior", "labels"):
        np.testing.assert_array_equal(np.concatenate([shard[name] for shard in found]), wanted[name])

    model, training = ran.plan.cells[0].cell.network.model, Training(steps=5, batch=8, lr=1e-2, noise_dropout=0.2)
    paths = [ran.store.path(block_name(encode, number)) for number in range(3)]
    module = model.module((4, 4, 4), 3, null_noise=True, seed=0)
    split, loss = LatentSplit(paths, flip=True), model.loss(ran.plan.cells[0].cell.network.interpolant, "velocity")
    by_hand = train(module, split, training, loss=loss, num_classes=3, micro_batch=256)
    from nag.checkpoint import parse

    network = ran.plan.tasks[ran.plan.cells[0].stream].params["network"]
    weights = parse(ran.store.read(f"files/{network}/network.safetensors"))[0].state_dict()
    assert all(torch.equal(weights[name], by_hand[name]) for name in by_hand)

    arrays, _ = ran.store.read_arrays(block_name(ran.plan.cells[0].stream, 0))
    assert (arrays["samples"].dtype, arrays["samples"].shape) == (np.float16, (6, 4, 4, 4))
    cell = ran.document()["cells"][0]
    assert cell["metrics"]["fid"]["value"] > 0
    assert cell["stamps"]["fid"]["decode"] == ran.plan.tasks[encode].params["autoencoder"]


def test_images_are_read_once(sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference's features are extracted while the images are encoded, and equal those of a separate pass."""
    seen: Counter[str] = Counter()
    read = ImageSplit._read

    def counted(self: ImageSplit, i: int) -> np.ndarray:
        seen[self.files[i][0]] += 1
        return read(self, i)

    monkeypatch.setattr(ImageSplit, "_read", counted)
    ran = run_here(sweep(), tmp_path / "store")
    assert len(seen) == 27 + 12
    assert set(seen.values()) == {1}
    [reference] = of_kind(ran, "reference")
    other = run_here(sweep(*_pixels(sweep())), tmp_path / "other")
    assert of_kind(other, "reference") == [reference], "the same task, however its features were made"
    for name in ("moments", "train.features.0000", "train.labels.0000"):
        path = f"files/{reference}/{name}.safetensors"
        here, there = (store.read_arrays(path)[0] for store in (ran.store, other.store))
        assert here.keys() == there.keys()
        assert all(np.allclose(here[key], there[key], atol=1e-6) for key in here)


def _pixels(path: Path) -> tuple[str, str]:
    """The replacement that makes the network one of pixels."""
    line = next(line for line in path.read_text().splitlines() if "autoencoder" in line)
    return line + "\n", ""


def test_the_latents_are_made_once_for_all(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """Another training, without flips, and another extractor: the images are not encoded again."""
    run_here(sweep(), tmp_path / "store")
    ran = run_here(sweep(", flip: true", "", "steps: 5", "steps: 6"), tmp_path / "store")
    assert "encode" not in ran.did
    assert ran.did["train"] == 1
    more = sweep("[{name: made_up, of: test}]", "[{name: made_up, of: test}, {name: made_up, of: more}]")
    with pytest.raises(SpecError, match="is in the list already"):
        read_sweep(more)
    ran = run_here(sweep("of: test", "of: other"), tmp_path / "store")
    assert "encode" not in ran.did
    assert ran.did["extract"] == 27 + 2 * 12


def test_shards_are_shared_out(sweep: Callable[..., Path], tmp_path: Path) -> None:
    """Each is a bundle with its features, before the training, which waits for all of them."""
    planned = plan(read_sweep(sweep()))
    todo = missing(planned, Done(Store(str(tmp_path / "none"))))
    found = bundles(planned, "plan", todo, todo, lambda *_: 1, {})
    kinds = [waiting.bundle.kind for waiting in found]
    assert kinds[:3] == ["encode"] * 3
    steps = [[(planned.tasks[digest].kind, blocks) for digest, blocks in w.bundle.steps] for w in found[:3]]
    assert steps == [[("encode", (number,)), ("extract", (number,))] for number in range(3)]
    [encode] = [digest for digest, task in planned.tasks.items() if task.kind == "encode"]
    training = next(w for w in found if w.bundle.kind == "train")
    assert training.needs == {encode}
    half = {**todo, encode: [2]}
    assert missing(planned, Done(Store(str(tmp_path / "none"))))[encode] == [0, 1, 2]
    assert [w.bundle.steps for w in bundles(planned, "plan", half, half, lambda *_: 1, {}) if w.bundle.kind == "encode"]


def test_a_damaged_shard_is_made_again(sweep: Callable[..., Path], tmp_path: Path) -> None:
    whole = run_here(sweep(), tmp_path / "whole")
    [encode] = of_kind(whole, "encode")
    first = run_here(sweep("steps: 5", "steps: 1"), tmp_path / "store")
    place = Path(first.store.path(block_name(encode, 1)))
    data = bytearray(place.read_bytes())
    data[-100] ^= 1
    place.write_bytes(bytes(data))
    ran = run_here(sweep(), tmp_path / "store")
    assert not ran.failed
    assert any(block_name(encode, 1) in note and "set aside" in note for note in ran.observer.notes)
    assert len(list((tmp_path / "store/quarantine/blocks" / encode).iterdir())) == 1
    network = whole.plan.tasks[whole.plan.cells[0].stream].params["network"]
    name = f"files/{network}/network.safetensors"
    assert ran.store.read(name) == whole.store.read(name)


def test_a_shard_that_is_gone_is_made_again(sweep: Callable[..., Path], tmp_path: Path) -> None:
    first = run_here(sweep("steps: 5", "steps: 1"), tmp_path / "store")
    [encode] = of_kind(first, "encode")
    first.store.delete(block_name(encode, 2))
    ran = run_here(sweep(), tmp_path / "store")
    assert not ran.failed
    assert ran.did["encode"] == 7


def test_shards_in_each_other_s_place_are_made_again(sweep: Callable[..., Path], tmp_path: Path) -> None:
    first = run_here(sweep("steps: 5", "steps: 1"), tmp_path / "store")
    [encode] = of_kind(first, "encode")
    one, other = (Path(first.store.path(block_name(encode, number))) for number in (0, 1))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    ran = run_here(sweep(), tmp_path / "store")
    assert not ran.failed
    assert len(list((tmp_path / "store/quarantine/blocks" / encode).iterdir())) == 2
    assert one.read_bytes() != other.read_bytes()


def test_killed_and_resumed(source: Path, tmp_path: Path) -> None:
    """Killed after its first shard; the same command goes on with the others."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "images.npz", arr_0=rng.integers(0, 256, (1200, 8, 8, 3), np.uint8), arr_1=np.arange(1200) % 3)
    data = "{name: image_folder, path: images, resolution: 16, flip: true}"
    text = SWEEP.replace(data, "{name: npz, path: images.npz}")
    text = text.replace("path: vae", f"path: {source}/vae").replace("patch: 2", "patch: 1")
    (tmp_path / "sweep.yaml").write_text(text.replace("count: 12", "count: 240"))
    store, arguments = tmp_path / "store", ("--tracking", "none", "--device", "cpu", "--workers", "1")
    command = begun("run", tmp_path / "sweep.yaml", "--store", store, *arguments)
    until(lambda: list(store.glob("blocks/*/000000.safetensors")))
    command.kill()
    until(lambda: not workers_of(store))
    kept = {path: path.stat().st_mtime_ns for path in store.glob("blocks/*/*.safetensors")}
    done = nagbench("run", tmp_path / "sweep.yaml", "--store", store, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items()), "what was there is not made again"
    assert 1 <= len(kept) < len([*store.glob("blocks/*/*.safetensors")])
    planned = plan(read_sweep(tmp_path / "sweep.yaml"))
    [encode] = [digest for digest, task in planned.tasks.items() if task.kind == "encode"]
    assert [len(Store(str(store)).read_arrays(block_name(encode, n))[0]["labels"]) for n in range(2)] == [1000, 200]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ("resolution: 16", "resolution: 18"),
            r"networks\.sit\.autoencoder: images of 18 x 18 are not a multiple of 4",
        ),
        (("patch: 2", "patch: 3"), r"networks\.sit\.model: .*3"),
        (("path: VAE", "path: images"), r"networks\.sit\.autoencoder\.path: .*images has no config\.json"),
        (("autoencoder: {path: VAE}", "autoencoder: {factor: 1}"), r"networks\.sit\.autoencoder: 'path' is missing"),
        (("{name: image_folder, path: IMAGES, resolution: 16, flip: true}", "digits"), "the images have 1 channels"),
    ],
)
def test_what_check_refuses(sweep: Callable[..., Path], source: Path, changes: tuple[str, str], words: str) -> None:
    real = [change.replace("VAE", f"{source}/vae").replace("IMAGES", f"{source}/images") for change in changes]
    if real[1] == "path: images":
        real[1] = f"path: {source}/images"
    with pytest.raises(SpecError, match=words):
        read_sweep(sweep(*real))


def deep(path: Path) -> str:
    from orchestrator.spec.deep_check import check_inputs

    with pytest.raises(BadInput) as caught:
        list(check_inputs(read_sweep(path)))
    return str(caught.value)


def test_an_autoencoder_of_another_width(sweep: Callable[..., Path], source: Path, tmp_path: Path) -> None:
    """Its latents do not have the shape that the fine-tuned checkpoint needs, which its header shows."""
    wide = autoencoder(tmp_path / "wide", latent_channels=8)
    ran = run_here(sweep(), tmp_path / "store")
    network = ran.plan.tasks[ran.plan.cells[0].stream].params["network"]
    from nag.checkpoint import parse

    weights = parse(ran.store.read(f"files/{network}/network.safetensors"))[0].state_dict()
    weights.pop("null_noise")
    torch.save(weights, tmp_path / "sit.pt")
    line = next(line for line in SWEEP.splitlines() if line.startswith("    model"))
    tuned = "  pre: {checkpoint: sit.pt, family: sit, heads: 2}\n  sit:\n    init: pre"
    path = sweep("  sit:", tuned, line + "\n", "", f"{source}/vae", str(wide), "plain: {}", "plain: {network: sit}")
    path.write_text(path.read_text().replace("arms:", "network: sit\narms:"))
    with pytest.raises(
        BadInput, match=r":6: networks.sit.data: its latents are \[8, 4, 4\], those of 'pre' \[4, 4, 4\]"
    ):
        read_sweep(path)
    broken = autoencoder(tmp_path / "broken")
    (broken / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    path.write_text(path.read_text().replace(str(wide), str(broken)))
    message = deep(path)
    assert ":7: networks.sit.autoencoder: " in message
    assert "does not fit config.json or is damaged" in message


def test_other_images_than_planned(sweep: Callable[..., Path], source: Path, tmp_path: Path) -> None:
    """The plan has their number; a task that finds another number refuses."""
    from orchestrator.tasks.context import Context, Options
    from orchestrator.tasks.encode import run
    from orchestrator.tasks.task import Task

    planned = plan(read_sweep(sweep()))
    task = next(task for task in planned.tasks.values() if task.kind == "encode")
    context = Context(Store(str(tmp_path / "store")), Options())
    context.places = {found.content: found.place for found in planned.outside.values() if not found.copied}
    other = Task("encode", {**task.params, "count": 30})
    with pytest.raises(ValueError, match="there are 27 images to train on, 30 were planned"):
        run(context, other, 0)
