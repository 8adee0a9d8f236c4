"""What only reading data and weights tells: `check --deep`, and the look that `run` takes before its first task."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.errors import BadInput
from orchestrator.sweep import Cell, Network, Sweep
from orchestrator.user_code import place


def look(sweep: Sweep) -> Iterator[str]:
    """Open all that a sweep reads, one line for each thing that is good. Raises BadInput for the first that is not."""
    seen: list[Any] = []
    for network in networks(sweep):
        if network.data is not None and network.data not in seen:
            seen.append(network.data)
            yield _data(network)
        if network.checkpoint:
            yield _checkpoint(sweep, network)


def networks(sweep: Sweep) -> list[Network]:
    """Every network that a cell or the measurement needs, with what it was made from, each once."""
    roots = [n for cell in sweep.cells for n in (cell.network, *cell.references.values())]
    roots += [sweep.estimator] if sweep.estimator else []
    return list({id(n): n for root in roots for n in root.line}.values())


def _data(network: Network) -> str:
    data = network.data
    try:
        sizes = {split: len(data.open(split)) for split in ("train", "held_out")}
    except Exception as error:
        own = place(error)  # a data set of the user's own may raise anything
        if own is None and not isinstance(error, OSError | ValueError):
            raise
        raise BadInput(f"networks.{network.name}.data: {own + ': ' if own else ''}{error}") from error
    return f"networks.{network.name}.data: {sizes['train']:,} training and {sizes['held_out']:,} held-out images"


def _checkpoint(sweep: Sweep, network: Network) -> str:
    """Load a checkpoint; hold what its weights tell against every cell that uses it."""
    from nag.checkpoint import load_network

    assert network.checkpoint is not None
    place = f"networks.{network.name}.checkpoint"
    given = {"heads": network.heads} if network.heads else {}
    try:
        field = load_network(network.checkpoint, family=network.family, **given)
    except (OSError, ValueError) as error:
        raise BadInput(f"{place}: {error}") from error
    if network.data is not None and tuple(network.data.shape) != tuple(field.shape):
        raise BadInput(
            f"{place}: its states are {list(field.shape)}, the images of its data {list(network.data.shape)}"
        )
    for cell in sweep.cells:
        if cell.network is network:
            _fits(place, cell, field)
    null = [words for words, has in (("noise", field.has_null_noise), ("class", field.has_null_class)) if has]
    conditions = f"null {' and '.join(null)} condition" if null else "no null condition"
    return f"{place}: {list(field.shape)}, {field.num_classes} classes, predicts {field.predicts}, {conditions}"


def _fits(place: str, cell: Cell, field: Any) -> None:
    for guidance in cell.guidance:
        for need in sorted(guidance.needs):
            if not getattr(field, f"has_{need}"):
                condition = need.replace("_", " ")
                fix = "fine-tune it with noise_dropout first, as sweeps/nag_ready.yaml does"
                raise BadInput(f"{place}: arm {cell.arm!r} needs the {condition} condition, and it has none; {fix}")
    reason = cell.sampler.refuses(field.interpolant, field.predicts) if hasattr(cell.sampler, "refuses") else None
    if reason is not None:
        raise BadInput(f"{place}: the sampler of arm {cell.arm!r} cannot sample it: {reason}")
