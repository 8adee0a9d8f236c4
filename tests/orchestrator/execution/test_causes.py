"""Causes of failures, from the errors of any library."""

from __future__ import annotations

import errno

import pytest
import torch

from orchestrator.errors import BadInput, CorruptFile, EnvironmentProblem, NotFinite, TaskError
from orchestrator.execution.failure_causes import cause_in, cause_of


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "device_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB (GPU 0; ...)"), "device_memory"),
        (RuntimeError("CUDA error: out of memory"), "device_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "device_memory"),
        (RuntimeError("HIP out of memory."), "device_memory"),
        (raised_from(TaskError("block 3"), torch.cuda.OutOfMemoryError("CUDA out of memory")), "device_memory"),
        (MemoryError(), "host_memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"), "host_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "host_memory"),
        (RuntimeError("std::bad_alloc"), "host_memory"),
        (FloatingPointError("the loss is nan at step 7"), "not_finite"),
        (NotFinite("the samples are not finite"), "not_finite"),
        (raised_from(TaskError("training"), FloatingPointError("nan")), "not_finite"),
        (BadInput("no such data set"), "bad_input"),
        (TaskError("it cannot be"), "bad_input"),
        (ValueError("bad shape; is it out of memory? no"), "bad_input"),
        (KeyError("x"), "bad_input"),
        (ModuleNotFoundError("No module named 'timm'"), "bad_input"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "node"),
        (RuntimeError("CUDA error: all CUDA-capable devices are busy: device(s) is/are busy or unavailable"), "node"),
        (RuntimeError("Unexpected error from cudaGetDeviceCount(): no CUDA-capable device is detected"), "node"),
        (EnvironmentProblem("the store cannot be written"), "environment"),
        (CorruptFile("a block"), "environment"),
        (OSError(errno.ENOSPC, "No space left on device"), "environment"),
        (OSError(errno.ESTALE, "Stale file handle"), "environment"),
        (ConnectionResetError(), "environment"),
        (TimeoutError(), "environment"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/x"), "died"),  # on this node; a few more tries
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "died"),
        (Exception("?"), "died"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}-{str(value)[:24]}",
)
def test_errors_have_causes(error: Exception, cause: str) -> None:
    assert cause_of(error) == cause


def test_an_error_that_is_its_own_cause_ends() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert cause_of(first) == "died"


def test_a_text_without_words_of_a_cause() -> None:
    assert cause_in("srun: error: n1: task 0: Exited with exit code 3") is None
