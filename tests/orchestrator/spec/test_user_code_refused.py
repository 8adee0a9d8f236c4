"""Mistakes in a user's own code (`use:`): one clear message each, and `check` runs none of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import BadInput
from orchestrator.plan.make import plan
from orchestrator.spec.reader import read_sweep
from tests.orchestrator.conftest import TINY
from tests.orchestrator.users_files import GUIDANCE, laid_out


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., str]:
    """`read(guidance_text, use)`: the error of a small sweep with that guidance, or ""."""

    def made(text: str | None, use: str = "use: ./guidance.py:LateNAG, scale: 2", run: bool = True) -> str:
        laid_out(tmp_path, {"sweep.yaml": TINY.replace("plain: {}", f"plain: {{mine: {{{use}}}}}")})
        if text is not None:
            (tmp_path / "guidance.py").write_text(text)
        try:
            plan(read_sweep(tmp_path / "sweep.yaml", run_user_code=run))
        except BadInput as error:
            return str(error).replace(f"{tmp_path}/", "")
        return ""

    return made


def test_check_runs_nothing(read: Callable[..., str], tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nimport no_such_library\n{GUIDANCE}"
    assert read(text, run=False) == ""
    assert not (tmp_path / "ran").exists()
    assert read(text).endswith("guidance.py:2: ModuleNotFoundError: No module named 'no_such_library'.")
    assert (tmp_path / "ran").exists()


AT = "sweep.yaml:11: arms.plain.mine"
LACKS = "lacks terms (a method that returns a tuple of nag.guidance.terms.Term); every class for guidance needs that."
LINE = GUIDANCE.splitlines().index("class LateNAG:") + 1

BAD = [
    (None, f"{AT}.use: guidance.py: there is no such file."),
    ("class LateNAG\n", f"{AT}.use: guidance.py:1: this is not Python: expected ':'."),
    ("x = 1\n" * 3 + "'\n", f"{AT}.use: guidance.py:4: this is not Python: unterminated string literal"),
    (
        GUIDANCE.replace("LateNAG", "LateNag"),
        f"{AT}.use: guidance.py: unknown class 'LateNAG'. Did you mean 'LateNag'?",
    ),
    ("from nag.guidance.nag import NAG as LateNAG\n", f"{AT}.use: guidance.py: unknown class 'LateNAG'. Known: none."),
    (GUIDANCE.replace("def terms", "def term"), f"{AT}.use: guidance.py:{LINE}: it {LACKS}"),
]

BAD_WHEN_RUN = [
    ("from helper import x\n" + GUIDANCE, f"{AT}.use: guidance.py:1: ModuleNotFoundError: No module named 'helper'."),
    ("import sys\nsys.exit(3)\n" + GUIDANCE, f"{AT}.use: guidance.py:2: SystemExit: 3."),
    ("class Odd(BaseException): ...\nraise Odd('no')\n" + GUIDANCE, f"{AT}.use: guidance.py:2: Odd: no."),
    ("raise GeneratorExit\n" + GUIDANCE, f"{AT}.use: guidance.py:1: GeneratorExit: no message."),
    (GUIDANCE.replace("@method", ""), f"{AT}.use: guidance.py: 'LateNAG' is not a method: put @method above it"),
    (GUIDANCE.replace("def terms", "def term").replace("NAG:", "NAG(object):"), f"{AT}.use: it {LACKS}"),
    (
        GUIDANCE.replace('"null_noise"', '"null"'),
        f"{AT}.use: needs of a class for guidance must be a frozenset of null",
    ),
    (
        GUIDANCE.replace("    scale: float", "    scale: float\n    reference: str = 'x'")
        .replace("    off", "    nests: ClassVar[bool] = True\n    off")
        .replace("-self.scale,", "-self.scale, self.reference,"),
        f"{AT}.use: a guidance with nests: True must have terms of the guided network alone.",
    ),
    (
        GUIDANCE.replace("late = ", "late = self.x"),
        f"{AT}.use: guidance.py:17: AttributeError: 'LateNAG' object has no",
    ),
    (GUIDANCE.replace("scale: float", "scale: float\n    w: int"), f"{AT}: 'w' is missing; it is a whole number."),
    (
        GUIDANCE.replace("def terms(self)", "def terms(self, t)"),
        f"{AT}.use: terms is called as terms(), but guidance.py:16 defines it as terms(self, t): missing a required",
    ),
]

BAD_FIELDS = [
    ("use: ./guidance.py:LateNAG, scal: 2", f"{AT}: unknown key 'scal'. Did you mean 'scale'? Known: scale, until."),
    ("use: ./guidance.py:LateNAG, scale: off", f"{AT}.scale: expected a number, got 'off'. Only true and false are"),
    ("use: ./guidance.py:LateNAG", f"{AT}: 'scale' is missing; it is a number."),
    ("use: ./guidance.py, scale: 2", f"{AT}.use: expected a file and a class in it, such as ./mine.py:MyClass, got"),
    ("use: ./guidence.py:LateNAG", f"{AT}.use: guidence.py: there is no such file. Did you mean 'guidance.py'?"),
    ("use: ./folder.py:LateNAG", f"{AT}.use: folder.py: it is a directory."),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_file_is_refused_at_check(read: Callable[..., str], text: str | None, expected: str) -> None:
    for run in (False, True):
        message = read(text, run=run)
        assert message.startswith(expected)
        assert "\n" not in message


@pytest.mark.parametrize(("text", "expected"), BAD_WHEN_RUN)
def test_what_only_running_shows_is_refused_then(read: Callable[..., str], text: str, expected: str) -> None:
    assert read(text, run=False) == ""
    message = read(text)
    assert message.startswith(expected)
    assert "\n" not in message


@pytest.mark.parametrize(("use", "expected"), BAD_FIELDS)
def test_bad_fields_and_paths(read: Callable[..., str], tmp_path: Path, use: str, expected: str) -> None:
    (tmp_path / "folder.py").mkdir()
    assert read(GUIDANCE, use).startswith(expected)
