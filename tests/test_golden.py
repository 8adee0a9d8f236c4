"""Digests and defaults that must never change: what users have stored is found by them.

A digest here may change only together with a VERSION, and then on purpose; a default, never.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nag.guidance.schedule import CONSTANT
from nag.guidance.terms import EVERYWHERE
from nag.registry import METHODS, find
from nag.training import Training
from orchestrator.identity import digest
from orchestrator.plan.make import plan
from orchestrator.spec.model import Sample
from orchestrator.spec.reader import read_sweep

DEFAULTS = {
    "models.sit": {"mlp_ratio": 4.0, "learned_variance": False},
    "samplers.euler": {},
    "samplers.heun": {},
    "samplers.euler_maruyama": {"diffusion": "sigma", "last_step": "mean", "last_step_size": 0.04},
    "samplers.ddpm": {},
    "samplers.ddim": {"eta": 0.0},
    "samplers.dopri5": {"atol": 1e-6, "rtol": 1e-3},
    "samplers.dpmpp_2m": {},
    "samplers.unipc": {},
    "guidance.cfg": {"channels": "all", "interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.nag": {"interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.nag_classifier": {"interval": EVERYWHERE},
    "guidance.dog": {"interval": EVERYWHERE, "channels": "all", "schedule": CONSTANT},
    "guidance.autoguidance": {"interval": EVERYWHERE, "schedule": CONSTANT, "null_noise": False},
    "guidance.self_guidance": {"shift": 0.01, "previous": False, "interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.tsg": {"noise": 2.0, "power": 1.0, "interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.icg": {"interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.apg": {"eta": 0.0, "norm": 0.0, "momentum": -0.5, "interval": EVERYWHERE},
    "guidance.cfg_zero": {"zero": 0.04, "interval": EVERYWHERE},
    "guidance.cfgpp": {"interval": EVERYWHERE},
    "guidance.skip_layer": {"interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.pag": {"interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.seg": {"sigma": 10_000.0, "interval": EVERYWHERE, "schedule": CONSTANT},
    "guidance.rescale": {"phi": 0.7},
    "guidance.epsilon_scaling": {"b": 1.005, "k": 0.0},
    "guidance.time_shift": {},
    "guidance.noise_level_correction": {"interval": EVERYWHERE},
    "metrics.fid": {"against": "train"},
    "metrics.precision_recall": {"k": 3},
    "metrics.class_accuracy": {},
    "metrics.sfid": {},
    "metrics.kid": {},
    "metrics.inception_score": {"splits": 1},
    "metrics.density_coverage": {"k": 5},
    "metrics.memorisation": {},
    "metrics.fid_infinity": {},
    "metrics.fd_ratio": {},
    "metrics.cmmd": {"unbiased": False},
    "metrics.mind": {"directions": 1000},
    "metrics.vendi": {},
    "metrics.authenticity": {},
    "metrics.fld": {},
    "metrics.colour": {},
    "metrics.fid_by_class": {"directions": None},
    "metrics.coverage_by_class": {"k": 3},
    "metrics.label_balance": {},
    "features.digits": {"steps": 400, "seed": 0},
    "features.pixels": {},
    "features.inception": {"weights": None, "mode": "clean"},
    "features.dinov2": {"weights": None},
    "features.torchscript": {
        "outputs": ("features",),
        "size": None,
        "resize": "bicubic",
        "channels": 3,
        "range": (0.0, 1.0),
        "mean": (0.0,),
        "std": (1.0,),
    },
    "features.timm": {},
    "features.colour": {},
    "features.clip": {"model": "ViT-L/14@336px", "weights": None, "mode": "clip"},
    "features.siglip2": {"model": "So400m/14@224", "weights": None},
    "features.mae": {"model": "L/16", "weights": None},
    "features.convnext_v2": {"model": "L", "weights": None},
    "features.made_up": {"of": "", "outputs": ("features",)},
    "datasets.digits": {},
    "datasets.npz": {"held_out": 0.0},
    "datasets.latents": {
        "scale": None,
        "shift": 0.0,
        "holds": None,
        "statistics": "use",
        "flip": False,
        "held_out": 0.0,
        "classes": None,
    },
    "datasets.made_up": {"classes": 10, "images": 256, "resolution": 32, "seed": 0},
    "autoencoders.kl": {"factor": 0.18215, "dtype": "float32", "tile": None},
    "autoencoders.block_means": {"side": 2},
    **{
        f"datasets.{name}": {"resolution": 256, "flip": False, "held_out": 0.0, "on_error": "fail"}
        for name in (
            *("image_folder", "imagenet", "food101", "sun397", "caltech101"),
            *("cub200", "stanford_cars", "df20m_mini", "artbench10"),
        )
    },
    "interpolants.linear": {},
    "interpolants.gvp": {},
    "interpolants.vp": {},
    "models.dit": {"mlp_ratio": 4.0, "learned_variance": False},
    "preconditions.edm": {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
    "preconditions.ve": {"sigma_max": 80.0},
    "models.repa": {"mlp_ratio": 4.0, "learned_variance": False},
    "models.lightning_dit": {"mlp_ratio": 4.0, "learned_variance": False, "qk_norm": False},
    "models.diffusers": {"null_row": False},
    "models.noise_level": {"mlp_ratio": 4.0, "bins": 100},
    "models.noise_level_residual": {"mlp_ratio": 4.0},
    "measures.noise_shift": {"count": 400, "levels": 50, "finer": 1},
    "measures.effective_scale": {"count": 400},
    "training": {
        "batch": 256,
        "lr": 1e-4,
        "weight_decay": 0.0,
        "warmup": 0,
        "clip": 0.0,
        "ema": 0.9999,
        "ema_warmup": True,
        "noise_dropout": 0.0,
        "class_dropout": 0.1,
        "input_perturbation": 0.0,
        "level_error": 0.0,
        "seed": 0,
        "only": "all",
    },
    "sample": {"count": 50_000, "block": 1_000, "seed": 0, "labels": "uniform"},
}

SWEEP = """\
name: golden
networks:
  sit:
    data: {name: digits}
    model: {name: sit, hidden: 64, depth: 4, heads: 4, patch: 2}
    train: {steps: 500, batch: 128, lr: 2e-3, noise_dropout: 0.15}
