"""Published files, by path or URL: reference statistics and weights."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from nag.pretrained import DINOV2, INCEPTION, KNOWN, MAE_L, PYTORCH_FID
from nag.registry import build
from orchestrator.errors import BadInput, EnvironmentProblem
from orchestrator.plan.make import plan
from orchestrator.spec.deep_check import check_inputs
from orchestrator.spec.reader import read_sweep
from orchestrator.tasks.context import Context
from orchestrator.tasks.reference import ReferenceArrays
from tests.nag.inception_file import network, save
from tests.orchestrator.conftest import nagbench, run_here
from tests.orchestrator.made_images import FOLDER, adm_file, low_rank_distance, moments, picture_folder, pixels, written


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(network(), tmp_path_factory.mktemp("inception") / "inception.pt")


@pytest.fixture(scope="module")
def adm(inception: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray], np.ndarray]:
    """A file like ADM's, of 20 images, and its contents."""
    images = pixels(20, 16, seed=5)
    extract = build("features", "inception", weights=str(inception), mode="legacy_tensorflow").open()
    given = extract(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    outputs = {name: tensor.numpy() for name, tensor in given.items()}
    return adm_file(tmp_path_factory.mktemp("adm") / "VIRTUAL.npz", images, outputs), outputs, images


def against(inception: Path, file: object, metrics: str, mode: str = "legacy_tensorflow") -> str:
    """The score section of a sweep on Inception against a published file."""
    features = f"{{name: inception, weights: {inception}, mode: {mode}}}"
    return f"features: [{features}], metrics: [{metrics}], reference: {file}"


SCORE = "features: [pixels], metrics: [kid]"
FROM_FILE = """\
name: from_file
networks:
  net: {checkpoint: net.safetensors}
sampler: {name: euler, steps: 2}
sample: {count: 20, block: 10}
score: {SCORE}
arms:
  plain: {}
"""


def test_adms_file(inception: Path, adm: tuple[Path, dict[str, np.ndarray], np.ndarray], tmp_path: Path) -> None:
    """Moments as the file has them, rows of its images by the same network; content, not place, is the identity."""
    picture_folder(tmp_path / "data")
    file, outputs, _ = adm
    path = written(tmp_path, FOLDER, SCORE, against(inception, file, "fid, kid, inception_score"))
    ran = run_here(path, tmp_path / "store")
    assert not ran.failed
    cell = ran.document()["cells"][0]
    assert cell["metrics"].keys() == {"fid", "kid", "inception_score"}  # nothing is held out of a published file
    planned = ran.plan.cells[0]
    blocks = [ran.store.read_arrays(f"blocks/{planned.extracts[0]}/{n:06d}.safetensors")[0] for n in range(3)]
    samples = np.concatenate([block["features"] for block in blocks])
    assert cell["metrics"]["fid"]["value"] == pytest.approx(low_rank_distance(samples, outputs["features"]), rel=1e-6)
    stamp = cell["stamps"]["fid"]
    held = ReferenceArrays(Context(ran.store, tasks=dict(ran.plan.tasks)), stamp["reference"])
    np.testing.assert_allclose(held["mean"], outputs["features"].mean(axis=0, dtype=np.float64), rtol=1e-12)
    assert held["mean_spatial"].shape == (2023,)
    np.testing.assert_allclose(held["features"], outputs["features"], rtol=1e-4, atol=1e-5)
    assert (stamp["reference_size"], cell["stamps"]["kid"]["reference_size"]) == (None, 20)
    moved = tmp_path / "moved.npz"
    moved.write_bytes(file.read_bytes())
    other = plan(read_sweep(written(tmp_path, path.read_text(), str(file), "moved.npz", name="other.yaml")))
    assert other.tasks.keys() == ran.plan.tasks.keys()
    assert stamp["reference_content"] in ran.store.list("assets")
    shown = "\n".join(check_inputs(read_sweep(path)))
    told = "score.reference: moments of features (2,048), moments of spatial (2,023), 20 images 16 x 16, "
    assert told + stamp["reference_content"] in shown
    assert "score.features: inception gives features (2,048), logits (1,008), spatial (2,023)" in shown


LEGACY = "inception with mode: legacy_tensorflow"
NO_IMAGES = "has moments and no images (arr_0), and"


@pytest.mark.parametrize(
    ("name", "mode", "metrics", "message"),
    [
        (
            "moments.npz",
            "",
            "kid",
            f"'kid' on 'inception': moments.npz {NO_IMAGES} this metric compares images one by one; give a file with "
            "images, as ADM's reference batches are, or a data set, {name: image_folder, path: ...}.",
        ),
        ("moments.npz", "", "precision_recall", f"'precision_recall' on 'inception': moments.npz {NO_IMAGES} this"),
        (
            "plain.npz",
            "",
            "fid",
            f"plain.npz {NO_IMAGES} they are of an unknown mode of inception (write reference: {{path: ..., mode: "
            f"...}}), not of {LEGACY}; give a file with images",
        ),
        ("cifar10_clean_train.npz", "", "fid", f"they are of inception with mode: clean, not of {LEGACY}; give a file"),
        ("plain.npz", "legacy_tensorflow", "sfid", f"'sfid' on 'inception': plain.npz {NO_IMAGES} none of spatial; "),
        ("other.npz", "", "fid", "other.npz has neither mu and sigma nor images (arr_0); it has x."),
        ("floats.npz", "", "fid", "floats.npz: arr_0 is float64 (2, 3); images are uint8 (N, H, W, 3)."),
        ("cut.npz", "", "fid", "cut.npz is not a valid .npz file"),
    ],
)
def test_a_file_that_cannot_be_held_against(
    adm: tuple[Path, dict[str, np.ndarray], np.ndarray],
    inception: Path,
    tmp_path: Path,
    name: str,
    mode: str,
    metrics: str,
    message: str,
) -> None:
    """Found when the sweep is read, with line and fix."""
    picture_folder(tmp_path / "data")
    _, outputs, images = adm
    adm_file(tmp_path / "moments.npz", images, outputs, with_images=False)
    for plain in ("plain.npz", "cifar10_clean_train.npz"):
        adm_file(tmp_path / plain, images, {"features": outputs["features"]}, with_images=False)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "floats.npz", arr_0=np.zeros((2, 3)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "plain.npz").read_bytes()[:100])
    file = f"{{path: {name}, mode: {mode}}}" if mode else name
    path = written(tmp_path, FOLDER, SCORE, against(inception, file, metrics))
    with pytest.raises(BadInput) as caught:
        read_sweep(path)
    assert message in str(caught.value)
    assert f"{path}:9: score.reference" in str(caught.value)


