"""`nagbench score --protocol`: the numbers of the evaluators themselves, on the same images and network."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nag.pretrained import DINOV2, INCEPTION
from orchestrator.errors import BadInput
from orchestrator.plan import score_images as scoring
from orchestrator.spec.evaluators import EVALUATORS
from orchestrator.tasks.reference import _first
from tests.nag.inception_file import network, save
from tests.orchestrator.conftest import nagbench
from tests.orchestrator.made_images import low_rank_distance, picture_folder
from tests.orchestrator.plan.test_scoring import run_plan


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of 24 samples and of 30 images to compare with."""
    folder = tmp_path_factory.mktemp("sides")
    picture_folder(folder, classes=("reference", "samples"), each=30, size=16)
    for number in range(24, 30):
        (folder / "samples" / f"{number:02d}.png").unlink()
    return folder / "samples", folder / "reference"


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(network(), tmp_path_factory.mktemp("inception") / "inception-2015-12-05.pt")


def read(folder: Path) -> torch.Tensor:
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def of_clean_fid(inception: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """clean-fid's own features of two folders; it keeps its download where we have this file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fid = pytest.importorskip("cleanfid.fid")
        import cleanfid.features

        theirs, here = cleanfid.features.InceptionV3W, str(inception.parent)
        monkeypatch.setattr(cleanfid.features, "InceptionV3W", lambda path, **options: theirs(here, **options))
        model = fid.build_feature_extractor("clean", torch.device("cpu"), use_dataparallel=False)
        options = {"num_workers": 0, "batch_size": 12, "device": torch.device("cpu"), "mode": "clean", "verbose": False}
        return [fid.get_folder_features(str(folder), model, **options) for folder in folders]


def of_the_file(folders: tuple[Path, Path]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Features and spatial features as EDM and ADM take them: from the network whole, which resizes by itself."""
    module, features, spatial = network(), [], []
    module.layers.mixed_6.conv.register_forward_hook(
        lambda _, __, out: spatial.append(out[:, :7].permute(0, 2, 3, 1).flatten(1).numpy())
    )
    with torch.no_grad():
        features = [module(read(folder), return_features=True).numpy() for folder in folders]
    return features, spatial


@pytest.mark.outside
def test_all_protocols_side_by_side_are_what_the_evaluators_say(
    inception: Path, sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1e-3. DINOv2's weights are missing: that is said, and stops nothing."""
    weights = f"{{name: inception, weights: {inception}}}"
    options = ("--reference", sides[1], "--protocol", "all", "--features", weights, "--device", "cpu", "--json")
    done = nagbench("score", sides[0], *map(str, options))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["protocols"]
    values = {name: {key: one["value"] for key, one in each["metrics"].items()} for name, each in found.items()}
    assert [*found] == ["adm", "clean_fid", "dgm_eval", "edm", "pytorch_fid", "torch_fidelity"]

    features, spatial = of_the_file(sides)
    fid = low_rank_distance(*features)
    assert values["edm"] == {"fid": pytest.approx(fid, rel=1e-3)}
    distances = ((features[0][:, None].astype(float) - features[1]) ** 2).sum(-1)
    radii = [np.sort(((x[:, None].astype(float) - x) ** 2).sum(-1), axis=1)[:, 3] for x in features]
    assert values["adm"] == {
        "fid": pytest.approx(fid, rel=1e-3),
        "sfid": pytest.approx(low_rank_distance(*spatial), rel=1e-3),
        "inception_score": pytest.approx(1, abs=0.1),
        "precision": (distances <= radii[1]).any(1).mean(),
        "recall": (distances <= radii[0][:, None]).any(0).mean(),
    }
    assert values["torch_fidelity"].keys() == {"fid", "kid", "inception_score", "precision", "recall"}
    assert values["torch_fidelity"].items() - values["adm"].items() == {("kid", values["torch_fidelity"]["kid"])}
    theirs = of_clean_fid(inception, sides, monkeypatch)
    assert values["clean_fid"]["fid"] == pytest.approx(low_rank_distance(*theirs), rel=1e-3)
    assert values["clean_fid"]["fid"] != pytest.approx(fid, rel=1e-3)  # the resize alone

    assert found["dgm_eval"]["metrics"] == {}
    assert found["dgm_eval"]["notes"] == [f"the weights {DINOV2} are not on this machine: nagbench fetch {DINOV2}."]
    assert found["edm"]["notes"] == ["it takes 50,000 images, here are 24"]
    assert found["adm"]["metrics"]["fid"]["stamp"]["mode"] == "legacy_tensorflow"


def test_dgm_eval_cuts_both_sides(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """On pixels, and at 12 images."""
    evaluator = replace(EVALUATORS["dgm_eval"], features="pixels", samples=("at_most", 12))
    plan, notes = scoring.planned_by(evaluator, str(sides[0]), str(sides[1]))
    found = {one.metric: one for one in scoring.results(plan, run_plan(plan, tmp_path / "cut"))}
    assert notes == ()
    assert {(one.stamp["count"], one.stamp["reference_size"]) for one in found.values()} == {(12, 12)}
    plan, _ = scoring.planned_by(replace(evaluator, samples=None), str(sides[0]), str(sides[1]))
    whole = {one.metric: one for one in scoring.results(plan, run_plan(plan, tmp_path / "whole"))}
    assert {(one.stamp["count"], one.stamp["reference_size"]) for one in whole.values()} == {(24, 30)}
    assert found["fid"].score["value"] != pytest.approx(whole["fid"].score["value"], rel=0.01)


def test_outputs_that_come_in_pieces_are_cut_in_the_middle_of_one() -> None:
    pieces = [{"labels": np.arange(start, start + 4), "features": np.ones((4, 2))} for start in (0, 4, 8)]
    assert [piece["labels"].tolist() for piece in _first(6, pieces)] == [[0, 1, 2, 3], [4, 5]]
    assert [len(piece["features"]) for piece in _first(8, pieces)] == [4, 4]


def test_a_file_of_moments_gives_what_an_evaluator_can_say(
    inception: Path, sides: tuple[Path, Path], tmp_path: Path
) -> None:
    """EDM's and ADM's, whose files name no mode; precision and recall need images."""
    file = tmp_path / "animals.npz"
    np.savez(file, mu=np.zeros(2048), sigma=np.eye(2048))
    weights = [f"{{name: inception, weights: {inception}}}"]
    plan, notes = scoring.planned_by(EVALUATORS["adm"], str(sides[0]), str(file), weights)
    names = [plan.tasks[scored.task].params["metric"]["name"] for scored in plan.floors[0][1]]
    assert names == ["fid", "inception_score"]
    assert [note.partition(":")[0] for note in notes] == ["no sfid", "no precision_recall"]
    with pytest.raises(BadInput, match=r"no fid: .* of an unknown mode of inception .*; no kid: "):
        scoring.planned_by(EVALUATORS["clean_fid"], str(sides[0]), str(file), weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--protocol", "admm"), "--protocol: unknown protocol 'admm'. Did you mean 'adm'?"),
        (("--protocol", "adm", "--metrics", "fid"), "--metrics: --protocol says which metrics are computed; leave out"),
        (("--protocol", "adm", "--features", "pixels"), "--features: with --protocol it only says where weights are"),
        (("--protocol", "edm"), f"the weights {INCEPTION} are not on this machine: nagbench fetch {INCEPTION}."),
    ],
)
def test_a_mistake_is_one_line(
    options: tuple[str, ...], message: str, sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = nagbench("score", sides[0], "--reference", sides[1], *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_few_images_leave_out_the_metrics_that_need_more(sides: tuple[Path, Path]) -> None:
    evaluator = replace(EVALUATORS["adm"], features="pixels", metrics=("fid", "precision_recall"))
    plan, notes = scoring.planned_by(evaluator, str(sides[0]), str(sides[1]), count=3)
    assert notes == ("no precision_recall: it needs at least 4 images, here are 3",)
    assert len(plan.floors[0][1]) == 1
