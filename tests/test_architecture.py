"""The rules of the design that a machine can hold: import order, what starts without torch, file sizes, who prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each file of orchestrator/ imports only from the ones before it.
ORDER = [
    "display",
    "errors",
    "folders",
    "causes",
    "identity",
    "yaml_text",
    "axes",
    "params",
    "contracts",
    "user_code",
    "methods",
    "smoke",
    "sweep",
    "published",
    "networks",
    "scorers",
    "papers",
    "spec",
    "layout",
    "store",
    "tasks",
    "builder",
    "plan",
    "absent",
    "kept",
    "disk",
    "worker",
    "site",
    "snapshot",
    "speeds",
    "retries",
    "backends",
    "bundles",
    "engine",
    "forecast",
    "logs",
    "report",
    "tracking",
    "notebook",
    "starter",
    "export",
    "scoring",
    "doctor",
    "deep",
    "interrupts",
    "streams",
    "environment",
    "outermost",
    "options",
    "app",
    "cluster",
    "ray_jobs",
    "site_doctor",
    "cluster_commands",
    "store_commands",
    "sweep_commands",
    "cli",
]

HEAVY = ["torch", "ray", "mlflow", "submitit", "matplotlib", "scipy", "sklearn", "pandas"]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(path: Path) -> str:
    inside = path.relative_to(ROOT / "orchestrator")
    return inside.parts[0].removesuffix(".py")


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def test_nag_does_not_know_the_orchestrator() -> None:
    for path in sources("nag"):
        assert not {name for name in imports(path) if name.split(".")[0] == "orchestrator"}, path


def test_samplers_do_not_know_guidance() -> None:
    for path in sources("nag/samplers"):
        assert not {name for name in imports(path) if "guidance" in name}, path


@pytest.mark.parametrize(
    "path",
    [p for p in sources("orchestrator") if p.name != "__init__.py" or p.parent.name != "orchestrator"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_imports_go_downwards(path: Path) -> None:
    here = part(path)
    assert here in ORDER, f"{here} has no place in the order"
    for name in imports(path):
        words = name.split(".")
        if words[0] == "orchestrator" and len(words) > 1 and words[1] in ORDER and words[1] != here:
            assert ORDER.index(words[1]) < ORDER.index(here), f"{path} imports {name}"


def test_only_cli_prints() -> None:
    for path in sources("nag") + sources("orchestrator"):
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        prints = [f for f in calls if isinstance(f, ast.Name) and f.id == "print"]
        assert not prints or path.name == "cli.py", path


def test_files_stay_readable() -> None:
    for path in sources("nag") + sources("orchestrator"):
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
        f"from orchestrator.cli import main\nimport sys\nsys.argv = ['nagbench', *{arguments!r}]\nmain()"
    )


def test_every_module_can_be_imported() -> None:
    """Without heavy libraries: importing a file of ours never costs them. (A torch module itself is one of theirs.)"""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sources("nag") + sources("orchestrator")
        if path != ROOT / "nag/models/transformer.py"
    ]
    started_without_torch("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))
