"""How commands end: by Ctrl-C at any moment, with closed streams, in odd environments, by unexpected errors."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from orchestrator.commands.environment import settle
from orchestrator.commands.interrupts import SENTENCE
from orchestrator.tracking.address import free_port
from tests.orchestrator.conftest import AWAY, Ran, command, nagbench, new_process, started
from tests.orchestrator.execution.test_kills import until

OURS = re.compile(r'outermost\.py", line|cli\.py", line \d+, in _commands')  # where ours has begun


@pytest.fixture
def store(finished: Ran, tmp_path: Path) -> Path:
    shutil.copytree(finished.store.root, tmp_path / "store")
    return tmp_path / "store"


BEGUN = re.compile(r"\| +orchestrator\.commands\.app$", re.M)  # Python tells it of each import, this one within ours


def interrupted(arguments: tuple[str | Path, ...], moments: list[float], times: int = 1) -> None:
    """Send Ctrl-C `times` times, at each of these seconds after the start; later as well if nothing of ours has begun
    by then.
    """
    codes: list[int] = []
    for moment in (*moments, *(moments[-1] * 2**n for n in range(1, 7))):
        if moment > moments[-1] and 130 in codes:
            break
        process = started(*arguments, PYTHONPROFILEIMPORTTIME="1")
        time.sleep(moment)
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.02 if times > 1 else 0)
        out = process.communicate(timeout=200)[0]
        codes.append(process.returncode)
        assert not OURS.search(out), (moment, out)
        assert process.returncode in (0, 130, -signal.SIGINT, 1), (moment, out)
        if process.returncode == 130:
            assert out.count(SENTENCE) == 1, (moment, out)
        elif process.returncode:  # the interpreter itself was starting, so nothing of ours ran
            assert SENTENCE not in out, (moment, out)
            assert not BEGUN.search(out), (moment, out)
    assert 130 in codes


def test_ctrl_c_in_every_tenth_of_the_first_second(write: Callable[..., Path]) -> None:
    interrupted(("check", write()), [moment / 10 for moment in range(10)])


def test_ctrl_c_within_an_exec_is_an_exit_code_too(tmp_path: Path) -> None:
    """Python remembers such a Ctrl-C (@dataclass calls exec), although it was handled, and kills itself at its exit."""
    (tmp_path / "module.py").write_text(
        "import sys\n"
        "from orchestrator.commands.outermost import guard\n"
        "sys.exit(guard(lambda: exec('raise KeyboardInterrupt')))\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    done = subprocess.run([sys.executable, "-m", "module"], capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stderr) == (130, SENTENCE + "\n")


@pytest.mark.parametrize("name", ["plan", "status", "report"])
def test_ctrl_c_twice_in_a_row(name: str, write: Callable[..., Path], store: Path) -> None:
    more = ("--tracking", "none") if name == "report" else ()
    interrupted((name, write(), "--store", store, *more), [0.2, 0.6], times=2)


def test_ctrl_c_many_times_while_workers_are_busy(write: Callable[..., Path], tmp_path: Path) -> None:
    """The first ends the workers and the others change nothing. Finished work stays; nothing is half done."""
    path = write("steps: 8", "steps: 800")
    arguments = ("run", path, "--store", tmp_path / "store", "--tracking", "none", "--device", "cpu", "--workers", "2")
    for busy in ((tmp_path / "store").exists, lambda: list((tmp_path / "store").glob("files/*/checkpoint-*"))):
        process = started(*arguments, "--checkpoint-seconds", "0.1")
        until(busy)
        for _ in range(6):
            process.send_signal(signal.SIGINT)
            time.sleep(0.03)
        out = process.communicate(timeout=200)[0]
        assert process.returncode == 130, out
        assert out.count(SENTENCE) == 1
        assert "Traceback" not in out
    for checkpoint in (tmp_path / "store").glob("files/*/checkpoint-*"):  # whole; gc deletes what has another name
        assert load_file(checkpoint)
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path / "store") not in listed


def shell(line: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`line` in bash, with the command in place of NAGBENCH."""
    words = "set -o pipefail\n" + line.replace("NAGBENCH", shlex.join(command(*arguments)))
    return subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=120, cwd=AWAY)


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("NAGBENCH >&-", 3, "standard output is closed. Redirect it, for example to /dev/null.\n"),
        ("NAGBENCH >/dev/full", 3, "standard output cannot be written: No space left on device. Redirect it.\n"),
        ("NAGBENCH | true", 141, ""),
        ("NAGBENCH 2>&-", 0, ""),
        ("NAGBENCH 2>/dev/full", 0, ""),
        ("NAGBENCH <&- >&- 2>&-", 3, ""),
        ("NAGBENCH <&-", 0, ""),
    ],
)
def test_streams(line: str, code: int, said: str, write: Callable[..., Path]) -> None:
    done = shell(line, "plan", write(), "--store", "none", "--json")
    assert (done.returncode, done.stderr) == (code, said)


