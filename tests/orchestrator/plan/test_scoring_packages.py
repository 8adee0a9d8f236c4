"""Scoring by protocol against pytorch-fid and torch-fidelity themselves, on the same images and weights."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

from nag.features.inception import Inception
from nag.metrics.inception_score import InceptionScore
from nag.pretrained import PYTORCH_FID
from orchestrator.plan import score_images as scoring
from orchestrator.spec.evaluators import EVALUATORS
from tests.nag.inception_file import state_dict
from tests.orchestrator.made_images import low_rank_distance, picture_folder
from tests.orchestrator.plan.test_scoring import run_plan
from tests.orchestrator.plan.test_scoring_protocols import read

pytestmark = pytest.mark.outside

MISSING = "it is not installed: pip install {}"


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of 8 samples and of as many images to compare with."""
    folder = tmp_path_factory.mktemp("sides")
    picture_folder(folder, classes=("reference", "samples"), each=8, size=16)
    return folder / "samples", folder / "reference"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ones, where torch keeps the downloads of both packages."""
    path = tmp_path_factory.mktemp("hub") / "hub" / "checkpoints" / PYTORCH_FID
    path.parent.mkdir(parents=True)
    torch.save(state_dict(), path)
    return path


def scored(protocol: str, sides: tuple[Path, Path], weights: Path, folder: Path) -> dict[str, float]:
    features = [f"{{name: inception, weights: {weights}}}"]
    plan, _ = scoring.planned_by(EVALUATORS[protocol], *map(str, sides), features)
    return {one.metric: one.score["value"] for one in scoring.results(plan, run_plan(plan, folder))}


def test_pytorch_fid(sides: tuple[Path, Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images, resize, scale and network. Its root of two singular matrices would depend on what it adds to them."""
    theirs = pytest.importorskip("pytorch_fid.fid_score", reason=MISSING.format("pytorch-fid"))
    monkeypatch.setenv("TORCH_HOME", str(weights.parents[2]))
    model = theirs.InceptionV3([theirs.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    features = [theirs.get_activations(sorted(side.iterdir()), model, 4, 2048, "cpu", 0) for side in sides]
    expected = low_rank_distance(*features)
    assert expected > 0.1
    assert scored("pytorch_fid", sides, weights, tmp_path / "store") == {"fid": pytest.approx(expected, rel=1e-3)}


def test_torch_fidelity(
    sides: tuple[Path, Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its own computation. Its subsets of KID are the whole sets here, and its Inception Score has one part.

    Its wheel also installs a package named tests, so CI has it in a folder of its own, TORCH_FIDELITY.
    """
    monkeypatch.setattr(sys, "path", [*sys.path, *filter(None, [os.environ.get("TORCH_FIDELITY")])])
    theirs = pytest.importorskip("torch_fidelity", reason=MISSING.format("torch-fidelity"))
    with warnings.catch_warnings():  # of its number of loading processes
        warnings.simplefilter("ignore")
        found = theirs.calculate_metrics(
            input1=str(sides[0]),
            input2=str(sides[1]),
            **dict.fromkeys(("fid", "kid", "isc", "prc"), True),
            kid_subset_size=8,
            kid_subsets=2,
            isc_splits=1,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(weights),
            **dict.fromkeys(("cuda", "cache", "verbose"), False),
        )
    ours = scored("torch_fidelity", sides, weights, tmp_path / "store")
    assert ours == {
        "fid": pytest.approx(found["frechet_inception_distance"], rel=1e-3),
        "kid": pytest.approx(found["kernel_inception_distance_mean"], rel=1e-3),
        "precision": pytest.approx(found["precision"]),
        "recall": pytest.approx(found["recall"]),
    }
    assert ours["fid"] > 0.1
    extract = Inception(weights=str(weights), mode="legacy_tensorflow").open()
    one_part = InceptionScore(splits=1)({"logits": extract(read(sides[0]))["logits"].numpy()}, {})
    assert one_part["values"]["inception_score"]["value"] == pytest.approx(found["inception_score_mean"], rel=1e-3)
