"""`nagbench score`: the numbers of a sweep from its exported images, and those of clean-fid on a folder of them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nag.registry import build
from orchestrator.errors import BadInput
from orchestrator.plan import score_images as scoring
from orchestrator.report.exported_images import export_images
from orchestrator.retention.garbage import garbage
from orchestrator.store.store import Store
from orchestrator.tasks.context import Context
from orchestrator.tasks.reference import ReferenceArrays
from tests.nag.inception_file import network, save
from tests.orchestrator.conftest import Quiet, Ran, nagbench, run_here
from tests.orchestrator.made_images import FOLDER, adm_file, low_rank_distance, picture_folder, pixels, written

METRICS = "[fid, kid, precision_recall, density_coverage]"
OPTIONS = ("--device", "cpu", "--json")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A sweep on a folder of pictures, all of them to train on."""
    folder = tmp_path_factory.mktemp("scored")
    picture_folder(folder / "data", each=20)
    return run_here(written(folder, FOLDER, ", held_out: 0.25", "", "[kid]", METRICS), folder / "store")


@pytest.fixture(scope="module")
def exported(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The cell's images in ADM's form, and as a folder of PNG files."""
    folder = tmp_path_factory.mktemp("exported")
    made = export_images(ran.plan, ran.store, folder / "samples.npz", ran.plan.cells[0])
    (folder / "png").mkdir()
    with np.load(made.path) as arrays:
        for number, image in enumerate(arrays["arr_0"]):
            Image.fromarray(image).save(folder / "png" / f"{number:06d}.png")
    return made.path, folder / "png"


def scored(*arguments: object) -> dict[str, Any]:
    done = nagbench("score", *map(str, arguments), *OPTIONS)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def alike(found: dict[str, Any], known: dict[str, Any]) -> None:
    """The order of the samples is another, so sums are rounded otherwise; the halves that FID extrapolates from are
    other ones.
    """
    for name in known.keys() - {"fid_held_out"}:  # this data set has no held-out images
        for key in ("value", "low", "high"):
            if known[name][key] is None:
                assert found[name][key] is None
            else:
                assert found[name][key] == pytest.approx(known[name][key], rel=1e-9, abs=1e-12), name


def test_the_numbers_are_those_of_the_sweep(ran: Ran, exported: tuple[Path, Path], tmp_path: Path) -> None:
    data = Path(ran.plan.sweep.path).parent / "data"
    found = scored(exported[0], "--reference", data, "--features", "pixels")["metrics"]
    asked = {"fid", "fid_infinity", "kid", "precision", "recall", "density", "coverage", "cmmd", "mind", "vendi"}
    assert found.keys() == asked  # all that need no labels, no training images and no held-out ones
    sweep = ran.document()["cells"][0]
    alike(found, sweep["metrics"])
    stamp = found["fid"]["stamp"]
    assert (stamp["count"], stamp["reference_size"], stamp["extractor"]["name"]) == (24, 40, "pixels")
    assert stamp["reference_size"] == sweep["stamps"]["fid"]["reference_size"]


def test_a_folder_of_files_is_the_same_samples(ran: Ran, exported: tuple[Path, Path], tmp_path: Path) -> None:
    data = Path(ran.plan.sweep.path).parent / "data"
    plan = scoring.planned(str(exported[1]), str(data), ["pixels"], [])
    found = {one.metric: dict(one.score) for one in scoring.results(plan, run_plan(plan, tmp_path / "store"))}
    alike(found, ran.document()["cells"][0]["metrics"])


def test_in_words_for_a_person(ran: Ran, exported: tuple[Path, Path]) -> None:
    data = Path(ran.plan.sweep.path).parent / "data"
    done = nagbench(
        *("score", exported[0], "--reference", data, "--features", "pixels", "--device", "cpu", "--count", "10"),
        *("--metrics", "kid", "--metrics", "{name: precision_recall, k: 2}"),
    )
    assert done.returncode == 0, done.stderr
    assert "kid: N 10; pixels; against 40 images, " in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith((" kid", " prec", " rec"))] == [
        *("kid", "precision", "recall")
    ]


def test_a_store_keeps_what_was_made(ran: Ran, exported: tuple[Path, Path], tmp_path: Path) -> None:
    """So that another metric computes only itself."""
    data = Path(ran.plan.sweep.path).parent / "data"
    for metrics, count in ((["kid"], 1), (["kid", "fid"], 2)):
        store = run_plan(scoring.planned(str(exported[0]), str(data), ["pixels"], metrics), tmp_path)
        assert (len(store.list("records/reference")), len(store.list("records/score"))) == (2, count)
    assert {file.what for file in garbage(store)} == set()


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(network(), tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt")


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
def test_clean_fid_on_the_folder_agrees(
    inception: Path, exported: tuple[Path, Path], tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """clean-fid reads the PNG files; our features are those that the tasks stored. Their distances agree to 1e-3.

    Both distances are computed here from the features, for 2,048 columns in a second; that FID is this number is tested
    elsewhere, and that clean-fid's own distance is, in tests/nag/test_features_inception.py.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid = pytest.importorskip("cleanfid.fid")
        import cleanfid.features

        theirs = cleanfid.features.InceptionV3W
        here = str(inception.parent)
        monkeypatch.setattr(cleanfid.features, "InceptionV3W", lambda path, **options: theirs(here, **options))
        model = fid.build_feature_extractor(mode, torch.device("cpu"), use_dataparallel=False)
        picture_folder(tmp_path / "flat", classes=("one",), each=24, size=16)
        options = {"num_workers": 0, "batch_size": 12, "device": torch.device("cpu"), "mode": mode, "verbose": False}
        folders = [str(exported[1]), str(tmp_path / "flat" / "one")]
        wanted = low_rank_distance(*(fid.get_folder_features(folder, model, **options) for folder in folders))

    plan = scoring.planned(
        folders[0],
        f"{{name: image_folder, path: {folders[1]}, resolution: 16}}",
        [f"{{name: inception, weights: {inception}, mode: {mode}}}"],
        ["kid"],
    )
    ran = run_plan(plan, tmp_path / "store")
    tasks = plan.tasks[plan.floors[0][1][0].task]
    context = Context(ran, tasks=dict(plan.tasks))
    ours = [ReferenceArrays(context, tasks.params[side])["features"] for side in ("samples", "reference")]
    assert low_rank_distance(*ours) == pytest.approx(wanted, rel=1e-3)
    assert wanted > 1e-3


def run_plan(plan: Any, folder: Path) -> Store:
    from orchestrator.backends.inline import Inline
    from orchestrator.execution import engine
    from orchestrator.tasks.context import Options

    store = Store(str(folder))
    assert not engine.run(plan, store, lambda: Inline(store, Options()), Quiet())
    return store


def test_adms_statistics(inception: Path, exported: tuple[Path, Path], tmp_path: Path) -> None:
    """By default Inception in the file's mode, and what its moments and images allow."""
    images = pixels(12, 8)
    extract = build("features", "inception", weights=str(inception), mode="legacy_tensorflow").open()
    outputs = {k: v.numpy() for k, v in extract(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).items()}
    file = adm_file(tmp_path / "moments.npz", images, outputs, with_images=False)
    with pytest.raises(BadInput, match=r"'kid' on 'inception': moments.npz has moments and no images"):
        scoring.planned(
            str(exported[0]),
            str(file),
            [f"{{name: inception, weights: {inception}, mode: legacy_tensorflow}}"],
            ["kid"],
        )
    plan = scoring.planned(str(exported[0]), str(file), [], [])
    names = [plan.tasks[scored.task].params["metric"]["name"] for scored in plan.floors[0][1]]
    assert names == ["fid", "sfid", "inception_score", "fid_infinity", "vendi"]
    assert plan.sweep.score is not None
    assert plan.sweep.score.features[0].mode == "legacy_tensorflow"


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    """A folder of what cannot be scored."""
    picture_folder(tmp_path / "mixed" / "in", each=3)
    Image.fromarray(pixels(1, 12)[0]).save(tmp_path / "mixed" / "in" / "a" / "larger.png")
    (tmp_path / "wide").mkdir()
    Image.fromarray(pixels(1, 12)[0, :8]).save(tmp_path / "wide" / "0.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "0.png").write_text("no image")
    picture_folder(tmp_path / "good", each=4)
    np.savez(tmp_path / "latents.npz", arr_0=np.zeros((4, 4, 2, 2), np.float32))
    np.savez(tmp_path / "wide.npz", arr_0=pixels(4, 12)[:, :8])
    np.savez(tmp_path / "one.npz", arr_0=pixels(1))
    np.savez(tmp_path / "two.npz", arr_0=pixels(2))
    return tmp_path


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ("nowhere", (), "nowhere: there is no such folder of images or .npz file."),
        ("mixed", (), "samples must be of one size; in/a/00.png is 8 x 8, in/a/larger.png is 12 x 12."),
        ("wide", (), "wide: the images are 12 x 8; only square ones can be scored."),
        ("wide.npz", (), "wide.npz: the images are 12 x 8; only square ones can be scored."),
        ("empty", (), "empty: there are no images in it."),
        ("text", (), "0.png: it cannot be read as an image"),
        ("latents.npz", (), "latents.npz: these are latents; samples are images, uint8 (N, H, W, 3)."),
        ("one.npz", (), "one.npz: 1 images"),
        ("two.npz", ("--metrics", "precision_recall"), "'precision_recall' needs at least 4 images, "),
        ("good", ("--count", "9"), "--count: "),
        ("good", ("--features", "pixel"), "unknown name 'pixel'. Did you mean 'pixels'?"),
        ("good", ("--features", "digits"), "--features: 'digits' is trained by a sweep, so it cannot stand here."),
        (
            "good",
            ("--metrics", "sfid"),
            "'sfid' needs spatial, which none of these features provides. Add one of: incep",
        ),
        ("good", ("--reference", "nothing"), "--reference: there is no file or folder 'nothing'."),
    ],
)
def test_what_cannot_be_scored(
    wrong: Path, samples: str, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(wrong)
    given = {"--features": "pixels", "--reference": "good", **dict([options] if options else [])}
    count = int(given["--count"]) if "--count" in given else None
    metrics = [given["--metrics"]] if "--metrics" in given else []
    with pytest.raises(BadInput) as caught:
        scoring.planned(samples, given["--reference"], [given["--features"]], metrics, count)
    assert message in str(caught.value)


def test_a_mistake_is_one_line_and_code_two(wrong: Path) -> None:
    done = nagbench("score", "mixed", "--reference", "good", cwd=wrong)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
