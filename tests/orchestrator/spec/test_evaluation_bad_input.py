"""Bad images, features and numbers, end to end: usable ones are used, others are named by file or block."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nag.pretrained import INCEPTION
from nag.registry import build
from orchestrator.errors import BadInput, NotFinite
from orchestrator.plan.progress import Done, missing
from orchestrator.report.results import collect
from orchestrator.spec.deep_check import check_inputs
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks import extract
from orchestrator.tasks.context import Context
from orchestrator.tasks.score import NO_HELD_OUT
from orchestrator.tasks.task import Task
from tests.nag.inception_file import save
from tests.orchestrator.conftest import nagbench, run_here
from tests.orchestrator.made_images import FOLDER, picture_folder, pixels, written

OWN = """\
import torch
from nag.features.pixels import Pixels
from nag.registry import method


@method
class Broken(Pixels):
    above: float = 0.0

    def open(self, state=None, device="cpu"):
        extract = super().open(state, device)

        def broken(images):
            features = extract(images)["features"]
            features[features.mean(dim=1) > self.above] = torch.nan
            return {"features": features}

        return broken
"""


def reasons(path: Path, folder: Path) -> set[str]:
    return set(run_here(path, folder / "store").failed.values())


@pytest.mark.parametrize("where", ["train", "reference"])
def test_an_unreadable_image_is_named(tmp_path: Path, where: str) -> None:
    picture_folder(tmp_path / "data")
    picture_folder(tmp_path / "other")
    bad = tmp_path / ("data" if where == "train" else "other") / "b" / "15.png"
    bad.write_bytes(bad.read_bytes()[:60])
    path = written(tmp_path, FOLDER, "[kid]", "[kid], reference: {name: image_folder, path: other, resolution: 8}")
    (reason,) = reasons(path, tmp_path)
    assert f"{bad}: it cannot be read as an image" in reason
    if where == "reference":
        options = ("--store", tmp_path / "cli", "--tracking", "none", "--workers", "1", "--device", "cpu")
        done = nagbench("run", path, *options)
        assert done.returncode == 1
        assert str(bad) in " ".join(done.stderr.split())


def test_check_deep_opens_the_first_image_of_each_class(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    for file in (tmp_path / "data" / "a").iterdir():
        file.write_text("no image")
    with pytest.raises(BadInput, match=r"networks.sit.data: .*/data/a/\d+.png: it cannot be read as an image"):
        list(check_inputs(read_sweep(written(tmp_path))))


def test_an_image_that_is_skipped_is_replaced(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    (tmp_path / "data" / "b" / "15.png").write_text("no image")
    assert reasons(written(tmp_path, FOLDER, "held_out: 0.25", "held_out: 0.25, on_error: skip"), tmp_path) == set()


def test_grey_transparent_deep_and_mixed_images_are_images(tmp_path: Path) -> None:
    """Each becomes RGB at the resolution; the reference's features are those of the converted ones."""
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    image = pixels(1, 16)[0]
    grey = image[..., 0]
    forms = {
        "rgb.png": Image.fromarray(image),
        "grey.png": Image.fromarray(grey),
        "rgba.png": Image.fromarray(np.dstack([image, grey])),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "large.jpg": Image.fromarray(pixels(1, 64)[0]),
        "wide.png": Image.fromarray(pixels(1, 32)[0, :20]),
    }
    for name, form in forms.items():
        form.save(folder / name)
    path = written(tmp_path, FOLDER, ", held_out: 0.25", "")
    assert "6 training and 0 held-out images, 1 classes" in "\n".join(check_inputs(read_sweep(path)))
    ran = run_here(path, tmp_path / "store")
    assert not ran.failed
    (reference,) = (digest for digest, task in ran.plan.tasks.items() if task.kind == "reference")
    rows = ran.store.read_arrays(f"files/{reference}/train.features.0000.safetensors")[0]["features"]
    data = build("datasets", "image_folder", path=str(tmp_path / "data"), resolution=8).open("train")
    np.testing.assert_allclose(rows, data.images(np.arange(6)).reshape(6, -1), atol=1e-6)
    same = [name for name, _ in data.files]
    plain, deep = (rows[same.index(f"a/{name}.png")] for name in ("grey", "deep"))
    np.testing.assert_array_equal(plain, deep)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    (tmp_path / "data" / "c").mkdir()
    path = written(tmp_path)
    with pytest.raises(
        BadInput,
        match=r"sweep\.yaml:\d+: networks\.sit\.data: .*/data/c has no images \(1 of 3 class folders have none\)",
    ):
        list(check_inputs(read_sweep(path)))
    (reason,) = reasons(path, tmp_path)
    assert "/data/c has no images" in reason


