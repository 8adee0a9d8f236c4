"""Checkpoints of other architectures: the weights of a module that a class of the user's own builds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nag.interpolants import PREDICTIONS, Interpolant, Linear
from nag.models.adapted import Adapted, Convention, check_declared, has_null
from nag.official_checkpoints import OfficialNetwork
from nag.pretrained import read_state
from nag.seeding import seeded

if TYPE_CHECKING:
    import torch


class Foreign(NamedTuple):
    """What a checkpoint of another architecture does not say. predicts: None where a preconditioning says it.

    shape: (C, H, W) of a state. num_classes: of the labels; a network without classes ignores them.
    """

    model: Any
    shape: tuple[int, int, int]
    num_classes: int
    predicts: str | None = None
    interpolant: Interpolant = Linear()
    time: str = "t"
    precondition: Any = None

    @property
    def adapted(self) -> Adapted:
        """The model in our conventions. Raises ValueError for what does not go together."""
        convention = Convention(self.time, self.precondition)  # type: ignore[arg-type]
        predicts = convention.predicts(self.predicts)
        if predicts not in PREDICTIONS:
            raise ValueError(f"unknown prediction {predicts!r}; known: {', '.join(PREDICTIONS)}")
        check_declared(self.model)
        return Adapted(self.model, convention, self.interpolant, predicts)


def read_foreign(path: Path, foreign: Foreign, source: str) -> OfficialNetwork:
    """The network whose weights are in the file: the arguments of `nag.checkpoint.dump_network`, with an adapted model.

    Raises ValueError that begins with `source` for anything that does not fit; `nag.checkpoint` compares names and
    shapes of weights with those of the module.
    """
    model = foreign.adapted
    weights = read_state(path)
    try:
        own = getattr(foreign.model, "load", None)
        weights = dict(weights if own is None else own(weights))
        weights = _in_module(weights, model, foreign)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return OfficialNetwork(
        weights=weights,
        model=model,
        interpolant=foreign.interpolant,
        predicts=model.predicts,  # type: ignore[arg-type]
        shape=foreign.shape,
        num_classes=foreign.num_classes,
        has_null_noise=has_null(foreign.model, "null_noise"),
        has_null_class=has_null(foreign.model, "null_class"),
    )


def _in_module(weights: dict[str, torch.Tensor], model: Adapted, foreign: Foreign) -> dict[str, torch.Tensor]:
    """The weights by their names in the adapted module and of its dtypes, with its own untrained null conditions."""
    import torch

    foreign.model.fits(foreign.shape)
    with torch.device("cpu"), seeded(0):  # user modules may have state outside state_dict
        own = has_null(foreign.model, "null_noise")
        new = model.module(foreign.shape, foreign.num_classes, null_noise=own).state_dict()
    named = {f"inner.{name}": weight for name, weight in weights.items()}
    for name, weight in named.items():
        if name in new and weight.is_floating_point() and new[name].is_floating_point():
            named[name] = weight.to(new[name].dtype)
        named[name] = named[name].clone()  # two names may share their memory, which safetensors refuses
    return named | {name: weight for name, weight in new.items() if not name.startswith("inner.")}
