"""The version: on the command line, and of both packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import nag
import orchestrator
from tests.orchestrator.conftest import nagbench


def test_the_command_says_its_version() -> None:
    done = nagbench("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"nagbench {version('nagbench')}\n", "")


def test_the_packages_say_their_version() -> None:
    assert orchestrator.__version__ == nag.__version__ == version("nagbench")


def test_importing_a_package_does_not_look_for_its_version() -> None:
    code = "import sys, nag, orchestrator; sys.exit('importlib.metadata' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path = {sys.path!r}; {code}"]).returncode
        == 0
    )


def test_usage_errors_and_help_are_as_without_it() -> None:
    wrong = nagbench("--versoin")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("nagbench: No such option: --versoin")
    assert wrong.stderr.endswith("See nagbench --help.\n")
    assert nagbench("nothing").stderr == "nagbench: No such command 'nothing'. See nagbench --help.\n"
    said = nagbench("--help").stdout
    assert "Does this guidance method beat the others" in said
    assert "Print the version." in said