sampler: {name: heun, steps: 10}
sample: {count: 1000, block: 100}
score: {features: [digits], metrics: [fid]}
arms:
  both: {cfg: {scale: 1.25}, nag: {scale: 1.0}}
"""

DIGESTS = {
    "train 0": "750f86818d7bb60c0dc8862c08e92678",
    "sample 1": "4d62104ba2554726dde54fa8537449b1",
    "train 2": "4c6ae953783a36f4c92285620414618e",
    "reference 3": "de813e14b71f9e08d3d66eb199285366",
    "extract 4": "b5aad410cfd7e0167d3df51952d6dacc",
    "score 5": "76c52e67b512c9a920d6465667deee74",
    "score 6": "6987c3cc83cfaaefddbab076979964ad",
    "score 7": "ac45dacb9ec7f0a0b532093d104dfb18",
    "cell": "7d606c6619675462faa0232d280e5657",
}


def defaults(cls: type) -> dict[str, object]:
    return {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}


def test_defaults() -> None:
    found = {f"{family}.{name}": defaults(find(family, name)) for family in METHODS for name in METHODS[family]}
    found |= {"training": defaults(Training), "sample": defaults(Sample)}
    for key, old in DEFAULTS.items():
        assert found[key].items() >= old.items(), key
    assert found.keys() == DEFAULTS.keys(), "a new method: write its defaults down here"


def sweep_digests(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    planned = plan(read_sweep(path))
    found = {f"{task.kind} {i}": task.digest for i, task in enumerate(planned.tasks.values())}
    return found | {"cell": planned.cells[0].digest}


def test_digests(tmp_path: Path) -> None:
    assert sweep_digests(tmp_path / "sweep.yaml", SWEEP) == DIGESTS


MEASURED = """\
  meter:
    data: {name: digits}
    model: {name: noise_level, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 10, batch: 16, seed: 100}
network: sit
measure: [{name: noise_shift, estimator: meter}, effective_scale]
sampler:"""


def test_digests_of_measurements(tmp_path: Path) -> None:
    found = sweep_digests(tmp_path / "sweep.yaml", SWEEP.replace("sampler:", MEASURED))
    assert [digest for name, digest in found.items() if name.startswith("measure")] == [
        "b920bf151fec778b9f20567aab4be3cd",
        "ec839b091252628eace963c93cbd4e45",
    ]
    assert found["cell"] == DIGESTS["cell"]


def test_spelling_does_not_matter(tmp_path: Path) -> None:
    """Order, number formats, defaults written out, names of arms and networks: the same digests."""
    other = """\
arms:
  renamed: {nag: {scale: 1}, cfg: {scale: 1.250}}
name: other
sample: {block: 1e2, count: 1e3, labels: uniform}
sampler: {steps: 10.0, name: heun}
score: {metrics: [fid], features: [{name: digits, steps: 400}]}
networks:
  mine:
    train: {noise_dropout: .15, lr: 0.002, batch: 128, steps: 5e2, seed: 0}
    model: {patch: 2, heads: 4, depth: 4, hidden: 64, mlp_ratio: 4, name: sit}
    data: digits
    interpolant: linear
    predicts: velocity
"""
    first = sweep_digests(tmp_path / "a.yaml", SWEEP)
    assert sweep_digests(tmp_path / "b.yaml", other) == first


def test_every_field_of_a_stream_matters(tmp_path: Path) -> None:
    base = sweep_digests(tmp_path / "a.yaml", SWEEP)["cell"]
    for old, new in [
        ("steps: 10", "steps: 11"),
        ("scale: 1.25", "scale: 1.26"),
        ("count: 1000", "count: 1100"),
        ("block: 100", "block: 50"),
        ("hidden: 64", "hidden: 32"),
        ("lr: 2e-3", "lr: 3e-3"),
        ("heun", "euler"),
    ]:
        assert sweep_digests(tmp_path / "b.yaml", SWEEP.replace(old, new))["cell"] != base, old


def test_what_is_hashed() -> None:
    assert digest({"b": 1, "a": [1.5, "x", None, True]}) == "b52075e6a3df55834b0af368a1b3a528"
