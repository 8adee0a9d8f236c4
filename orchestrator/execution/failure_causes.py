"""Why a task failed, in one word that all backends share; orchestrator.execution.retries decides by it.

device_memory   out of GPU memory                   host_memory  out of the machine's memory
not_finite      a network or a training turned NaN  bad_input    it would fail like this every time
node            the machine is broken               environment  a disk, a server: it may recover
timeout         the time limit was reached          preempted    a job of higher priority took its place
cancelled       somebody cancelled it               lost         nothing is known of its end
died            anything else
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.errors import CorruptFile, EnvironmentProblem, NagbenchError, NotFinite

# What libraries write. Order matters: a GPU's allocator before any other.
WORDS = (
    (
        "device_memory",
        r"(CUDA|HIP|MPS backend|GPU) out of memory|OutOfMemoryError|(CUDA|HIP) error: out of memory"
        r"|CU(BLAS|DNN|SPARSE|SOLVER)_STATUS_ALLOC_FAILED",
    ),
    ("host_memory", r"\bMemoryError\b|DefaultCPUAllocator|bad_alloc|[Cc]annot allocate memory"),
    (
        "node",
        r"uncorrectable ECC|fallen off the bus|is/are busy or unavailable|no CUDA-capable device"
        r"|CUDA (driver )?initialization|CUDA unknown error|NVLink error",
    ),
)
EVERY_TIME = (  # mistakes in code or input
    *(ValueError, TypeError, LookupError, AttributeError, NameError),
    *(ImportError, SyntaxError, AssertionError, NotImplementedError, ZeroDivisionError),
)
ELSEWHERE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def cause_of(error: BaseException) -> str:
    """device_memory, host_memory, not_finite, bad_input, node, environment or died."""
    for each in _chain(error):
        if isinstance(each, MemoryError):
            return "host_memory"
        if isinstance(each, FloatingPointError | NotFinite):
            return "not_finite"
        if not isinstance(each, EVERY_TIME) and (cause := cause_in(f"{type(each).__name__}: {each}")):
            return cause
    if isinstance(error, EnvironmentProblem | CorruptFile):
        return "environment"
    if isinstance(error, (NagbenchError, *EVERY_TIME)):
        return "bad_input"
    if isinstance(error, OSError):  # another machine may have the file: worth a few tries
        return "died" if isinstance(error, ELSEWHERE) else "environment"
    return "died"


def cause_in(text: str) -> str | None:
    """The cause that a message of a library points to."""
    return next((cause for cause, pattern in WORDS if re.search(pattern, text)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes (`raise ... from`)."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__