def test_features_that_are_not_finite_name_block_and_sample_or_file(tmp_path: Path) -> None:
    data = picture_folder(tmp_path / "data")
    (tmp_path / "own.py").write_text(OWN)
    ran = run_here(written(tmp_path, FOLDER, "[pixels]", "[{use: ./own.py:Broken, above: -2}]"), tmp_path / "store")
    told = {ran.plan.tasks[digest].kind: reason for digest, reason in ran.failed.items()}
    stream = ran.plan.cells[0].stream
    assert (
        f"Broken gives features that are not finite for sample 0 (blocks/{stream}/000000.safetensors" in told["extract"]
    )
    first = build("datasets", "image_folder", path=str(data), resolution=8, held_out=0.25).open("train").files[0][0]
    assert told["reference"] == f"Broken gives features that are not finite for {data}/{first} (and 23 more of 24)"


def test_one_image_whose_features_are_not_finite_is_named(tmp_path: Path) -> None:
    """In a published file, and in a folder for `nagbench score`."""
    images = np.full((9, 8, 8, 3), 60, np.uint8)
    images[4] = 250
    np.savez(tmp_path / "images.npz", arr_0=images)
    picture_folder(tmp_path / "data")
    (tmp_path / "own.py").write_text(OWN)
    own = "{use: ./own.py:Broken, above: 0.9}"
    (reason,) = reasons(
        written(tmp_path, FOLDER, "[pixels]", f"[{own}]", "[kid]", "[kid], reference: images.npz"), tmp_path
    )
    assert re.fullmatch(r"Broken gives features that are not finite for row 4 of arr_0 of \S+/images.npz", reason)
    options = ("--reference", "data", "--features", own, "--metrics", "kid", "--device", "cpu")
    done = nagbench("score", "images.npz", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert f"not finite for {tmp_path}/images.npz: row 4" in " ".join(done.stderr.split())


def test_the_last_block_of_encoded_images_may_be_shorter() -> None:
    """The image's number follows from the length of full blocks."""
    encode = Task("encode", {"block": 10, "count": 23})
    task = Task("extract", {"stream": encode.digest, "extractor": {"name": "own"}})
    context = Context(Store("memory://last-block"), tasks={encode.digest: encode})
    rows = {"features": np.array([[0.0], [np.nan], [1.0]])}
    with pytest.raises(NotFinite, match=rf"for sample 21 \(blocks/{encode.digest}/000002.safetensors\)"):
        extract._check(context, rows, task, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("count: 24", "count: 1", "'kid' needs a count of at least 2, got 1."),
        ("count: 24", "count: 3", "'precision_recall' needs a count of at least 4, got 3."),
        ("count: 24", "count: 0", "sample.count: expected a whole number from 1 to"),
        (
            "[kid, precision_recall]",
            "[kid], reference_rows: 1",
            "score.reference_rows: expected a whole number of at lea",
        ),
        ("[kid, precision_recall]", "[kid], reference: 5", "score.reference: expected the path or URL of an .npz file"),
        ("[kid, precision_recall]", "[kid], refrence: x", "unknown key 'refrence'. Did you mean 'reference'?"),
    ],
)
def test_too_few_and_other_mistakes(tmp_path: Path, old: str, new: str, message: str) -> None:
    picture_folder(tmp_path / "data")
    text = FOLDER.replace("[kid]", "[kid, precision_recall]")
    with pytest.raises(BadInput) as caught:
        read_sweep(written(tmp_path, text, old, new))
    assert message in str(caught.value)


