"""Models of other code, adapted to our conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nag.interpolants import Interpolant
from nag.models.convention import Convention
from nag.registry import source_of

if TYPE_CHECKING:
    import torch

    from nag.losses import Loss


@dataclass(frozen=True)
class Adapted:
    """A model whose modules are called in our conventions; `model` is the class of other code."""

    model: Any
    convention: Convention
    interpolant: Interpolant
    predicts: str

    @property
    def generates(self) -> bool:
        return bool(self.model.generates)

    @property
    def predicts_variance(self) -> bool:
        return bool(getattr(self.model, "predicts_variance", True))

    def fits(self, shape: tuple[int, int, int]) -> None:
        self.model.fits(shape)

    def module(self, shape: tuple[int, int, int], num_classes: int, null_noise: bool, seed: int = 0) -> torch.nn.Module:
        """The adapted module. null_noise: with a null noise condition, its own or a learned vector."""
        from nag.models.adapted_module import AdaptedModule

        inner = self.model.module(shape, num_classes, null_noise=null_noise, seed=seed)
        how = (self.convention, self.interpolant, self.predicts)
        return AdaptedModule(inner, self.model, *how, num_classes=num_classes, null_noise=null_noise, seed=seed)

    def loss(self, interpolant: Any, predicts: str) -> Loss:
        """That of its class."""
        loss: Loss = self.model.loss(interpolant, predicts)
        return loss


def unadapted(model: Any) -> Any:
    """The model itself, without what adapts it."""
    return model.model if isinstance(model, Adapted) else model


def built_on_cpu(model: Any) -> bool:
    """Whether its modules may have state outside their state dict: a user's own class, or one that says so."""
    return source_of(unadapted(model)) is not None or getattr(unadapted(model), "BUILT_ON_CPU", False)