def test_what_moments_alone_can_do(
    adm: tuple[Path, dict[str, np.ndarray], np.ndarray], inception: Path, tmp_path: Path
) -> None:
    picture_folder(tmp_path / "data")
    _, outputs, images = adm
    adm_file(tmp_path / "moments.npz", images, outputs, with_images=False)
    path = written(
        tmp_path, FOLDER, SCORE, against(inception, "moments.npz", "fid, sfid, fid_infinity, inception_score")
    )
    planned = plan(read_sweep(path))
    assert len(planned.cells[0].scores) == 4
    copies = written(
        tmp_path, FOLDER, SCORE, against(inception, "moments.npz", "fid, memorisation"), name="copies.yaml"
    )
    score = plan(read_sweep(copies)).cells[0].scores[1]  # the training images are here
    assert score.metric.names == ("memorisation",)
    ran = run_here(path, tmp_path / "store")
    network = next(digest for digest, task in ran.plan.tasks.items() if task.kind == "train")
    (tmp_path / "net.safetensors").write_bytes(ran.store.read(f"files/{network}/network.safetensors"))
    text = FROM_FILE.replace("SCORE", against(inception, "moments.npz", "fid, memorisation"))
    with pytest.raises(
        BadInput, match=r"score: 'memorisation' on 'inception': network 'net' has no images, and moments"
    ):
        read_sweep(written(tmp_path, text, name="from_file.yaml"))
    named = written(
        tmp_path, FOLDER, SCORE, against(inception, "{path: moments.npz, mode: clean}", "fid", mode="clean")
    )
    assert plan(read_sweep(named)).cells


