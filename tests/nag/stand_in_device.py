"""A stand-in for a GPU: its tensors say that they are elsewhere and compute on the CPU. What fails on a GPU fails here
too: tensors of two devices in one operation, and reading one as NumPy before it is copied to the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = "lazy"  # a name that torch knows and has no code for
aten = torch.ops.aten
MAY_MIX = (aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default, aten.copy_.default)  # as on a GPU


class There(torch.Tensor):
    """A tensor of the device; `inner` has its values."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> There:
        made: There = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a tensor of the device to NumPy: call cpu() first")


class StandIn(TorchDispatchMode):
    """Within it there is the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


def _called(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, There)]
    wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    here = [one for one in tensors if not isinstance(one, There) and one.ndim]
    if there and here and func not in MAY_MIX:
        raise RuntimeError(f"{func}: expected all tensors on one device, found lazy and cpu")
    here_now = {"device": torch.device("cpu")} if wanted is not None else {}
    result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs | here_now))
    on_device = wanted == DEVICE if wanted is not None else bool(there)
    if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor):
        return args[0] if isinstance(result, torch.Tensor) else result
    return tree_map(lambda one: There(one) if on_device and isinstance(one, torch.Tensor) else one, result)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, There) else value
