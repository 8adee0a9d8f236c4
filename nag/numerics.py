"""Numerical precision of networks. It changes samples, so it is part of a stream's digest."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Literal

from nag.registry import method

DType = Literal["float32", "bfloat16"]


@contextlib.contextmanager
def arithmetic(device: str = "cpu", *, tf32: bool = False, dtype: DType = "float32") -> Iterator[None]:
    """Set torch's flags for the precision of arithmetic, and restore them afterwards.

    The flags are global, so another network or a user's code may have changed them. device: "cpu", "cuda", ...; dtype:
    of matrix products. All networks, extractors, autoencoders and trainings run within this.
    """
    import torch

    before, wanted = _flags(), _wanted(device == "cpu", tf32)
    changes = before != wanted
    if changes:
        _set(wanted)
    try:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            yield
    finally:
        if changes or _flags() != before:
            _set(before)


OLDER = (
    *("cuda.matmul.allow_tf32", "cudnn.allow_tf32", "cuda.matmul.allow_bf16_reduced_precision_reduction"),
    "cudnn.benchmark",
)
# torch 2.9 has these too; they take precedence.
NEWER = tuple(
    f"{name}.fp32_precision" for name in ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
)
PRECISION = "float32_matmul_precision"


@functools.cache
def _wanted(on_cpu: bool, tf32: bool) -> dict[str, Any]:
    """The wanted values of the flags that this torch has, older flags first. TF32 exists on GPUs only."""
    flags: dict[str, Any] = {PRECISION: "high" if tf32 else "highest"}
    flags |= dict.fromkeys(OLDER[:2], tf32)
    flags |= {OLDER[2]: True, OLDER[3]: False}  # cuDNN's benchmark would choose algorithms by timing
    flags |= {name: "tf32" if tf32 and not (on_cpu and name.startswith("mkldnn")) else "ieee" for name in NEWER}
    return {name: value for name, value in flags.items() if name == PRECISION or name in _holders()}


@functools.cache
def _holders() -> dict[str, tuple[Any, str]]:
    """The flags that this torch has: the object whose attribute each is, and the attribute."""
    import torch

    holders = {}
    for name in (*OLDER, *NEWER):
        *path, last = name.split(".")
        holder: Any = torch.backends
        for part in path:
            holder = getattr(holder, part, None)
        try:
            known = hasattr(holder, last)
        except RuntimeError:  # the flag exists, but torch does not tell its value
            known = True
        if known:
            holders[name] = holder, last
    return holders


def _flags() -> dict[str, Any]:
    """The current flags, without those that torch does not tell because old and new flags contradict each other."""
    import torch

    flags: dict[str, Any] = {}
    with contextlib.suppress(RuntimeError):
        flags[PRECISION] = torch.get_float32_matmul_precision()
    for name, (holder, last) in _holders().items():
        with contextlib.suppress(RuntimeError):
            flags[name] = getattr(holder, last)
    return flags


def _set(flags: dict[str, Any]) -> None:
    import torch

    for name, value in flags.items():
        if name == PRECISION:
            torch.set_float32_matmul_precision(value)
        else:
            setattr(*_holders()[name], value)


def exact(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The function, run in plain float32."""

    def run(*inputs: Any) -> Any:
        with arithmetic(device.partition(":")[0]):
            return function(*inputs)

    return run


def rounded(module: Any) -> Any:
    """A copy of a module in which weights that only enter matrix products are bfloat16. Autocast would round them at
    each call, to the same bits. The layers with such weights are listed by `products()`; a module without it stays as
    it is.
    """
    import torch

    if not hasattr(module, "products"):
        return module
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for layer in copied.products():
            layer.to(torch.bfloat16)
    return copied


def compiled(module: Any) -> Any:
    """The module, compiled by `torch.compile` once for each shape of a batch; there are few shapes.

    If a module names the list of its blocks in `repeated`, all blocks share the code of one. So what takes most of the
    time compiles in seconds. Embeddings and the last layer are then not compiled.
    """
    import torch

    config: Any = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, max(SHAPES_AT_MOST, getattr(config, limit)))  # beyond it torch does not compile
    options = {"deterministic": True} if hasattr(torch._inductor.config, "deterministic") else None
    run = functools.partial(torch.compile, dynamic=False, options=options)
    name = getattr(module, "repeated", None)
    if name is None:
        return run(module)
    copied = copy.copy(module)  # with the same weights
    blocks: Any = [run(block) for block in getattr(module, name)]
    copied._modules = {**module._modules, name: torch.nn.ModuleList(blocks)}
    return copied


SHAPES_AT_MOST = 64  # for which one piece of code is compiled, over all networks of a process


@contextlib.contextmanager
def same_bits(device: str, strict: bool) -> Iterator[None]:
    """On a GPU, make torch use algorithms that give the same bits each time. Others take their sums in any order.

    strict: an operation without such an algorithm is an error. Otherwise torch warns, and float32 attention takes its
    sums in any order.
    """
    import torch

    if device == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    memory.fill_uninitialized_memory = False  # it costs time, and nothing reads such memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


@method
class Precision:
    """dtype: of the network's matrix products and activations. Samplers and guidance stay float32, and so do weights
    that enter more than products. tf32: let a GPU round the inputs of float32 products to 10 bits of mantissa.
    compile: run the network with `torch.compile`.

    How far samples of a fixed-step sampler may be from those of float32 (tests/nag/test_precision.py): with compile
    1e-4; with bfloat16 5e-2 in root mean square, for pixels in [-1, 1]. TF32 exists on GPUs only. What each does to
    FID, on a CPU and on a GPU: docs/precision.md.
    """

    dtype: DType = "float32"
    tf32: bool = False
    compile: bool = False

    VERSION: ClassVar[int] = 1

    def applied(self, field: Any) -> Any:
        """The NetworkField that runs at this precision whenever it is called."""
        if self == field.precision:
            return field
        module: Any = rounded(field.module) if self.dtype == "bfloat16" else field.module
        return dataclasses.replace(field, module=compiled(module) if self.compile else module, precision=self)

    def arithmetic(self, device: str, forward: bool = True) -> contextlib.AbstractContextManager[None]:
        """A context in which torch computes at this precision on this kind of device. forward: False for a training's
        backward pass, which torch runs in the dtype of each forward operation.
        """
        return arithmetic(device, tf32=self.tf32, dtype=self.dtype if forward else "float32")
