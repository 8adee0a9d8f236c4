"""Bad images, features and numbers, end to end: what can be used is used, what cannot is named, file or block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nag.registry import build
from orchestrator.deep import look
from orchestrator.errors import BadInput
from orchestrator.plan import Done, missing
from orchestrator.report.results import collect
from orchestrator.spec import read_sweep
from orchestrator.tasks.score import NO_HELD_OUT
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
        list(look(read_sweep(written(tmp_path))))


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
    assert "6 training and 0 held-out images, 1 classes" in "\n".join(look(read_sweep(path)))
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
        BadInput, match=r"networks.sit.data: .*/data/c has no images \(1 of 3 class folders have none\)"
    ):
        list(look(read_sweep(path)))
    (reason,) = reasons(path, tmp_path)
    assert "/data/c has no images" in reason


def test_features_that_are_not_finite_name_block_and_sample(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    (tmp_path / "own.py").write_text(OWN)
    ran = run_here(written(tmp_path, FOLDER, "[pixels]", "[{use: ./own.py:Broken, above: -2}]"), tmp_path / "store")
    told = {ran.plan.tasks[digest].kind: reason for digest, reason in ran.failed.items()}
    stream = ran.plan.cells[0].stream
    assert (
        f"Broken gives features that are not finite for sample 0 (blocks/{stream}/000000.safetensors" in told["extract"]
    )
    assert "train images from number 0 on: features: row 0 of 24 is not finite" in told["reference"]


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
    assert reason == "precision_recall on pixels: at least 4 reference features are needed; got 3"


def test_one_held_out_image_is_none(tmp_path: Path) -> None:
    """The cells are scored all the same."""
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
    from orchestrator import engine
    from orchestrator.backends.here import Here
    from orchestrator.plan import plan
    from orchestrator.store import Store
    from orchestrator.tasks import Options
    from tests.orchestrator.conftest import Quiet

    picture_folder(tmp_path / "data")
    planned, store = plan(read_sweep(written(tmp_path))), Store(str(tmp_path / "store"))
    Image.fromarray(pixels(1, 9)[0]).save(tmp_path / "data" / "a" / "new.png")
    failed = engine.run(planned, store, lambda: Here(store, Options()), Quiet())
    assert all(
        "data has changed since the sweep was planned: other files, or other sizes" in r for r in failed.values()
    )
    assert failed
