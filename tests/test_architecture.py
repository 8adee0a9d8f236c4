"""The rules that a machine can hold: floors, circles, what starts without torch, file sizes, who prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The rooms of each package, a floor a line, the highest first. A file imports only from its own room and from floors
# below it; rooms of one floor do not know each other.
FLOORS = {
    "orchestrator": [
        "cli",
        "commands",
        "backends",
        "notebook",
        "tracking",
        "report",
        "execution",
        "retention",
        "plan",
        "tasks",
        "spec store",
        "identity",
        "errors",
        "display",
    ],
    "nag": [
        "sampling training checkpoint noise_shift effective_scale",
        "foreign_checkpoints",
        "official_checkpoints samplers guidance",
        "models",
        "step_numbers",
        "losses training_state features",
        "reference_statistics",
        "fidelity_caches",
        "datasets metrics",
        "autoencoders",
        "pretrained estimator",
        "weights",
        "field header preconditions",
        "finite interpolants locations numerics racing agreement",
        "web seeding distributed noise intervals verdict registry hardware search gpu_load",
        "cache heartbeat",
        "whole_file unreachable",
    ],
}

# What runs on a node as `python -m`, and the last words of a process that ends itself: stderr is the log of a job.
SPEAKS = {
    "nag.heartbeat",
    "orchestrator.backends.ray.driver",
    "orchestrator.backends.ray.in_child",
    "orchestrator.backends.ray.job_client",
    "orchestrator.backends.ray.jobs",
    "orchestrator.backends.ray.private",
    "orchestrator.backends.slurm.process",
    "orchestrator.execution.worker",
}

# Files of torch modules, imported when a network is built.
TORCH_MODULES = {f"nag.models.{name}" for name in ("transformer", "adapted_module", "lightning_module")}

HEAVY = ["torch", "ray", "mlflow", "submitit", "matplotlib", "scipy", "sklearn", "pandas"]


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for package in FLOORS for path in sources(package)}


@cache
def statements(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's code."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules that a file imports anywhere, and the names in them."""
    found: set[str] = set()
    for node in statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def room(name: str) -> str:
    """`spec` of orchestrator.spec.grid, "" of a package itself."""
    return name.partition(".")[2].partition(".")[0]


def upwards(here: str, package: str) -> Iterable[str]:
    """What a module imports from its own floor or from one above it."""
    floor = {name: i for i, names in enumerate(reversed(FLOORS[package])) for name in names.split()}
    assert room(here) in floor, f"{here} has no floor"
    for name in sorted(imports(MODULES[here])):
        other = room(name)
        elsewhere = name.partition(".")[0] == package and other in floor and other != room(here)
        if elsewhere and floor[other] >= floor[room(here)]:
            yield f"{here} imports {name}"


@pytest.mark.parametrize("package", FLOORS)
def test_imports_go_downwards(package: str) -> None:
    inside = [name for name in MODULES if name.startswith(f"{package}.")]
    assert len(inside) > 50
    assert [line for name in inside for line in upwards(name, package)] == []


def test_nag_does_not_know_the_orchestrator() -> None:
    for path in sources("nag"):
        assert not {name for name in imports(path) if name.split(".")[0] == "orchestrator"}, path


def test_samplers_do_not_know_guidance() -> None:
    for path in sources("nag/samplers"):
        assert not {name for name in imports(path) if "guidance" in name}, path


def test_no_circle_of_imports() -> None:
    """Wherever they stand: also in functions and for types."""
    edges = {
        name: {other for other in imports(path) if other in MODULES and MODULES[other].name != "__init__.py"}
        for name, path in MODULES.items()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, f"a circle: {' -> '.join((*above[above.index(name) :], name))}"
        if name not in done:
            for other in sorted(edges[name]):
                visit(other, (*above, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_packages_define_nothing() -> None:
    """An `__init__.py` says what the folder is, and may hand names on; two hand them on when they are first asked."""
    for path in (p for p in MODULES.values() if p.name == "__init__.py"):
        body = ast.parse(path.read_text()).body[1:]
        if path.parent.parent == ROOT:
            continue
        assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in body), path


def test_only_commands_print() -> None:
    for path in MODULES.values():
        calls = [node.func for node in statements(path) if isinstance(node, ast.Call)]
        prints = [f for f in calls if isinstance(f, ast.Name) and f.id == "print"]
        streams = [
            f
            for f in calls
            if isinstance(f, ast.Attribute)
            and f.attr == "write"
            and ast.unparse(f.value) in ("sys.stdout", "sys.stderr")
        ]
        speaks = room(module(path)) in ("cli", "commands") or module(path) in SPEAKS
        assert speaks or not (prints or streams), path


def test_files_stay_readable() -> None:
    for path in MODULES.values():
        assert len(path.read_text().splitlines()) <= 400, path
        assert path.stem not in ("utils", "common", "helpers"), path


def started_without_torch(code: str) -> None:
    """Run code in a process in which the heavy libraries cannot be imported."""
    block = f"import sys\nfor name in {HEAVY}: sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["check", "sweeps/digits.yaml"],
        ["status", "sweeps/digits.yaml", "--store", "/nonexistent"],
        ["plan", "sweeps/digits.yaml", "--store", "/nonexistent"],
    ],
    ids=lambda a: a[0],
)
def test_light_commands_import_nothing_heavy(arguments: list[str]) -> None:
    started_without_torch(
        f"from orchestrator.cli import main\nimport sys\nsys.argv = ['nagbench', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    sys.exit(end.code)\n"
    )


def test_sampling_does_not_import_torchs_compiler() -> None:
    """It takes a second or more of each worker, several from a shared file system."""
    code = """
import sys
sys.modules["torch._dynamo"] = None  # to import it fails
import nag
from nag.field import NetworkField
from nag.noise import Noise
model = nag.build("models", "dit", hidden=16, depth=1, heads=2, patch=2, learned_variance=True)
module = model.module((1, 8, 8), 10, null_noise=True).eval()
field = NetworkField(module, nag.build("interpolants", "vp"), "eps", (1, 8, 8), 10, True, True)
guidance = nag.build("guidance", "cfg", scale=2.0), nag.build("guidance", "nag", scale=1.0)
sampler = nag.build("samplers", "ddim", steps=2)
nag.sample(field, sampler, noise=Noise(0, [0, 1], field.shape), labels=[3, 4], guidance=guidance)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_module_can_be_imported() -> None:
    """Without heavy libraries: importing a file of ours never costs them. (A torch module itself is one of theirs.)"""
    names = [name for name in MODULES if name not in TORCH_MODULES]
    started_without_torch("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))
