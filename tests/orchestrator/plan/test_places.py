"""Places that a sweep, a stored plan, an option or a site names: what is never read is an error with file and line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fsspec
import numpy as np
import pytest

from nag.datasets.dataset import listing
from orchestrator.backends.slurm.doctor import _is_there
from orchestrator.errors import BadInput, EnvironmentProblem, SpecError
from orchestrator.identity import content
from orchestrator.plan import score_images as scoring
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from orchestrator.store.store import Store
from orchestrator.tasks.context import Context
from tests.orchestrator.conftest import TINY, changed, metrics, nagbench, run_here
from tests.orchestrator.made_images import pixels

SWEEP = changed(TINY, "seed: {grid: [0, 1]}", "seed: 0")
DATA, FEATURES = "{name: digits}", "[pixels, {name: digits, steps: 5}]"
REFERENCE = "class_accuracy]"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def naming(place: str) -> dict[str, tuple[str, int]]:
    """Sweeps that name a place in each way there is, and the line where they do."""
    q = json.dumps(place)
    return {
        "data": (changed(SWEEP, DATA, f"{{name: image_folder, path: {q}, resolution: 8}}"), 4),
        "npz": (changed(SWEEP, DATA, f"{{name: npz, path: {q}}}"), 4),
        "reference": (changed(SWEEP, REFERENCE, f"class_accuracy], reference: {q}"), 9),
        "a path": (changed(SWEEP, REFERENCE, f"class_accuracy], reference: {{path: {q}, mode: clean}}"), 9),
        "images": (changed(SWEEP, REFERENCE, f"class_accuracy], reference: {{name: image_folder, path: {q}}}"), 9),
        "decode": (changed(SWEEP, REFERENCE, f"class_accuracy], decode: {{path: {q}}}"), 9),
        "autoencoder": (changed(SWEEP, "    model:", f"    autoencoder: {{path: {q}}}\n    model:"), 5),
        "weights": (changed(SWEEP, FEATURES, f"[pixels, {{name: inception, weights: {q}}}]"), 9),
        "torchscript": (changed(SWEEP, FEATURES, f"[pixels, {{name: torchscript, path: {q}}}]"), 9),
        "checkpoint": (changed(SWEEP, "  sit:", f"  it: {{checkpoint: {q}, family: dit}}\n  sit:"), 3),
        "its own": (changed(SWEEP, "  sit:", f"  it: {{checkpoint: {q}}}\n  sit:"), 3),
        "published": (f"{SWEEP}published: {q}\n", 14),
    }


WAYS = sorted(naming("x"))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "place",
    [
        "reference://x.npz::file:///refs.json",
        "simplecache::s3://bucket/x.npz",
        "zip://x.npz::x.zip",
        "ftp://127.0.0.1/x.npz",
        "github://a:b@c/x",
        "s3://a/b::c",
        "x" * 300,
        "a\0b",
        "\ud83d\ud83d",
        "",
    ],
    ids=lambda place: ascii(place)[1:20],
)
def test_what_is_never_read_has_a_line(tmp_path: Path, way: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", None)  # to call it would fail
    text, line = naming(place)[way]
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=rf"sweep\.yaml:{line}: [a-z]+[a-z.\[\]0-9]*: .+\.$") as caught:
        read_sweep(path)
    assert len(str(caught.value)) < 400 + len(str(path))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero"])
def test_what_is_no_file_is_never_opened(tmp_path: Path, way: str, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    text, line = naming(kind)[way]
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(SpecError, match=rf"sweep\.yaml:{line}: .* is a (named pipe|device); a file or folder"):
        read_sweep(tmp_path / "sweep.yaml")


def test_check_runs_nothing_that_a_reference_file_says(tmp_path: Path) -> None:
    """fsspec 2024.6 to 2026.6 renders templates of such a file, which can call anything."""
    marker = tmp_path / "was-run"
    call = "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}"
    document = {"version": 1, "templates": {"f": call}, "refs": {"x.npz": ["{{f}}", 0, 10]}, "gen": []}
    (tmp_path / "refs.json").write_text(json.dumps(document))
    for way in ("data", "npz", "reference"):
        text, line = naming(f"reference://x.npz::file://{tmp_path}/refs.json")[way]
        (tmp_path / "sweep.yaml").write_text(text)
        done = nagbench("check", tmp_path / "sweep.yaml")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"sweep.yaml:{line}: " in done.stderr
        assert "unknown protocol 'reference'" in done.stderr
        assert "Traceback" not in done.stderr
    assert not marker.exists()


def test_a_planted_plan_names_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker takes the places of data sets from the plan in the store."""
    monkeypatch.setattr(fsspec.core, "url_to_fs", None)
    context = Context(Store(str(tmp_path / "store")), places={"x": f"reference://a::file://{tmp_path}/refs.json"})
    with pytest.raises(ValueError, match="unknown protocol 'reference'"):
        context.place("x")


