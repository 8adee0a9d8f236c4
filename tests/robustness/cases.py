"""Inputs, the commands that get them, and what may come out.

ROBUSTNESS_SEED chooses the inputs, ROBUSTNESS_TIMES multiplies their number, ROBUSTNESS_ONLY=FAMILY:NUMBER plays one
again, ROBUSTNESS_KEEP is the folder in which failing inputs are left (by default one in the temporary folder).
"""

from __future__ import annotations

import abc
import json
import os
import queue
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("ROBUSTNESS_SEED") or random.SystemRandom().randrange(10**6))
TIMES = float(os.environ.get("ROBUSTNESS_TIMES") or 1)
ONLY = os.environ.get("ROBUSTNESS_ONLY", "")
AT_ONCE = 2
LIMIT_S = 10.0
EXIT_CODES = (0, 1, 2, 3, 130, 141)
MAY_FAIL = (
    "run",
    "report",
    "score",
    "doctor",
)  # their exit code 1 says that cells failed, or that something is missing
LONGEST = 3000  # letters of a message
LIGHT_MB, HEAVY_MB = 1000, 2500  # what a command may take

TRACEBACK = re.compile(
    r"Traceback \(most recent call last\)|Exception ignored in|Error in sys\.excepthook|Fatal Python error|"
    r"^(?:\w+\.)*[A-Z]\w*(?:Error|Exception|Interrupt)(?:: |$)",
    re.MULTILINE,
)
PLACE = re.compile(r"\.(?:yaml|yml|py):\d+: ")
# What is wrong with a file as a whole has no line.
WHOLE = re.compile(
    r"file is empty|no such file|directory|binary file|not UTF-8|is no (?:sweep|site|file)|"
    r"not a (?:sweep|site|regular)|over 1 MB|cannot be (?:read|opened)|too (?:large|long)|"
    r"is a (?:folder|FIFO|pipe|socket|device)"
)


@dataclass
class Step:
    """One command of an input, and what is asked of it beyond the rules for all."""

    argv: list[str]
    named: tuple[str, ...] = ()  # names of files; a refusal (exit code 2) begins with one of them and a line
    limit_s: float = LIMIT_S
    env: dict[str, str | None] = field(default_factory=dict)  # None: unset
    real: bool = False  # a process of its own, from its first import
    stdout: str = ""  # another place for its output than a file: a path, "closed", or "gone" (nobody reads)
    stderr: str = ""  # likewise
    limits: dict[str, int] = field(default_factory=dict)  # RLIMIT_...
    interrupt_s: float | None = None  # Ctrl-C after this time
    undo: str = ""  # MODULE:FUNCTION that does nothing: a check taken away, to see that it is missed
    heavy: bool = False  # it loads torch

    @property
    def name(self) -> str:
        return self.argv[0] if self.argv else ""


@dataclass
class Outcome:
    code: int
    out: str
    err: str
    seconds: float
    cpu_s: float
    memory_mb: float
    hung: bool = False
    left: list[str] = field(default_factory=list)
    logged: str = ""  # a traceback in a log of the user's

    def document(self) -> Any:
        return json.loads(self.out, parse_constant=_not_json)


