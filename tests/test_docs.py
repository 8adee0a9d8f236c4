"""Every command of the README and of docs/ runs, every file that they name exists, and every method is in a table."""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from docs import reference
from nag.numerics import Precision
from nag.registry import METHODS, find
from nag.training import Training
from orchestrator.cli import COMMANDS
from orchestrator.spec import networks, reader, score_section
from orchestrator.spec.decision import COMPARE_KEYS
from orchestrator.spec.model import Sample, Tune
from orchestrator.spec.reader import read_sweep
from tests.orchestrator import forked

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in FILES}
README = PAGES["README.md"]


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", page, re.S)
    return [line.split("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.S)


def shown_files(page: str) -> dict[str, str]:
    """The blocks that begin with `# FILE`: whole files."""
    texts = [*blocks(page, "yaml"), *blocks(page, "python")]
    return {found[1]: text for text in texts if (found := re.match(r"# (\w+\.(?:yaml|py))\n", text))}


def test_the_two_commands() -> None:
    assert {"make demo", "make test"} <= {*commands(README)}
    for target in ("demo", "test", "lint"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_nothing_else_is_promised() -> None:
    """Every line of a block is a nagbench command or a known other one."""
    for line in [line for page in PAGES.values() for line in commands(page)]:
        words = line.split()
        if words[:3] == ["python3", "-m", "venv"]:
            continue
        if words[:2] == ["python", "-m"]:
            module = ROOT / words[2].replace(".", "/")
            assert module.is_dir() or module.with_suffix(".py").is_file(), line
            continue
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), line
            continue
        assert words[0] in ("nagbench", "make", "pip", "source", "docker", "apptainer"), line


SMOKED = ("run", "plan", "status", "report", "check", "logs", "export", "du")
ELSEWHERE = (  # tested in tests/orchestrator, `ui` with a real server; on a real cluster in tests/slurm
    "nagbench ui",
    "nagbench compare",
    "nagbench submit",
    "nagbench cancel",
    "nagbench doctor",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sweeps, in which the pages' commands are run one after the other."""
    path = tmp_path_factory.mktemp("docs")
    for name in ("sweeps", "sites"):
        (path / name).symlink_to(ROOT / name)
    return path


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if "\nnagbench " in page])
def test_every_command_runs(name: str, folder: Path) -> None:
    """In the page's order, with the files that the page shows. `run` is a smoke run here: CI runs the demonstration."""
    for file, text in shown_files(PAGES[name]).items():
        (folder / file).write_text(text)
    for line in commands(PAGES[name]):
        if not line.startswith("nagbench ") or line.startswith(ELSEWHERE):
            continue
        words = shlex.split(line)[1:]
        if words[0] in SMOKED:
            words.append("--smoke")
        if words[0] == "run":
            words += ["--workers", "1"]
        done = forked.run(words, folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_every_file_is_there() -> None:
    for page, text in PAGES.items():
        for name in re.findall(r"\]\(([^)#]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
            if "://" not in name:
                assert ((ROOT / page).parent / name).exists(), (page, name)
    tree = re.search(r"```text\n(nag/.*?)```", PAGES["docs/architecture.md"], re.S)
    assert tree
    folder = ""
    for line in tree[1].splitlines():
        found = re.match(r"( *)([\w./]+)", line)
        if not found:
            continue
        indent, name = found.groups()
        if not indent:
            folder = name
        path = ROOT / (name if not indent else folder + name)
        assert path.exists(), path


def test_the_sweep_of_the_readme_is_the_demonstration(tmp_path: Path) -> None:
    """Without its measures."""
    (block,) = [text for text in blocks(README, "yaml") if text.startswith("name: digits")]
    (tmp_path / "digits.yaml").write_text(block)
    shown, real = read_sweep(tmp_path / "digits.yaml"), read_sweep(ROOT / "sweeps/digits.yaml")
    assert (shown.tune, shown.compare, shown.score) == (real.tune, real.compare, real.score)
    assert [arm.name for arm in shown.arms] == [arm.name for arm in real.arms]
    assert [cell.params for cell in shown.cells] == [cell.params for cell in real.cells]


@pytest.mark.parametrize(
    "family", ["models", "interpolants", "samplers", "guidance", "features", "metrics", "datasets"]
)
def test_every_method_is_in_the_table(family: str) -> None:
    shown = {name for name in METHODS[family] if name != "made_up"}  # the stand-in of smoke runs
    missing = [name for name in shown if f"`{name}`" not in PAGES["docs/sweep.md"]]
    assert not missing


def test_every_guidance_is_in_the_table_of_its_page() -> None:
    table = {line.split("`")[1] for line in PAGES["docs/guidance.md"].splitlines() if line.startswith("| `")}
    assert table == set(METHODS["guidance"])


KEYS = reference.sweep_keys()


def section(heading: str) -> str:
    """What stands below a heading, without what stands below the headings in it."""
    found = re.search(rf"(?ms)^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", KEYS)
    assert found, heading
    return found[1]


def rows(heading: str) -> dict[str, list[str]]:
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section(heading).splitlines() if line.startswith("| `")]
    return {key.strip(" `"): [cell.strip() for cell in others] for key, *others in cells}


def test_every_key_of_a_sweep_is_on_the_page_of_keys() -> None:
    of_networks = (*networks.TRAINED, *networks.TUNED, *networks.LOADED, *networks.FOREIGN)
    wanted = {
        "Top level": reader.SWEEP_KEYS,
        "A network: `networks.NAME`": of_networks,
        "An arm: `arms.NAME`": reader.ARM_KEYS,
        "`score`": score_section.KEYS,
        "`compare`": COMPARE_KEYS,
        "`train`": [field.name for field in dataclasses.fields(Training)],
        "`sample`": [field.name for field in dataclasses.fields(Sample)],
        "`tune`": [field.name for field in dataclasses.fields(Tune)],
        "`precision`": [field.name for field in dataclasses.fields(Precision)],
    }
    for heading, keys in wanted.items():
        shown = rows(heading)
        assert {*keys} == {*shown}
        for key, (value, _, what) in shown.items():
            assert value, (heading, key)
            assert what, f"{heading}: {key} is not explained: its class's docstring, or key_descriptions.py"


@pytest.mark.parametrize("family", METHODS)
def test_every_method_of_the_registry_is_on_the_page_of_keys(family: str) -> None:
    """With each field, its type, its default and a line on what it is."""
    heading, _ = reference.FAMILIES[family]
    whole = re.search(rf"(?ms)^## {heading}\n(.*?)(?=^## |\Z)", KEYS)
    assert whole
    for name in METHODS[family].keys() - reference.HIDDEN:
        assert f"### `{name}`" in whole[1]
        fields = dataclasses.fields(find(family, name))
        for field in fields:
            assert f"| `{field.name}` | " in whole[1], (name, field.name)
            assert reference.about(find(family, name), field.name), (
                f"{name}: its docstring says nothing of {field.name}"
            )


def test_every_command_and_option_is_on_the_page_of_commands() -> None:
    page = reference.command_options()
    assert re.findall(r"(?m)^### `(\w+)`$", page) == [*COMMANDS]
    for line in page.splitlines():
        if line.startswith("| `"):
            assert line.split("|")[-2].strip(), f"no help text: {line}"
    assert "| `--max-gpu-hours` |" in page


def test_the_parts_that_are_made_have_their_places() -> None:
    places = [name for page in PAGES.values() for name in re.findall(r"<!-- generated: ([\w ]+) -->", page)]
    assert sorted(places) == sorted(reference.GENERATED)
    causes = reference.failure_table()
    assert all(f"| `{cause}` |" in causes for cause in ("device_memory", "not_finite", "died", "lost", "cancelled"))


def test_every_page_is_in_the_contents_of_the_site() -> None:
    shown = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert shown["strict"] is True
    assert shown["theme"]["font"] is False
    listed = re.findall(r"[\w/]+\.md", str(shown["nav"]))
    made = {"index.md", "contributing.md", "vulnerabilities.md", "changes.md"}  # docs/hooks.py
    assert {*listed} - made == {name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")}
    assert len(listed) == len({*listed})


def test_the_messages_that_are_explained_are_those_of_the_code() -> None:
    code = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for folder in ("nag", "orchestrator")
        for path in ROOT.glob(f"{folder}/**/*.py")
    )
    table = PAGES["docs/how_to/failures.md"].partition("## By message")[2].partition("##")[0]
    messages = re.findall(r"(?m)^\| `([^`]+)` \|", table)
    assert len(messages) > 10
    missing = [message for message in messages if message not in code]
    assert not missing


def test_the_readme_is_one_screen_and_a_half() -> None:
    assert len(README.splitlines()) <= 150
    assert all(path.stat().st_size < 150_000 for path in (ROOT / "docs").glob("*.png"))


def test_the_networks_of_the_readme_are_those_of_the_example(tmp_path: Path) -> None:
    """And what it says of null conditions is so: `check` takes its arms. The checkpoint itself is not needed."""
    (block,) = [text for text in blocks(README, "yaml") if text.startswith("networks:")]
    (tmp_path / "unet.py").symlink_to(ROOT / "sweeps/unet.py")
    rest = "name: own\nsampler: {name: ddim, steps: 10}\nsample: {count: 100, block: 100}\narms:\n"
    arms = "  cfg: {network: unet, cfg: {scale: 1.5}}\n  nag: {network: ready, nag: {scale: 1.0}}\n"
    (tmp_path / "own.yaml").write_text(rest + arms + block)
    shown, real = read_sweep(tmp_path / "own.yaml"), read_sweep(ROOT / "sweeps/your_network.yaml")
    for name in ("unet", "ready"):
        mine, theirs = (
            next(cell.network for cell in sweep.cells if cell.network.name == name) for sweep in (shown, real)
        )
        assert (mine.predicts, mine.interpolant, mine.convention) == (
            theirs.predicts,
            theirs.interpolant,
            theirs.convention,
        )


def test_every_piece_of_yaml_has_keys_of_a_sweep() -> None:
    for name, page in PAGES.items():
        for text in blocks(page, "yaml"):
            keys = yaml.safe_load(text)
            assert keys.keys() <= {*reader.SWEEP_KEYS, "data", "large"}, (name, text)
