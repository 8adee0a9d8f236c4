"""Checkpoints of other architectures: the weights of a module that the user's own class builds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from nag.header import sentence
from nag.interpolants import PREDICTIONS, VP, Interpolant, Linear
from nag.models.adapted import Adapted
from nag.models.convention import Convention, check_declared, has_null
from nag.models.diffusers_network import Diffusers, scheduled
from nag.official_checkpoints import OfficialNetwork
from nag.seeding import seeded
from nag.weights import read_weights
from nag.weights.safetensors_file import read_config

if TYPE_CHECKING:
    import torch

DIFFUSERS = "diffusers"  # the family of networks in folders of that library
INNER = "inner."  # prefix of the other code's names in an adapted module


class Foreign(NamedTuple):
    """What a checkpoint of another architecture does not say itself. predicts: None if the preconditioning says it.

    shape: (C, H, W) of a state. num_classes: of the labels; a network without classes ignores them.
    """

    model: Any
    shape: tuple[int, int, int]
    num_classes: int
    predicts: str | None = None
    interpolant: Interpolant = Linear()
    time: str = "t"
    precondition: Any = None
    key: str | Sequence[str] = ()  # the entry of the file, where it has several

    @property
    def adapted(self) -> Adapted:
        """The model in our conventions. Raises ValueError if its values contradict each other."""
        convention = Convention(self.time, self.precondition)  # type: ignore[arg-type]
        predicts = convention.predicts(self.predicts)
        if predicts not in PREDICTIONS:
            raise ValueError(f"unknown prediction {predicts!r}; known: {', '.join(PREDICTIONS)}")
        check_declared(self.model)
        return Adapted(self.model, convention, self.interpolant, predicts)


def is_diffusers(path: Path) -> bool:
    """Whether this is a folder that diffusers saved, by its config.json."""
    try:
        return read_config(path / "config.json").get("_class_name") is not None
    except (OSError, ValueError):
        return False


def in_folder(folder: Path, num_classes: int | None = None) -> Foreign:
    """The network in a folder that diffusers saved. Its config.json describes it, and the scheduler's config beside the
    folder.

    num_classes: one less than the rows of a U-Net's class table if the last row is the null class. Raises ValueError
    that begins with the folder if the network is of another kind, or its diffusion is not DDPM's.
    """
    try:
        config = read_config(folder / "config.json")
        model = Diffusers(config=config)
        if model.num_classes is None:  # any labels will do
            pass
        elif num_classes == model.num_classes - 1 and model.null_class is None:
            model = Diffusers(config=config, null_row=True)
        elif num_classes not in (None, model.num_classes):
            raise ValueError(f"num_classes {num_classes} was given, but its config.json says {model.num_classes}")
        scheduler = folder.parent / "scheduler" / "scheduler_config.json"
        predicts = scheduled(read_config(scheduler) if scheduler.is_file() else {})
        return Foreign(model, model.state, model.num_classes or num_classes or 1, predicts, VP(), "0..999")
    except ValidationError as error:
        raise ValueError(f"{folder}: {sentence(error)}") from None
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def read_foreign(file: Path | bytes, foreign: Foreign, source: str) -> OfficialNetwork:
    """The network whose weights are in the file, as the arguments of `nag.checkpoint.dump_network`, with an adapted
    model.

    Raises ValueError that begins with `source` if the file and `foreign` do not fit together. `nag.checkpoint` compares
    names and shapes of weights with those of the module.
    """
    try:
        model = foreign.adapted
        foreign.model.fits(foreign.shape)
        with _cpu(), seeded(0):  # user modules may have state outside state_dict
            own = has_null(foreign.model, "null_noise")
            new = model.module(foreign.shape, foreign.num_classes, null_noise=own).state_dict()
        renamed = getattr(foreign.model, "load", None)
        names = [] if renamed else [name.removeprefix(INNER) for name in new if name.startswith(INNER)]
        weights = read_weights(file, foreign.key, names, source).state()
        weights = _in_module(dict(renamed(weights)) if renamed else weights, new)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(source) else f"{source}: {error}") from None
    return OfficialNetwork(
        weights=weights,
        model=model,
        interpolant=foreign.interpolant,
        predicts=model.predicts,  # type: ignore[arg-type]
        shape=foreign.shape,
        num_classes=foreign.num_classes,
        has_null_noise=own,
        has_null_class=has_null(foreign.model, "null_class"),
    )


def _in_module(weights: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under their names in the adapted module, in its dtypes. new: the module's own weights; its counters
    and the null conditions that are still to be learned are taken from them.
    """
    named = {}
    for name, weight in weights.items():
        inner = INNER + name
        floats = inner in new and weight.is_floating_point() and new[inner].is_floating_point()
        named[inner] = weight.to(new[inner].dtype) if floats else weight
    kept = {k: w for k, w in new.items() if not k.startswith(INNER) or not (w.ndim or w.is_floating_point())}
    return kept | named


def _cpu() -> Any:
    import torch

    return torch.device("cpu")
