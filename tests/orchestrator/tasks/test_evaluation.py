"""References and held-out images: which images samples are compared with, bit for bit, and which arrays are read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nag.metrics.moments import moments
from nag.registry import build
from orchestrator.report.results import collect
from orchestrator.store.store import Store
from orchestrator.tasks import reference
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.reference import ReferenceArrays
from orchestrator.tasks.score import NO_HELD_OUT
from orchestrator.tasks.task import Task
from tests.orchestrator.conftest import Ran, run_here
from tests.orchestrator.made_images import FOLDER, adm_file, low_rank_distance, picture_folder, pixels, written


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def reference_task(store: Store, **params: Any) -> Task:
    """A reference task on digits' pixels, done in this process."""
    pixels = {"name": "pixels", "version": 1, "fields": {}}
    digits = {"name": "digits", "version": 1, "fields": {}}
    task = Task("reference", {"extractor": pixels, "weights": None, "data": digits, **params})
    return task


def done(store: Store, task: Task, micro_batch: int = 256) -> ReferenceArrays:
    context = Context(store, Options(micro_batch=micro_batch), tasks={task.digest: task})
    reference.run(context, task)
    return ReferenceArrays(context, task.digest)


def digits(split: str) -> np.ndarray:
    """The features of `pixels` on a split of digits."""
    from nag.datasets.dataset import to_uint8

    found = build("datasets", "digits").open(split)
    images = torch.from_numpy(to_uint8(found.images(np.arange(len(found)))))
    return build("features", "pixels").open()(images)["features"].numpy()


def test_moments_are_those_of_all_rows_to_the_last_bit(tmp_path: Path) -> None:
    """Equal to the moments that FID computes from the rows, for any micro-batch."""
    for micro_batch in (256, 100):
        store = Store(str(tmp_path / str(micro_batch)))
        held = done(store, reference_task(store), micro_batch)
        rows = digits("train")
        np.testing.assert_array_equal(held["features"], rows)
        np.testing.assert_array_equal(held["held_out"], digits("held_out"))
        for name, wanted in (("", moments(rows)), ("_held_out", moments(digits("held_out")))):
            np.testing.assert_array_equal(held[f"mean{name}"], wanted.mean)
            np.testing.assert_array_equal(held[f"cov{name}"], wanted.cov)
        assert held["cov"].dtype == np.float64
        assert held.record["sizes"] == {"train": 1438, "held_out": 359}


