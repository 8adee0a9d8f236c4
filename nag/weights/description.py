"""How weights were saved, in words, and the arguments of the training that made them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nag.header import short_repr
from nag.weights.layout import Candidate
from nag.weights.pickled import Inert, plain

STEPS = ("global_step", "step", "steps", "train_steps", "global_steps", "iteration", "iter", "cur_nimg")
PROGRAMS = {"pytorch-lightning_version": "Lightning", "ds_version": "DeepSpeed"}
ARGUMENTS = ("args", "hyper_parameters", "hparams", "config", "cfg", "train_args", "model_args", "opt", "options")


def in_words(content: Any, one: Candidate, found: list[Candidate], form: str) -> str:
    """Such as "EMA weights (ema) of a training file of Lightning, step 40,000; others: model"."""
    root = content if isinstance(content, Mapping) else {}
    if not form:
        form = "a training file" if one.path else "a state dict"
    program = next((f" of {name}" for key, name in PROGRAMS.items() if key in root), "")
    step = next((f", step {root[key]:,}" for key in STEPS if type(root.get(key)) is int), "")
    kind = "EMA weights" if one.averaged else "weights"
    path = f" ({'.'.join(_short(part) for part in one.path)})" if one.path else ""
    words = [f"{kind}{path} of {form}{program}{step}"]
    if one.prefix:
        words.append(f"without the prefix {_short(one.prefix)}")
    dtypes = sorted({tensor.dtype for tensor in one.tensors.values()})
    if dtypes != ["float32"]:
        words.append(", ".join(dtypes))
    others = [".".join(_short(part) for part in other.key) for other in found if other is not one]
    if others:
        words.append(f"not taken: {', '.join(others[:4])}")
    if one.left_out:
        more = f" and {len(one.left_out) - 4} more" if len(one.left_out) > 4 else ""
        words.append(f"left out: {', '.join(_short(name) for name in one.left_out[:4])}{more}")
    return "; ".join(words)


def arguments_of(content: Any) -> dict[str, Any]:
    """The arguments that a training file holds, as far as they are plain values; {} if it has none."""
    root = content if isinstance(content, Mapping) else {}
    for key in ARGUMENTS:
        if isinstance(root.get(key), Mapping | Inert):
            given = plain(root[key])
            if isinstance(given, dict) and given:
                return given
    return {}


def _short(text: str) -> str:
    return short_repr(text)[1:-1]