def test_streams_of_a_command_that_fails(write: Callable[..., Path], store: Path) -> None:
    assert shell("NAGBENCH 2>&-", "check", "absent.yaml").returncode == 2
    assert shell("NAGBENCH 2>/dev/full", "check", "absent.yaml").returncode == 2
    assert shell("NAGBENCH | true", "--help").returncode == 141
    assert shell("NAGBENCH >/dev/full", "--help").returncode == 3
    done = shell("NAGBENCH 2>&1 | head -1", "plan", write(), "--store", store)
    assert (done.returncode, len(done.stdout.splitlines())) == (141, 1)


def test_what_nobody_foresaw_is_a_sentence_and_a_log(tmp_path: Path, write: Callable[..., Path]) -> None:
    """Here: a broken library."""
    path = write()
    (tmp_path / "sitecustomize.py").write_text("import difflib\ndifflib.get_close_matches = None\n")
    for cache, place in ((tmp_path / "cache", tmp_path / "cache"), (Path("/proc/none"), tmp_path)):
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]),
            "XDG_CACHE_HOME": str(cache),
            "TMPDIR": str(tmp_path),
        }
        done = new_process("plan", path.with_name("absent.yaml"), "--json", env=env)
        assert done.returncode == 3
        said = re.fullmatch(
            r"nagbench has met an unexpected error: TypeError: .*\. The traceback is in (\S+\.log)\.\n",
            done.stderr,
        )
        assert said, done.stderr
        assert json.loads(done.stdout) == {"error": done.stderr.rstrip("\n"), "exit_code": 3}
        log = Path(said[1])
        assert log.is_relative_to(place)
        assert log.stat().st_mode & 0o077 == 0
        assert "Traceback (most recent call last)" in log.read_text()


def test_a_broken_installation_is_a_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['typer'] = None; sys.argv[1:] = ['check', 'x']; import orchestrator.cli as c; c.main()"
    )
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "typer" in done.stderr


def test_wrong_usage_is_a_line_and_json() -> None:
    done = nagbench("check")
    assert (done.returncode, done.stderr) == (
        2,
        "nagbench check: Missing argument 'SWEEP.yaml'. See nagbench check --help.\n",
    )
    done = nagbench("plan", "x.yaml", "--json", "--colour")
    assert done.returncode == json.loads(done.stdout)["exit_code"] == 2


ODD = {
    "MPLBACKEND": "nonsense",
    "SOURCE_DATE_EPOCH": "tomorrow",
    "XDG_CACHE_HOME": "",
    "XDG_CONFIG_HOME": "relative",
    "PATH": "",
    "TMPDIR": "/none",
    "COLUMNS": "0",
    "LC_ALL": "xx_YY",
    "TERM": "nonsense",
    "PYTHONIOENCODING": "ascii",
}


def test_odd_environments_are_harmless(finished: Ran, store: Path, tmp_path: Path) -> None:
    """The report is complete, and the same as always; without a home, or with one that cannot be written."""
    arguments = ("report", finished.plan.sweep.path, "--store", store, "--tracking", "none")
    pages = tmp_path / "store-reports/tiny"
    assert nagbench(*arguments, cwd=tmp_path).returncode == 0
    usual = {file.name: file.read_bytes() for file in pages.rglob("*") if file.is_file()}
    env = {key: value for key, value in os.environ.items() if key != "HOME"} | ODD
    for home in ({}, {"HOME": "/proc"}):
        shutil.rmtree(pages)
        done = new_process(*arguments, cwd=tmp_path, env=env | home)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert {file.name: file.read_bytes() for file in pages.rglob("*") if file.is_file()} == usual
    assert not (tmp_path / "relative").exists()
    assert not (tmp_path / "nagbench").exists()


def test_settled_environment() -> None:
    environ = {
        "HOME": "x", "XDG_DATA_HOME": "y", "XDG_STATE_HOME": "/z", "SOURCE_DATE_EPOCH": "9" * 30, "TMP": "/dev/null",
        "COLUMNS": "-5", "PATH": "/bin", "MPLBACKEND": "tkagg",
    }  # fmt: skip
    settle(environ)
    home = environ.pop("HOME")
    assert os.path.isabs(home)
    assert environ == {"XDG_STATE_HOME": "/z", "PATH": "/bin", "MPLBACKEND": "agg"}
    fine = {"HOME": "/h", "SOURCE_DATE_EPOCH": "0", "COLUMNS": "100", "TMPDIR": "/tmp", "PATH": "/bin"}
    settle(kept := dict(fine))
    assert kept == {**fine, "MPLBACKEND": "agg"}


def test_a_folder_that_is_gone(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "gone").mkdir()
    done = shell(f"cd {tmp_path}/gone && rmdir ../gone && PYTHONPATH={Path.cwd()} NAGBENCH", "check", write())
    assert done.returncode == 3
    assert done.stderr == "the current folder cannot be used: No such file or directory. cd to another one.\n"


def little_space() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


