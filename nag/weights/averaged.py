"""Averaged (EMA) weights that were saved without their names: as a list in order, or as names without their dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nag.weights.stored import FLOATS, Stored

FIXED = (
    "pos_embed",
    "freqs_cis",
)  # of a state dict, but not trained: libraries that average only what is trained skip it


def by_order(values: Sequence[Stored], weights: Mapping[str, Stored]) -> dict[str, Stored] | None:
    """Averages in the order of `weights`, of all or of the trained ones, with their names; None if they do not fit."""
    floats = [name for name, one in weights.items() if one.dtype in FLOATS]
    trained = [name for name in floats if name.rpartition(".")[2] not in FIXED]
    for names in (floats, trained):
        if [weights[name].shape for name in names] == [value.shape for value in values]:
            return {**weights, **dict(zip(names, values, strict=True))}
    return None


def without_dots(tensors: Mapping[str, Stored], prefix: str, weights: Mapping[str, Stored]) -> dict[str, Stored] | None:
    """Averages whose names are those of `weights` without dots, as LitEma saves them, with their names; None if they
    are not. prefix: what stood before the names of `weights`, of which the averages may keep the last parts.
    """
    parts = prefix.rstrip(".").split(".") if prefix else []
    for kept in range(len(parts) + 1):
        inner = "".join(parts[len(parts) - kept :])
        found = {
            name: tensors[inner + name.replace(".", "")] for name in weights if inner + name.replace(".", "") in tensors
        }
        if len(found) * 2 > len(weights) and all(found[name].shape == weights[name].shape for name in found):
            return {**weights, **found}
    return None
