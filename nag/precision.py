"""How exactly a network is evaluated. All but the default changes samples, so it is part of a stream's digest."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nag.registry import method

if TYPE_CHECKING:
    from nag.field import NetworkField

DType = Literal["float32", "bfloat16"]


@contextlib.contextmanager
def arithmetic(device: str = "cpu", *, tf32: bool = False, dtype: DType = "float32") -> Iterator[None]:
    """Within, torch computes like this, whatever was set before: torch's flags are of the whole process, and another
    network, or a file of the user's own, may have left others. device: "cpu", "cuda", ...; dtype: of matrix products.

    All networks, extractors, autoencoders and trainings are run within; afterwards the flags are as they were.
    """
    import torch

    before = _flags()
    _set(
        {
            "float32_matmul_precision": "high" if tf32 else "highest",
            "cuda.matmul.allow_tf32": tf32,
            "cudnn.allow_tf32": tf32,
            "cuda.matmul.allow_bf16_reduced_precision_reduction": True,
            "cudnn.benchmark": False,  # it takes the algorithm that is fastest just now
            **dict.fromkeys(NEWER, "tf32" if tf32 else "ieee"),
            **({name: "ieee" for name in NEWER if name.startswith("mkldnn")} if device == "cpu" else {}),
        }
    )
    try:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            yield
    finally:
        _set(before)


# Since torch 2.9 there are these too, which decide where both are set.
NEWER = tuple(
    f"{name}.fp32_precision" for name in ("cuda.matmul", "cudnn.conv", "cudnn.rnn", "mkldnn.matmul", "mkldnn.conv")
)
OLDER = (
    *("cuda.matmul.allow_tf32", "cudnn.allow_tf32", "cuda.matmul.allow_bf16_reduced_precision_reduction"),
    "cudnn.benchmark",
)


def _holder(name: str) -> tuple[Any, str]:
    import torch

    *path, last = name.split(".")
    holder: Any = torch.backends
    for part in path:
        holder = getattr(holder, part, None)
    return holder, last


def _flags() -> dict[str, Any]:
    """What is set now, as far as torch tells: it does not where someone has set both sorts of flags, and unlike."""
    import torch

    found: dict[str, Any] = {}
    with contextlib.suppress(RuntimeError):
        found["float32_matmul_precision"] = torch.get_float32_matmul_precision()
    for name in (*OLDER, *NEWER):
        holder, last = _holder(name)
        with contextlib.suppress(RuntimeError, AttributeError):
            found[name] = getattr(holder, last)
    return found


def _set(flags: dict[str, Any]) -> None:
    import torch

    for name, value in flags.items():
        if name == "float32_matmul_precision":
            torch.set_float32_matmul_precision(value)
            continue
        holder, last = _holder(name)
        if _has(holder, last):
            setattr(holder, last, value)


def _has(holder: Any, last: str) -> bool:
    """Whether this torch has the flag."""
    try:
        return hasattr(holder, last)
    except RuntimeError:  # it has, and does not tell its value
        return True


def exact(function: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The function, always run in plain float32."""

    def run(*inputs: Any) -> Any:
        with arithmetic(device.partition(":")[0]):
            return function(*inputs)

    return run


@method
class Precision:
    """dtype: of the network's matrix products and activations (weights stay float32; samplers and guidance always do).
    tf32: let a GPU round the inputs of float32 products to 10 bits of mantissa. compile: run `torch.compile`'s code.

    How far samples of a fixed-step sampler are from float32's (tests/nag/test_precision.py): compile 1e-4 at most;
    bfloat16 5e-2 in root mean square, for pixels in [-1, 1]. TF32 exists on GPUs only, where nothing was measured.
    """

    dtype: DType = "float32"
    tf32: bool = False
    compile: bool = False

    VERSION: ClassVar[int] = 1

    def applied(self, field: NetworkField) -> NetworkField:
        """The field at this precision, which holds whenever it is called."""
        import torch

        if self == field.precision:
            return field
        module: Any = torch.compile(field.module) if self.compile else field.module
        return dataclasses.replace(field, module=module, precision=self)

    def arithmetic(self, device: str, forward: bool = True) -> contextlib.AbstractContextManager[None]:
        """Within, torch computes at this precision on this kind of device. forward: False for a training's backward
        pass, which torch runs in the dtype of each forward operation.
        """
        return arithmetic(device, tf32=self.tf32, dtype=self.dtype if forward else "float32")