@pytest.mark.parametrize("what", ["zip", "npz", "report", "run", "init"])
def test_no_success_is_claimed_where_the_disk_is_full(
    what: str, finished: Ran, store: Path, write: Callable[..., Path], tmp_path: Path
) -> None:
    """A limit on file sizes acts like a full disk: a write fails in the middle of a file."""
    sweep, cell = finished.plan.sweep.path, finished.plan.cells[0].digest
    more = ("--store", store)
    arguments: tuple[str | Path, ...] = {
        "zip": ("export", sweep, tmp_path / "x.zip", *more),
        "npz": ("export", sweep, tmp_path / "x.npz", "--cell", cell, "--device", "cpu", *more),
        "report": ("report", sweep, "--tracking", f"sqlite:///{tmp_path}/new.db", *more),
        "run": ("run", write("count: 40", "count: 60"), "--tracking", "none", "--device", "cpu", *more),
        "init": ("init", tmp_path / "first.yaml"),
    }[what]  # type: ignore[assignment]
    done = new_process(*arguments, cwd=tmp_path, preexec_fn=little_space)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written: File too large" in done.stderr or "report " in done.stderr
    assert not [file for name in ("x.zip", "x.npz", "first.yaml") for file in tmp_path.glob(f"*{name}*")]


def test_an_export_is_read_back(finished: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that silently loses data, as some do when they are full, is detected."""
    import orchestrator.report.archive as module
    from orchestrator.errors import BadInput, EnvironmentProblem

    class Losing(module.zipfile.ZipFile):
        def close(self) -> None:
            written = self.fp is not None and self.mode == "x"
            super().close()
            if written:
                os.truncate(str(self.filename), 700)

    monkeypatch.setattr(module.zipfile, "ZipFile", Losing)
    with pytest.raises(EnvironmentProblem, match="not what was written"):
        module.export(finished.plan, finished.store, tmp_path / "x.zip")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BadInput, match="exists and is not a file"):
        module.export(finished.plan, finished.store, "/dev/null", force=True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("run", "--site="), 2, "'--site': it is empty"),
        (("status", "--store= "), 2, "'--store' .*: it is empty"),
        (("run", "--cell="), 2, "'--cell': it is empty"),
        (("run", "--device", "cuda:99", "--tracking", "none"), 3, "--device cuda:99: "),
        (("export", "x.zip", "--device", "cuda:99"), 3, "--device cuda:99: "),
        (("score", "--reference", "y", "--device", "cuda:1234"), 3, "--device cuda:1234: "),
        (("score", "--reference", "y", "--device", "gpu"), 2, "--device: unknown device 'gpu'"),
        (("run", "--max-gpu-hours", "nan"), 2, "'--max-gpu-hours'"),
        (("submit", "--max-gpu-hours", "inf"), 2, "'--max-gpu-hours': inf"),
        (("run", "--checkpoint-seconds", "inf"), 2, "'--checkpoint-seconds': inf"),
        (("run", "--here", "--workers", "3", "--tracking", "none"), 2, "--here uses this process alone"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_wrong_options_start_nothing(
    arguments: tuple[str, ...], code: int, said: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    env = os.environ | {"NAGBENCH_STORE": str(tmp_path / "store")}
    done = nagbench(arguments[0], write(), *arguments[1:], env=env, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert sorted(tmp_path.iterdir()) == [tmp_path / "sweep.yaml"]


def test_names_and_logs_do_not_reach_the_terminal_raw(tmp_path: Path, store: Path, finished: Ran) -> None:
    odd = "\x1b]0;title\x07\x1b[31m\u202egnp"
    done = nagbench("check", tmp_path / f"{odd}.yaml")
    assert done.returncode == 2
    assert "\\x1b[31m" in done.stderr
    named = tmp_path / f"{odd}2.yaml"
    named.write_text(Path(finished.plan.sweep.path).read_text())
    for log in (store / "logs").glob("*.log"):
        log.write_text(f"a line\n{odd}\n")
    shown = [done, nagbench("check", named), nagbench("logs", finished.plan.sweep.path, "--store", store)]
    assert not {"\x1b", "\x07", "\u202e"} & set("".join(each.stdout + each.stderr for each in shown))


def test_secrets_are_not_shown(write: Callable[..., Path], tmp_path: Path) -> None:
    tracking = "postgresql://me:hush/x@127.0.0.1:1/runs?sslpassword=hush&x=1"
    done = nagbench("status", write(), "--store", tmp_path / "none", "--tracking", tracking, "--json")
    assert json.loads(done.stdout)["tracking"] == "postgresql://***@127.0.0.1:1/runs?sslpassword=***&x=1"
    gone = f"http://me:hush@127.0.0.1:{free_port(20000)}/?token=hush"
    for uri in (gone, gone.replace("http:", "ftp:"), tracking.replace("postgresql", "mysql+nodriver")):
        for name in ("report", "ui"):
            done = nagbench(name, write(), "--store", tmp_path / "none", "--tracking", uri)
            assert "hush" not in done.stdout + done.stderr, (name, uri)
