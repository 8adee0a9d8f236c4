"""Dockerfile and nagbench.def, as far as they can be tried without Docker and Apptainer: what they copy is copied, what
they install is installed from that copy alone (without its dependencies), and what they start is started.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.spec.reader import read_sweep

ROOT = Path(__file__).parents[1]
PLACE = "/opt/nagbench"


class Image(NamedTuple):
    folder: Path  # what the container has at PLACE
    bin: Path  # its commands
    env: dict[str, str]
    text: str


def copies(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Each source with its destination in the container."""
    if name == "Dockerfile":
        for line in re.findall(r"(?m)^COPY (.*)$", text):
            *sources, target = line.split()
            yield from ((source, target + source if target.endswith("/") else target) for source in sources)
        return
    for line in section(text, "files").strip().splitlines():
        source, target = line.split()  # Apptainer knows pairs only, one a line
        yield source, target


def section(text: str, name: str) -> str:
    return re.search(rf"(?ms)^%{name}\n(.*?)(?=^%|\Z)", text)[1]  # type: ignore[index]


@pytest.fixture(scope="module", params=["Dockerfile", "nagbench.def"])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    tmp = tmp_path_factory.mktemp("image")
    folder, site = tmp / "nagbench", tmp / "site"
    text = (ROOT / request.param).read_text()
    for source, target in copies(request.param, text):
        assert target.startswith(f"{PLACE}/"), target
        to = folder / target.removeprefix(f"{PLACE}/")
        to.parent.mkdir(parents=True, exist_ok=True)
        junk = shutil.ignore_patterns("__pycache__", "store", "*.egg-info")
        shutil.copytree(ROOT / source, to, ignore=junk) if (ROOT / source).is_dir() else shutil.copy(ROOT / source, to)
    installs = [line.split() for line in re.findall(r"(?m)^(?:RUN|\s+) ?pip (install .*)$", text)]
    assert len(installs) == 1
    what = re.fullmatch(r"'(.+)\[(.+)\]'", installs[0][-1])
    assert what
    assert what[1] == PLACE
    extras = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {*what[2].split(",")} <= {*extras}
    options = [*installs[0][:-1], "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", *options, str(folder)], check=True, cwd=tmp)
    env = os.environ | {"PYTHONPATH": str(site), "PATH": f"{site / 'bin'}:{os.environ['PATH']}"}
    return Image(folder, site / "bin", env, text)


def in_it(image: Image, words: list[str], folder: Path) -> str:
    words = [word.replace(PLACE, str(image.folder)) for word in words]
    done = subprocess.run(words, env=image.env, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_starts_the_demonstration(image: Image, tmp_path: Path) -> None:
    """Checked only: the demonstration takes minutes."""
    if "%runscript" in image.text:
        script = section(image.text, "runscript")
        started = re.search(r"set -- (.+?);", script)[1].split()  # type: ignore[index]
        words = ["sh", "-c", script, "runscript"]
    else:
        entry, started = (json.loads(re.search(rf"(?m)^{key} (.*)$", image.text)[1]) for key in ("ENTRYPOINT", "CMD"))  # type: ignore[index]
        words = entry
    assert started == ["run", f"{PLACE}/sweeps/digits.yaml"]
    assert "digits.yaml: good. 15 cells" in in_it(image, [*words, "check", *started[1:]], tmp_path)
    where = in_it(image, [sys.executable, "-c", "import orchestrator; print(orchestrator.__file__)"], tmp_path)
    assert Path(where).is_relative_to(image.bin.parent), "the installed package, and not this checkout"


def test_every_sweep_in_it_is_whole(image: Image) -> None:
    """With the papers' values and the code that it names."""
    sweeps = sorted(image.folder.rglob("sweeps/**/*.yaml"))
    assert len(sweeps) >= len([*ROOT.glob("sweeps/**/*.yaml")]) >= 20
    for path in sweeps:
        read_sweep(path, run_user_code=False)


def test_its_header_names_the_folder_where_it_runs(image: Image) -> None:
    """Results of the demonstration land in the mounted folder."""
    mounts = [words.partition(":")[2] for words in re.findall(r'-v "(\S+)"', image.text)]
    if "WORKDIR" in image.text:
        (folder,) = re.findall(r"(?m)^WORKDIR (.*)$", image.text)
        assert mounts == [folder, folder]
        assert f'docker run --rm -v "$PWD:{folder}" nagbench' in (ROOT / "README.md").read_text()
    else:
        assert not mounts, "Apptainer mounts the current folder by itself"
    for line in re.findall(r"(?:docker|apptainer) (?:run|build) [^&\n]*", image.text):
        assert shlex.split(line.strip(". "))
