"""How nagbench calls the methods of a user's own class: checked before anything runs."""

from __future__ import annotations

import inspect
from typing import Any

# By family: how each method is called. `null_noise=` is given by its name.
CALLS: dict[str, dict[str, tuple[str, ...]]] = {
    "guidance": {"terms": ()},
    "samplers": {"network_calls": (), "__call__": ("field", "y", "noise", "observe=")},
    "datasets": {"open": ("split",)},
    "models": {
        "fits": ("shape",),
        "module": ("shape", "num_classes", "null_noise="),
        "loss": ("interpolant", "predicts"),
    },
    "metrics": {"__call__": ("samples", "reference")},
    "features": {"open": ("state", "device")},
}


def misfit(family: str, instance: Any) -> str | None:
    """The first method of an instance that cannot be called as its family is, or None."""
    for name, arguments in CALLS[family].items():
        member = getattr(instance, name)
        given = [each for each in arguments if not each.endswith("=")]
        named = {each.rstrip("="): None for each in arguments if each.endswith("=")}
        try:
            signature = inspect.signature(member)
        except (TypeError, ValueError):  # of a compiled function it is not known
            continue
        try:
            signature.bind(*given, **named)
        except TypeError as error:
            called = ", ".join([*given, *(f"{each}=..." for each in named)])
            return f"{name} is called as {name}({called}), but {_defined(name, member, signature)}: {error}"
    return None


def _defined(name: str, member: Any, signature: inspect.Signature) -> str:
    """`mine.py:12 defines open(self, device)`"""
    function = inspect.unwrap(getattr(member, "__func__", member))
    code = getattr(function, "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno} defines it" if code else "it is defined"
    bare = signature.replace(
        parameters=[each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    own = "" if inspect.isfunction(member) or not inspect.ismethod(member) else "self, "
    return f"{place} as {name}({own}{str(bare)[1:]}".replace("(self, )", "(self)")