def test_a_large_reference_is_made_and_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are capped, moments are of all images; one part at a time is in memory."""
    monkeypatch.setattr(reference, "PART", 300)
    store = Store(str(tmp_path))
    task = reference_task(store, rows=700)
    held = done(store, task, micro_batch=64)
    rows = digits("train")
    np.testing.assert_array_equal(held["features"], rows[:700])
    np.testing.assert_array_equal(held["held_out"], digits("held_out"))
    np.testing.assert_allclose(held["cov"], moments(rows).cov, rtol=1e-12, atol=1e-13)
    names = store.list(f"files/{task.digest}")
    assert [name for name in names if name.startswith("train.features")] == [
        f"train.features.{part:04d}.safetensors" for part in range(3)
    ]
    assert (
        max(len(store.read_arrays(f"files/{task.digest}/{n}")[0].popitem()[1]) for n in names if "moments" not in n)
        <= 300
    )
    fid, kid = build("metrics", "fid"), build("metrics", "kid")
    assert (held.size_for(fid), held.size_for(kid), held.size_for(build("metrics", "inception_score"))) == (
        1438,
        700,
        None,
    )


def test_both_distances_are_reported(finished: Ran) -> None:
    """To the training images and to the held-out ones; the score tasks say which."""
    found = finished.document()
    for cell in found["cells"]:
        assert {"fid", "fid_held_out", "fid_digits", "fid_held_out_digits"} <= cell["metrics"].keys()
        assert cell["metrics"]["fid"]["value"] != cell["metrics"]["fid_held_out"]["value"]
        sizes = {
            name: cell["stamps"][name]["reference_size"] for name in ("fid", "fid_held_out", "class_accuracy_digits")
        }
        assert sizes == {"fid": 1438, "fid_held_out": 359, "class_accuracy_digits": None}
    planned = finished.plan.cells[0]
    held = ReferenceArrays(Context(finished.store, tasks=dict(finished.plan.tasks)), finished.plan.floors[0][0])
    samples = np.concatenate(
        [finished.store.read_arrays(f"blocks/{planned.extracts[0]}/{n:06d}.safetensors")[0]["features"] for n in (0, 1)]
    )
    value = found["cells"][0]["metrics"]["fid_held_out"]["value"]
    assert value == pytest.approx(low_rank_distance(samples, held["held_out"]), rel=1e-9)


def test_a_data_set_without_held_out_images(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    ran = run_here(
        written(tmp_path, FOLDER, ", held_out: 0.25", "", "[kid]", "[kid, fid, memorisation]"), tmp_path / "store"
    )
    assert not ran.failed
    results = collect(ran.plan, ran.store)
    assert results.metrics == ["kid", "fid", "memorisation"]
    assert results.cells[0].scores["fid_held_out"]["score"]["reason"] == NO_HELD_OUT
    assert results.cells[0].complete
    assert results.floor == {}
    from orchestrator.report.comparisons import compare
    from orchestrator.report.write import write_report

    page = write_report(
        results, compare(results, ran.store), ran.store, tmp_path / "report", "nagbench run"
    ).read_text()
    assert "held-out" not in page.partition("<details>")[0]


def test_images_of_another_data_set_as_the_reference(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    picture_folder(tmp_path / "other", each=20)
    path = written(
        tmp_path,
        FOLDER,
        "metrics: [kid]",
        "metrics: [kid], reference: {name: image_folder, path: other, resolution: 8}",
    )
    ran = run_here(path, tmp_path / "store")
    cell = ran.document()["cells"][0]
    assert cell["stamps"]["kid"]["reference_size"] == 40
    task = ran.plan.tasks[cell["stamps"]["kid"]["reference"]]
    assert task.params["data"]["name"] == "image_folder"
    assert cell["stamps"]["kid"]["reference_content"] == task.params["data"]["fields"]["path"]


def test_copies_are_looked_for_among_the_training_images(tmp_path: Path) -> None:
    """Whatever the reference of distances is: here a published file of other images, and another data set."""
    picture_folder(tmp_path / "data")
    picture_folder(tmp_path / "other", each=20)
    adm_file(tmp_path / "images.npz", pixels(30, seed=3), None)
    plain = run_here(written(tmp_path, FOLDER, "[kid]", "[memorisation]"), tmp_path / "store")
    own = plain.document()["cells"][0]
    assert own["stamps"]["memorisation"]["reference_size"] == 24
    assert own["metrics"]["memorisation"]["value"] is not None
    for held_against in ("images.npz", "{name: image_folder, path: other, resolution: 8}"):
        path = written(tmp_path, FOLDER, "[kid]", f"[kid, memorisation], reference: {held_against}")
        ran = run_here(path, tmp_path / "store")
        assert not ran.failed
        found = ran.document()["cells"][0]
        assert found["metrics"]["memorisation"] == own["metrics"]["memorisation"]
        assert found["stamps"]["memorisation"] == own["stamps"]["memorisation"]
        assert found["stamps"]["kid"]["reference"] != found["stamps"]["memorisation"]["reference"]
        assert "memorisation" not in ran.document()["floor"]
        assert ran.did.get("train", 0) == 0


# Published files


def test_the_pictures_of_the_images_sweep_are_what_their_script_makes(tmp_path: Path) -> None:
    root = Path(__file__).parents[3] / "sweeps"
    subprocess.run([sys.executable, root / "make_images.py", tmp_path], check=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert made == sorted(path.relative_to(root / "images") for path in (root / "images").rglob("*.png"))
    assert len(made) == 240
    for path in made:
        with Image.open(tmp_path / path) as ours, Image.open(root / "images" / path) as theirs:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