def test_too_few_reference_images_name_metric_and_extractor(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    np.savez(tmp_path / "three.npz", arr_0=pixels(3))
    path = written(tmp_path, FOLDER, "[kid]", "[kid, precision_recall], reference: three.npz")
    (reason,) = reasons(path, tmp_path)
    assert reason == "precision_recall on pixels, against three.npz: at least 4 reference features are needed; got 3"


def test_a_reference_of_other_dimensions_is_named(tmp_path: Path) -> None:
    """By `check` where the extractor says its columns, by `check --deep` where running it tells, and by the task."""
    picture_folder(tmp_path / "data")
    picture_folder(tmp_path / "other")
    other = "[kid], reference: {name: image_folder, path: other, resolution: 16}"
    with pytest.raises(BadInput) as caught:
        read_sweep(written(tmp_path, FOLDER, "[kid]", other))
    assert "'pixels' gives 192 columns for images of 'sit', but 768 for those of the reference" in str(caught.value)
    assert "sweep.yaml:9: score: " in str(caught.value)
    np.savez(tmp_path / "large.npz", arr_0=pixels(9, 16))
    with pytest.raises(
        BadInput, match=r"'pixels' gives 192 columns for images of 'sit', but 768 for those of the reference"
    ):
        read_sweep(written(tmp_path, FOLDER, "[kid]", "[kid], reference: large.npz"))
    save(torch.nn.Flatten(), tmp_path / "flat.pt")
    path = written(tmp_path, FOLDER, "[kid]", other, "[pixels]", "[{name: torchscript, path: flat.pt}]")
    with pytest.raises(BadInput) as caught:
        list(check_inputs(read_sweep(path)))
    words = "torchscript gives 768 features of its images [3, 16, 16], of those of network sit 192"
    assert str(caught.value) == f"{path}:9: score.reference: {words}"
    (reason,) = reasons(path, tmp_path)
    columns = "sample features have 192 columns, reference features 768"
    assert reason == f"kid on torchscript, against {tmp_path / 'other'}: {columns}"


def test_weights_that_are_not_what_their_name_says_go_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the cache, perhaps from a truncated copy: reported before anything is queued."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture_folder(tmp_path / "data")
    cached = tmp_path / "cache" / "nagbench" / "weights" / INCEPTION
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half of it")
    path = written(tmp_path, FOLDER, "[pixels]", "[inception]")
    words = f"{cached} is not what its name says: it has 10 bytes, not 95,607,719. Remove it and fetch it again."
    with pytest.raises(BadInput) as caught:
        list(check_inputs(read_sweep(path)))
    assert str(caught.value) == f"{path}:9: score.features: inception: {words}"
    with pytest.raises(BadInput) as caught:
        run_here(path, tmp_path / "store")
    assert str(caught.value) == words
    done = nagbench("score", "data", "--reference", "data", cwd=tmp_path)
    assert (done.returncode, " ".join(done.stderr.split())[-len(words) :]) == (2, words)
    cached.unlink()
    done = nagbench("score", "data", "--reference", "data", cwd=tmp_path)
    assert done.returncode == 2
    assert "nagbench score: an input is not on this machine:" in done.stderr
    assert f"nagbench fetch {INCEPTION}" in done.stderr


def test_one_held_out_image_is_none(tmp_path: Path) -> None:
    """The cells are still scored."""
    picture_folder(tmp_path / "data")
    path = written(tmp_path, FOLDER, "0.25", "0.02", "[kid]", "[fid, precision_recall]")
    ran = run_here(path, tmp_path / "store")
    assert not ran.failed
    results = collect(ran.plan, ran.store)
    assert results.cells[0].scores["fid_held_out"]["score"]["reason"] == NO_HELD_OUT
    assert results.metrics == ["fid", "precision", "recall"]
    assert missing(ran.plan, Done(ran.store)) == {}


def test_images_that_changed_since_the_sweep_was_planned(tmp_path: Path) -> None:
    """A queued task must not read other images under the same digest."""
    from orchestrator.backends.inline import Inline
    from orchestrator.execution import engine
    from orchestrator.plan.make import plan
    from orchestrator.store.store import Store
    from orchestrator.tasks.context import Options
    from tests.orchestrator.conftest import Quiet

    picture_folder(tmp_path / "data")
    planned, store = plan(read_sweep(written(tmp_path))), Store(str(tmp_path / "store"))
    Image.fromarray(pixels(1, 9)[0]).save(tmp_path / "data" / "a" / "new.png")
    failed = engine.run(planned, store, lambda: Inline(store, Options()), Quiet())
    assert all(
        "data has changed since the sweep was planned: other files, or other sizes" in r for r in failed.values()
    )
    assert failed