def _not_json(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


@dataclass
class Case(abc.ABC):
    """One input. `make` writes it below a folder of its own and returns its steps; `judge` has a last word."""

    family: str
    number: int
    words: str  # what was done to what
    folder: Path  # home, temporary files, working directory

    @abc.abstractmethod
    def make(self) -> list[Step]:
        """Write the input; what is to be run on it."""

    def judge(self, outcomes: list[Outcome]) -> list[str]:
        return []

    def files(self) -> list[Path]:
        """What to keep where it fails."""
        return []

    @property
    def name(self) -> str:
        return f"{self.family}:{self.number}"


def stream(family: str, number: int) -> random.Random:
    return random.Random(f"{SEED} {family} {number}")


def numbers(family: str, count: int) -> Iterable[int]:
    if ONLY:
        wanted, _, number = ONLY.partition(":")
        return [int(number)] if wanted == family else []
    return range(max(1, round(count * TIMES)))


def faults(step: Step, outcome: Outcome) -> list[str]:
    """The rules that hold for every command and every input."""
    found = []
    said = outcome.err
    enough = "RLIMIT_DATA" not in step.limits or "MemoryError" not in outcome.logged
    if TRACEBACK.search(said) or (TRACEBACK.search(outcome.logged) and enough):
        return [f"a traceback: {_last(outcome.logged or said)}", *_left(outcome)]
    if outcome.hung:
        found.append(f"still running after {step.limit_s:g} s {_last(said)}")
        return found + _left(outcome)
    if outcome.seconds > step.limit_s and outcome.cpu_s > step.limit_s / 2:
        found.append(f"took {outcome.seconds:.1f} s")
    if outcome.code not in EXIT_CODES:
        found.append(f"exit code {outcome.code}")
    if outcome.code == 1 and step.name not in MAY_FAIL:
        found.append("exit code 1, which is for cells that failed")
    spoken = said + outcome.out * (outcome.code == 1)  # a table or a document says which cells
    muted = step.stderr or (outcome.code == 1 and step.stdout) or step.limits.get("RLIMIT_FSIZE", 10**6) < 10**4
    if outcome.code not in (0, 141) and not spoken.strip() and not muted:
        found.append(f"exit code {outcome.code}, and nothing said")
    if outcome.code == 2 and step.named and (problem := placeless(said, step.named)):
        found.append(f"{problem}: {said[:200]}")
    if len(said) > LONGEST:
        found.append(f"a message of {len(said):,} letters: {said[:100]}")
    hidden = {letter for letter in said + outcome.out if _unseen(letter)}
    if hidden and not step.env.get("FORCE_COLOR"):  # with it, colours are right
        found.append(f"raw control characters in the output: {sorted(hidden)!r}")
    if outcome.code == 0 and "--json" in step.argv and not step.stdout:
        try:
            outcome.document()
        except ValueError as error:
            found.append(f"--json printed no JSON: {error}")
    if outcome.memory_mb > (HEAVY_MB if step.heavy else LIGHT_MB):
        found.append(f"took {outcome.memory_mb:,.0f} MB")
    return found + _left(outcome)


def _left(outcome: Outcome) -> list[str]:
    return [f"left behind: {', '.join(outcome.left)}"] if outcome.left else []


def placeless(said: str, named: tuple[str, ...]) -> str:
    """What is missing of `path:line: what is wrong`; "" if nothing is."""
    first = said.strip().splitlines()[0] if said.strip() else ""
    if not any(name in first for name in named) and not PLACE.search(first):  # it may be in a file that this one names
        return "a message without its file"
    return "" if PLACE.search(first) or WHOLE.search(first) else "a message without its line"


def _unseen(letter: str) -> bool:
    return letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cf", "Cs")


def _last(said: str) -> str:
    """The last line of a traceback of ours, and where it was raised."""
    places = re.findall(r'File "[^"]*?((?:nag|orchestrator)/[^"]+)", line (\d+)', said)
    lines = [line for line in said.splitlines() if TRACEBACK.match(line)]
    place = f" at {places[-1][0]}:{places[-1][1]}" if places else ""
    return (lines[-1] if lines else said.strip()[-200:])[:200] + place


class Server:
    """A process that plays commands in forks of itself."""

    def __init__(self, heavy: bool) -> None:
        self.heavy = heavy
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        words = [sys.executable, "-m", "tests.robustness.server", "heavy" if heavy else "light"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(words, cwd=ROOT, env=env, **pipes)
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n", "the server did not start"

    def play(self, step: Step, folder: Path, number: int) -> Outcome:
        out, err = folder / f"{number}.out", folder / f"{number}.err"
        env = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
        env |= {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        env = {key: value for key, value in (env | step.env).items() if value is not None}
        request = {
            "argv": step.argv,
            "cwd": str(folder / "work"),
            "env": env,
            "stdout": step.stdout or str(out),
            "stderr": step.stderr or str(err),
            "limit_s": step.limit_s,
            "real": step.real,
            "limits": step.limits,
            "interrupt_s": step.interrupt_s,
            "undo": step.undo,
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        texts = [path.read_bytes().decode(errors="replace") if path.exists() else "" for path in (out, err)]
        for path in (out, err):
            path.unlink(missing_ok=True)
        keys = ("code", "seconds", "cpu_s", "memory_mb", "hung", "left")
        outcome = Outcome(out=texts[0], err=texts[1], **{key: answer[key] for key in keys})
        return look_around(outcome, folder)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


def look_around(outcome: Outcome, folder: Path) -> Outcome:
    """What a command has left in its temporary folder, and what it wrote of itself into its home."""
    for path in sorted(each for name in ("home", "tmp") for each in (folder / name).rglob("*")):
        if path.is_file() and path.stat().st_size < 10**6 and b"Traceback (most" in (data := path.read_bytes()):
            outcome.logged = data.decode(errors="replace")
        elif path.is_relative_to(folder / "tmp") and not path.name.startswith("torchinductor_"):  # torch's own cache
            outcome.left.append(str(path.relative_to(folder)))
    for name in ("tmp", "home"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    return outcome


@dataclass
class Failure:
    case: Case
    fault: str
    steps: list[Step]
    outcomes: list[Outcome]


def play_all(cases: Callable[[int], Case], wanted: Iterable[int], heavy: bool) -> tuple[int, list[Failure]]:
    """Play inputs, several at once. Returns how many commands ran, and what failed, in the order of the inputs."""
    todo: queue.Queue[int] = queue.Queue()
    for number in wanted:
        todo.put(number)
    failures: list[Failure] = []
    counts: list[int] = []
    errors: list[BaseException] = []

    def work() -> None:
        server = Server(heavy)
        try:
            while not errors:
                try:
                    case = cases(todo.get_nowait())
                except queue.Empty:
                    return
                counts.append(play(case, server, failures))
        except BaseException as error:  # noqa: BLE001  (raised again where all threads have ended)
            errors.append(error)
        finally:
            server.close()

    threads = [threading.Thread(target=work) for _ in range(min(AT_ONCE, todo.qsize()))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts), sorted(failures, key=lambda failure: failure.case.number)


def play(case: Case, server: Server, failures: list[Failure]) -> int:
    for name in ("home", "tmp", "work"):
        (case.folder / name).mkdir(parents=True, exist_ok=True)
    steps = case.make()
    outcomes = []
    for number, step in enumerate(steps):
        outcomes.append(server.play(step, case.folder, number))
    found = [fault for step, outcome in zip(steps, outcomes, strict=True) for fault in faults(step, outcome)]
    found += case.judge(outcomes)
    for fault in dict.fromkeys(found):
        failures.append(Failure(case, fault, steps, outcomes))
    if found:
        keep(case, found, steps, outcomes)
    shutil.rmtree(case.folder, ignore_errors=True)
    return len(steps)


KEPT = Path(os.environ.get("ROBUSTNESS_KEEP") or Path(tempfile.gettempdir()) / "nagbench-robustness")


def keep(case: Case, found: list[str], steps: list[Step], outcomes: list[Outcome]) -> None:
    folder = KEPT / f"{SEED}-{case.family}-{case.number}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in case.files():
        if path.is_dir():
            shutil.copytree(path, folder / path.name, symlinks=True, ignore=_only_regular, dirs_exist_ok=True)
        elif path.is_file():
            shutil.copyfile(path, folder / path.name)
    lines = [case.words, *found, ""]
    for step, outcome in zip(steps, outcomes, strict=True):
        given = [f"-u {key}" if value is None else f"{key}={shlex.quote(value)}" for key, value in step.env.items()]
        words = f" >{step.stdout}" * bool(step.stdout) + f" 2>{step.stderr}" * bool(step.stderr)
        words += f" ({step.limits})" * bool(step.limits)
        words += f" (Ctrl-C after {step.interrupt_s} s)" * (step.interrupt_s is not None)
        lines.append(f"$ {' '.join(['env', *given])} nagbench {shlex.join(step.argv)}{words}")
        lines.append(f"[{outcome.code}, {outcome.seconds:.1f} s] {outcome.err[-3000:]}{outcome.logged[-3000:]}")
    (folder / "what.txt").write_text("\n".join(lines), errors="replace")


def _only_regular(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not os.path.isdir(p := os.path.join(folder, name)) and not os.path.isfile(p)]


def verdict(played: int, failures: list[Failure]) -> str:
    """What to print where something failed: each fault once, with the input that shows it and how to play it again."""
    kinds: dict[str, list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(_kind(failure.fault), []).append(failure)
    lines = [f"{len(failures)} faults of {len(kinds)} kinds in {played} commands (ROBUSTNESS_SEED={SEED}):"]
    for found in sorted(kinds.values(), key=len, reverse=True):
        first = min(found, key=lambda failure: len(failure.case.words))
        case = first.case
        lines.append(f"  {len(found)} x {first.fault}\n      {case.words}")
        lines.append(f"      input: {KEPT}/{SEED}-{case.family}-{case.number}")
        lines.append(f"      again: ROBUSTNESS_SEED={SEED} ROBUSTNESS_ONLY={case.name} make robustness")
    return "\n".join(lines)


def _kind(fault: str) -> str:
    """Faults that differ in names and numbers only are one."""
    return re.sub(r"\S*/\S+(?=[:\s])|'[^']*'|\"[^\"]*\"|\d+", "…", fault)[:90]


def check(cases: Callable[[int], Case], family: str, count: int, heavy: bool = False) -> None:
    wanted = list(numbers(family, count))
    played, failures = play_all(cases, wanted, heavy)
    print(f"robustness: {family}: {len(wanted)} inputs, {played} commands, seed {SEED}: {len(failures)} faults")  # noqa: T201
    assert not failures, verdict(played, failures)
