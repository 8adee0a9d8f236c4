"""Why a task ended badly, in one word that all backends share; orchestrator.execution.retries decides by it.

device_memory   the GPU's memory was not enough     host_memory  nor was the machine's
not_finite      a network or a training turned NaN  bad_input    it would end like this every time
node            the machine is broken               environment  a disk, a server: it may pass
timeout         its time limit came                 preempted    others needed the machine more
cancelled       somebody ended it                   lost         nobody knows what became of it
died            anything else
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.errors import CorruptFile, EnvironmentProblem, NagbenchError, NotFinite

# What libraries write. Order matters: the words of a GPU's allocator before those of any.
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
        if not isinstance(each, EVERY_TIME) and (found := cause_in(f"{type(each).__name__}: {each}")):
            return found
    if isinstance(error, EnvironmentProblem | CorruptFile):
        return "environment"
    if isinstance(error, (NagbenchError, *EVERY_TIME)):
        return "bad_input"
    if isinstance(error, OSError):  # a file that is not there may be there on another machine: tried a few times
        return "died" if isinstance(error, ELSEWHERE) else "environment"
    return "died"


def cause_in(text: str) -> str | None:
    """The cause that the words of a library name."""
    return next((cause for cause, pattern in WORDS if re.search(pattern, text)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__
