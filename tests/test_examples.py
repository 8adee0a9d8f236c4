"""examples/: each sweep runs, also with the checkpoint that its script makes; the notebook runs; the sites plan."""

from __future__ import annotations

import base64
import os
import re
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.ray.settings import RaySettings
from orchestrator.backends.site import read_site
from orchestrator.backends.slurm.queueing import options
from tests.forkserver import context
from tests.orchestrator import forked
from tests.orchestrator.conftest import changed, run_here

ROOT = Path(__file__).parents[1]
SWEEPS = sorted(ROOT.glob("examples/*.yaml"))
SITES = sorted(ROOT.glob("examples/sites/*.yaml"))
SCRIPTS = ("sweeps/train_unet.py", "examples/train_flow.py")
BRIEFLY = ("features: [digits,", "features: [{name: digits, steps: 20},")
FEW = {
    "diffusers_unet": (*BRIEFLY, "count: 1000, block: 250", "count: 20, block: 20"),
    "foreign_checkpoint": (*BRIEFLY, "count: 1000, block: 250", "count: 20, block: 20", "steps: 500", "steps: 2"),
    "digits_small": (*BRIEFLY, "count: 500, block: 250", "count: 20, block: 20", "steps: 500", "steps: 2"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples, with the checkpoints of five training steps."""
    path = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "examples", path / "examples", ignore=shutil.ignore_patterns("results", "*.ckpt"))
    (path / "sweeps").mkdir()
    shutil.copy(ROOT / "sweeps/train_unet.py", path / "sweeps")
    scripts = [context().Process(target=_run, args=(path / name, "5")) for name in SCRIPTS]
    for script in scripts:
        script.start()
        script.join(240)
        assert script.exitcode == 0
    return path


def _run(script: Path, *arguments: str) -> None:
    """As `python SCRIPT ...` does, in this process."""
    os.chdir(script.parents[1])
    sys.argv[:] = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def test_there_is_one_of_each_kind() -> None:
    assert {path.stem for path in SWEEPS} == set(FEW)
    assert {path.stem for path in SITES} == {"slurm_gres", "slurm_whole_nodes", "kuberay"}
    page = (ROOT / "examples/README.md").read_text()
    for path in (*SWEEPS, *SITES, *ROOT.glob("examples/*.ipynb")):
        assert f"]({path.relative_to(ROOT / 'examples').as_posix()})" in page


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_its_header(path: Path) -> None:
    header = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"nagbench run examples/{path.name}" in header
    assert re.search(r"\d+ CPU cores: about \d+ minute", header), "what it costs"
    assert re.search(r"Answer.*\d", header), "what came out"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_runs_small(path: Path, folder: Path) -> None:
    words = ["run", f"examples/{path.name}", "--smoke", "--workers", "1", "--tracking", "none"]
    done = forked.run(words, folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_runs_with_its_own_networks(path: Path, folder: Path, tmp_path: Path) -> None:
    """A smoke run has stand-ins for checkpoints: here they are loaded, for few samples."""
    few = folder / "examples" / path.name
    text = few.read_text()
    few.write_text(changed(text, *FEW[path.stem]))
    ran = run_here(few, tmp_path / "store")
    few.write_text(text)
    assert not ran.failed, ran.failed
    cells = ran.document()["cells"]
    values = [cell["metrics"]["fid"]["value"] for cell in cells]
    assert all(value > 0 for value in values)
    assert len({*values}) == len(cells)


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.stem)
def test_a_sweep_plans_at_its_site(path: Path, tmp_path: Path) -> None:
    words = ["plan", str(ROOT / "sweeps/digits.yaml"), "--site", str(path), "--store", "none"]
    done = forked.run(words, tmp_path)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert ("GPU hours" in done.stdout) == (path.stem != "kuberay")


def _asked(site: Any, stage: str) -> dict[str, Any]:
    given = options(site, "name", site.resources(stage), 1, ())
    return given | given["additional_parameters"]


def test_what_the_sites_ask_for() -> None:
    shared, whole, ray = (
        read_site(str(ROOT / f"examples/sites/{name}.yaml")).settings
        for name in ("slurm_gres", "slurm_whole_nodes", "kuberay")
    )
    sampling = _asked(shared, "sample")
    assert (sampling["account"], sampling["partition"], sampling["gres"]) == ("lab_gpu", "gpu,gpu-long", "gpu:a100:1")
    assert "gres" not in _asked(shared, "score")
    sampling = _asked(whole, "sample")
    assert (sampling["exclusive"], sampling["gpus-per-node"]) == (True, "4")
    assert not {"mem", "gres"} & set(sampling)
    assert whole.command.startswith("--container-image=/lustre/images/nagbench.sqsh --container-mounts=")
    assert whole.command.endswith(" python3")
    assert isinstance(ray, RaySettings)
    assert ray.address is None, "`submit` from anywhere"


@pytest.mark.outside
def test_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs in a fresh kernel, and shows what the committed outputs show: tables, a verdict, pictures."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    few = tmp_path / "digits_small.yaml"
    text = (ROOT / "examples/digits_small.yaml").read_text()
    few.write_text(changed(text, "steps: 500", "steps: 20", "count: 500", "count: 250"))
    committed = nbformat.read(ROOT / "examples/notebook.ipynb", as_version=4)
    assert str(ROOT) not in nbformat.writes(committed)
    fresh = nbformat.from_dict(committed)
    nbclient.NotebookClient(fresh, timeout=240, resources={"metadata": {"path": str(few.parent)}}).execute()
    for notebook in (committed, fresh):
        shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        assert not [output for output in shown if output.output_type == "error"]
        data = [output.data for output in shown if "data" in output]
        text = " ".join(each.get("text/plain", "") for each in data)
        assert "verdict" in text
        assert "digits_small: 3 cells of plain, cfg, nag" in text
        pictures = [base64.b64decode(each["image/png"]) for each in data if "image/png" in each]
        assert len(pictures) == 2
        assert all(picture.startswith(b"\x89PNG") for picture in pictures)
