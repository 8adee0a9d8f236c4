"""Call sbatch, and read the id of the job that it has accepted, whatever else a site prints around it."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading
from pathlib import Path

from orchestrator.backends.slurm.commands import Commands, QueryFailed
from orchestrator.errors import EnvironmentProblem, TransientError

TIMEOUT_S = 300.0
AWAY = r"Unable to contact|Socket timed out|Zero Bytes were|in standby mode|temporarily unavailable|Connection refused"
LIMIT = r"\b(Assoc|QOS)(Grp|Max)SubmitJobs?\w*"  # Slurm's names of limits on how many jobs one may have in the queue
FULL = "sleeping and retrying"  # MaxJobCount is reached; sbatch would try again for two minutes
ID = re.compile(r"(?:Submitted batch job )?(\d+)(?:;[\w.-]+| on cluster [\w.-]+)?")
SAFE = "the same command is safe: it first looks whether the job has arrived"


class Refused(EnvironmentProblem):
    """sbatch rejected a job; the message has its own words."""


class NoRoom(TransientError):
    """The user, or the cluster, has as many jobs as are allowed. It passes when some of them end."""


def sbatch(script: Path, name: str, clusters: str | None = None) -> str:
    """Submit a batch script and return the job's id. name: of the job, to look it up. clusters: that the script names.

    Raises NoRoom, Refused, or TransientError if slurmctld does not answer or the answer has no id.
    """
    code, out, err = _call(["sbatch", "--parsable", str(script)])
    said = words(code, out, err)
    if code:
        if (limit := re.search(LIMIT, f"{out}\n{err}")) or FULL in err:
            raise NoRoom(f"no room in the queue for {name}: {limit[0] if limit else said}")
        if re.search(AWAY, said):
            raise TransientError(f"sbatch refused {name}: {said}; {SAFE}")
        raise Refused(f"sbatch refused {name}: {said}")
    lines = [line.strip() for line in out.splitlines() if line.strip()]
    found = [match[1] for line in lines if (match := ID.fullmatch(line))]
    if len(lines) == 1 and found:
        return found[0]
    known = _by_name(name, clusters)  # the site prints more than the id, and that may have numbers too
    if len(known or found) != 1:
        raise TransientError(f"sbatch accepted {name}, but its answer has no job id ({said}); {SAFE}")
    return (known or found)[0]


def _call(command: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of sbatch. It is ended when it says that it waits for room."""
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": subprocess.PIPE}
        with subprocess.Popen(command, text=True, errors="replace", **pipes) as process:  # type: ignore[call-overload]
            timer = threading.Timer(TIMEOUT_S, process.kill)
            timer.start()
            said = []
            try:
                for line in process.stderr:
                    said.append(line)
                    if FULL in line:
                        process.kill()
                code = process.wait()
                late = not timer.is_alive()
            finally:  # after Ctrl-C this process would wait for the timer
                timer.cancel()
        if late:
            raise TransientError(f"sbatch did not answer in {TIMEOUT_S:g} s; {SAFE}")
        out.seek(0)
        return code, out.read(), "".join(said)


def _by_name(name: str, clusters: str | None) -> list[str]:
    """The ids of the jobs of that name that squeue knows."""
    try:
        rows = Commands(clusters=clusters).queue()
    except QueryFailed:
        return []
    return sorted({row.id.partition("_")[0] for row in rows if row.name == name})


def words(code: int, out: str, err: str) -> str:
    """What a command said: its error messages; without any, its exit code and all that it printed."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    errors = [line.removeprefix("sbatch: error: ") for line in lines if line.startswith("sbatch:")]
    if errors:
        return "; ".join(dict.fromkeys(errors))
    streams = ((name, " ".join(text.split())[-400:]) for name, text in (("stdout", out), ("stderr", err)))
    return f"exit code {code}, " + ", ".join(f"{name} {text!r}" if text else f"{name} empty" for name, text in streams)
