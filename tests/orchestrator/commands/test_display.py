"""Text from outside is safe to show."""

from __future__ import annotations

import io
import time

import pytest

from orchestrator.commands.app import Screen
from orchestrator.display import MESSAGE_AT_MOST, address, message, visible
from orchestrator.errors import BadInput, SpecError, unknown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hush@h:5/runs", "postgresql://***@h:5/runs"),
        ("mysql+pymysql://me:hu/s?h@h/runs", "mysql+pymysql://***@h/runs"),
        ("http://me:p@ss@h:5000/a?token=hush&b=1", "http://***@h:5000/a?token=***&b=1"),
        ("https://h/x?X-Amz-Signature=abc&X-Amz-Date=1#f", "https://h/x?X-Amz-Signature=***&X-Amz-Date=1#f"),
        ("see https://t0ken@h/x and s3://key:secret@b/c.", "see https://***@h/x and s3://***@b/c."),
        ("http://[::1]:80/@user", "http://[::1]:80/@user"),
        ("http://h:5000/@user?page=2", "http://h:5000/@user?page=2"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("s3://bucket/a@2/b", "s3://bucket/a@2/b"),
        ("no address, a:b@c", "no address, a:b@c"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert address(text) == shown
    assert str(BadInput(text)) == shown


def test_what_a_terminal_acts_on_is_escaped() -> None:
    assert visible("a\x1b[31m\u202eb\x7f\u200f\u2028é\u00a0漢\n\tc\udcff") == (
        "a\\x1b[31m\\u202eb\\x7f\\u200f\\u2028é\u00a0漢\n\tc\\udcff"
    )
    file = io.StringIO()
    screen = Screen(file=file, force_terminal=True, color_system="standard", width=60)
    screen.print("\x1b]0;title\x07 [red]red[/red] \u202e", markup=True)
    assert "\x1b[31mred" in file.getvalue()  # our own colours stay
    assert "\x1b]0" not in file.getvalue()
    assert "\u202e" not in file.getvalue()


def test_long_values_are_cut() -> None:
    names = [f"name{i}" for i in range(5000)]
    error = SpecError("x.yaml", 3, "a" * 9000, unknown("arm", "b" * 400_000, names))
    assert len(str(error)) <= MESSAGE_AT_MOST
    assert str(error).startswith("x.yaml:3: aaa")
    assert "unknown arm 'bbb" in str(error)
    assert str(error).endswith("and 4,940 more.")
    assert len(message("word " * 100_000)) <= MESSAGE_AT_MOST
    assert message(f"/{'deep/' * 40}file is not there") == f"/{'deep/' * 40}file is not there"


@pytest.mark.parametrize("text", ["a" * 2_000_000, "://" * 300_000, "?token" * 200_000, "x://" + "@:/?" * 200_000])
def test_hostile_text_takes_no_time(text: str) -> None:
    started = time.process_time()
    message(text)
    assert time.process_time() - started < 5


def test_a_notebook_gets_no_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Jupyter kernel sets FORCE_COLOR, and its cells would keep every state of a spinner."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-color")
    said = io.StringIO()
    monkeypatch.setattr("sys.stderr", said)
    err = Screen(stderr=True)
    with err.status("Writing the report..."):
        err.print("written")
    assert said.getvalue() == "written\n"
    monkeypatch.setattr("sys.stdout", said)
    assert Screen().is_terminal, "colours in tables are asked for"