def test_options_and_sites_go_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec.core, "url_to_fs", None)
    np.savez(tmp_path / "x.npz", arr_0=pixels(6))
    for place in ("reference://x::file:///y", "zip://x", "ftp://127.0.0.1/x", "s3://x::y", ""):
        with pytest.raises(BadInput, match=r"store .*(unknown protocol|joined|empty)"):
            Store(place)
        with pytest.raises(BadInput, match=r"--reference: .*(unknown protocol|joined|empty)"):
            scoring.planned(str(tmp_path / "x.npz"), place, ["pixels"], [])
        assert not _is_there(place)
    with pytest.raises(BadInput, match="over http only single files can be read"):
        Store("https://example.org/store")


def test_a_missing_package_or_cloud_is_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    for place in ("s3://nagbench-no-such-bucket/x", "gs://nagbench-no-such-bucket/x", "http://127.0.0.1:1/x.npz"):
        for way in ("npz", "reference"):
            (tmp_path / "sweep.yaml").write_text(naming(place)[way][0])
            with pytest.raises(EnvironmentProblem, match=place):
                plan(read_sweep(tmp_path / "sweep.yaml"))
    with pytest.raises(EnvironmentProblem, match=r"store gs://.*gcsfs"):
        Store("gs://nagbench-no-such-bucket/x")


def test_published_numbers_that_are_not_there_have_a_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place, words in (("nowhere.yaml", "there is no such file"), ("folder", "this is a directory")):
        (tmp_path / "sweep.yaml").write_text(f"{SWEEP}published: {place}\n")
        with pytest.raises(SpecError, match=rf"sweep\.yaml:14: published: .*{place}: {words}"):
            read_sweep(tmp_path / "sweep.yaml")


def test_content_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(BadInput, match=r"is a (named pipe|device)"):
            content(str(place))
    with pytest.raises(BadInput, match=r"this is a named pipe; give one sweep file"):
        read_sweep(tmp_path / "pipe")


SAME = """\
name: same
networks:
  sit:
    data: {name: npz, path: x.npz}
    model: {name: sit, hidden: 16, depth: 1, heads: 2, patch: 4}
    train: {steps: 4, batch: 8, lr: 1e-2, noise_dropout: 0.2, class_dropout: 0.2}
sampler: {name: euler, steps: 2}
sample: {count: 24, block: 8}
score: {features: [pixels], metrics: [kid], reference: x.npz}
arms:
  plain: {}
"""


def test_one_file_is_both_data_and_reference(tmp_path: Path) -> None:
    """By content they are one thing; the data is read where it lies, the reference is copied into the store."""
    np.savez(tmp_path / "x.npz", arr_0=pixels(32))
    np.savez(tmp_path / "y.npz", arr_0=pixels(32), arr_2=np.zeros(1))
    (tmp_path / "sweep.yaml").write_text(SAME)
    (tmp_path / "other.yaml").write_text(SAME.replace("reference: x.npz", "reference: y.npz"))
    assert listing(str(tmp_path / "x.npz")) == content(str(tmp_path / "x.npz"))
    same = run_here(tmp_path / "sweep.yaml", tmp_path / "store")
    assert same.failed == {}
    other = run_here(tmp_path / "other.yaml", tmp_path / "store2")
    assert metrics(same.document()) == metrics(other.document())


def test_a_file_is_scored_against_itself(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", arr_0=pixels(32))
    done = nagbench(
        *("score", tmp_path / "x.npz", "--reference", tmp_path / "x.npz", "--features", "pixels", "--metrics", "kid"),
        *("--store", tmp_path / "store"),
    )
    assert done.returncode == 0, done.stderr
    assert "kid" in done.stdout