def test_moments_of_other_dimensions_name_the_file(inception: Path, tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    small = {"features": np.random.default_rng(0).normal(size=(50, 16))}
    adm_file(tmp_path / "x_legacy_tensorflow.npz", pixels(1), small, with_images=False)
    path = written(tmp_path, FOLDER, SCORE, against(inception, "x_legacy_tensorflow.npz", "fid"))
    with pytest.raises(BadInput) as caught:
        read_sweep(path)
    words = "mu has 16 dimensions, the extractor's features 2048; it is of another extractor."
    file = f"{tmp_path}/x_legacy_tensorflow.npz"
    assert str(caught.value) == f"{path}:9: score.reference: 'fid' on 'inception': {file}: {words}"


def test_a_cache_of_torch_fidelity_is_a_reference(inception: Path, tmp_path: Path) -> None:
    """Its name says which Inception it is of; the numbers are those of the same moments in an .npz file."""
    picture_folder(tmp_path / "data")
    rows = np.random.default_rng(0).normal(size=(40, 2048))
    mean, cov = moments(rows)
    torch.save({"mu": mean, "sigma": cov}, tmp_path / "ours-inception-v3-compat-fid-2048.pt")
    np.savez(tmp_path / "x_legacy_tensorflow.npz", mu=mean, sigma=cov, N=40)
    values = []
    for number, file in enumerate(("ours-inception-v3-compat-fid-2048.pt", "x_legacy_tensorflow.npz")):
        path = written(tmp_path, FOLDER, SCORE, against(inception, file, "fid"), name=f"{number}.yaml")
        ran = run_here(path, tmp_path / "store")
        assert not ran.failed
        values.append(ran.document()["cells"][0]["metrics"]["fid"]["value"])
    assert values[0] == values[1] > 0
    shown = "\n".join(check_inputs(read_sweep(path)))
    assert "score.reference: moments of features (2,048), of 40 images, " in shown


def test_other_extractors_use_the_images_of_a_file(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    adm_file(tmp_path / "images.npz", pixels(30, seed=3), None)
    ran = run_here(written(tmp_path, FOLDER, "[kid]", "[kid, fid], reference: images.npz"), tmp_path / "store")
    assert not ran.failed
    stamps = ran.document()["cells"][0]["stamps"]
    assert (stamps["fid"]["reference_size"], stamps["kid"]["reference_size"]) == (30, 30)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of the test's folder on 127.0.0.1, and the requests that it got."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_file_at_a_url_is_fetched_once(tmp_path: Path, served: tuple[str, list[str]]) -> None:
    """`check` and `status` download nothing; its identity is that of a local copy."""
    picture_folder(tmp_path / "data")
    adm_file(tmp_path / "images.npz", pixels(30, seed=3), None)
    url, asked = served
    path = written(tmp_path, FOLDER, "[kid]", f"[kid], reference: {url}/images.npz")
    checked = nagbench("check", path)
    assert (checked.returncode, asked) == (0, []), checked.stderr
    planned = plan(read_sweep(path))
    again = plan(read_sweep(path))
    assert asked == ["/images.npz"]
    here = plan(read_sweep(written(tmp_path, FOLDER, "[kid]", "[kid], reference: images.npz", name="here.yaml")))
    assert planned.tasks.keys() == again.tasks.keys() == here.tasks.keys()
    with pytest.raises(
        EnvironmentProblem, match=r"the reference http://127.0.0.1:\d+/nowhere.npz cannot be downloaded: .*404"
    ):
        plan(read_sweep(written(tmp_path, FOLDER, "[kid]", f"[kid], reference: {url}/nowhere.npz", name="no.yaml")))


def test_a_file_at_an_fsspec_url(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    adm_file(
        tmp_path / "m.npz", pixels(3), {"features": np.random.default_rng(0).normal(size=(9, 4))}, with_images=False
    )
    with fsspec.open("memory://evaluation/m.npz", "wb") as file:
        file.write((tmp_path / "m.npz").read_bytes())
    path = written(tmp_path, FOLDER, "[kid]", "[kid], reference: memory://evaluation/m.npz")
    found = read_sweep(path)  # what is in it is not known yet
    with pytest.raises(BadInput, match=r"score.reference: 'kid': m.npz has moments and no images"):
        plan(found)
    with pytest.raises(BadInput, match=r"sweep.yaml:9: score.reference: 'kid' on 'pixels'"):
        read_sweep(path)  # now it is here
    with pytest.raises(BadInput, match=r"no.yaml:9: score.reference: 'nosuch://x/y.npz': unknown protocol 'nosuch'"):
        read_sweep(written(tmp_path, FOLDER, "[kid]", "[kid], reference: nosuch://x/y.npz", name="no.yaml"))


def test_missing_weights_are_said_before_anything_runs(tmp_path: Path) -> None:
    picture_folder(tmp_path / "data")
    path = written(tmp_path, FOLDER, "[pixels]", "[{name: inception, mode: legacy_pytorch}, dinov2]")
    with pytest.raises(
        BadInput, match=r"pt_inception-2015-12-05-6726825d.pth is not in .*: run 'nagbench fetch pt_incep"
    ):
        list(check_inputs(read_sweep(path)))
    ran = nagbench("run", path, "--store", tmp_path / "store", "--tracking", "none", "--here")
    assert ran.returncode == 2
    assert "nagbench fetch pt_inception-2015-12-05-6726825d.pth" in ran.stderr
    doctor = nagbench("doctor", path, "--store", tmp_path / "store", "--tracking", "none", "--json")
    rows = [row for row in json.loads(doctor.stdout)["rows"] if row["name"] == "weights"]
    needed = {row["detail"].split()[0] for row in rows if row["needed"]}
    assert needed == {"pt_inception-2015-12-05-6726825d.pth", "dinov2_vitl14_pretrain.pth"}
    assert doctor.returncode == 3


def test_fetch_says_what_is_known_and_what_went_wrong(
    tmp_path: Path, served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real weights are at https; a broken proxy acts like a network without access."""
    monkeypatch.setenv("https_proxy", served[0])
    monkeypatch.delenv("no_proxy", raising=False)
    listed = nagbench("fetch")
    assert listed.returncode == 0
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert [*lines] == [*KNOWN]
    unchecked = {name for name, line in lines.items() if "size and hash not known from https://" in line}
    assert unchecked == {*KNOWN} - {INCEPTION, PYTORCH_FID, DINOV2}
    cached = tmp_path / "cache" / "nagbench" / "weights" / MAE_L
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(b"anything")
    there = nagbench("fetch", MAE_L)
    assert (there.returncode, there.stdout.strip()) == (0, str(cached))
    told = "size and hash not known; a download is checked only if its server tells a hash"
    assert f"{MAE_L}: {told}" in " ".join(there.stderr.split())
    cached.unlink()
    unknown = nagbench("fetch", "inception.pt")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "'inception.pt' is not a known name of weights; known: " in unknown.stderr
    away = nagbench("fetch", PYTORCH_FID)
    assert (away.returncode, away.stdout) == (3, "")
    place = tmp_path / "cache" / "nagbench" / "weights" / PYTORCH_FID
    assert f"Where there is no network, put that file at {place} by hand." in " ".join(away.stderr.split())
    assert list(place.parent.iterdir()) == []
