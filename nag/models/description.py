"""Networks, one per file: frozen descriptions that build a torch module and give its training loss.

Add one: a file here with a class that has `generates`, `fits`, `module` and `loss`, and a line in `nag/registry.py`.
This file has the fields that all transformers share.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import pydantic

from nag.registry import Int, completed, method

Role = Literal["generator", "level", "residual"]  # what a network is for

WIDEST = 2**20  # largest width of a transformer or its MLPs; XL has 1,152 and 4,608


class Model(Protocol):
    """What of a description may be left out: `nag.registry.OPTIONAL`."""

    # Of a network that does not generate: "level", logits of the level from x, or "residual", r (N, 1) from x and t.
    estimates: ClassVar[Literal["level", "residual"]] = "level"


def role(model: Any) -> Role:
    """What a network of this description is for; one without a description generates."""
    if model is None or model.generates:
        return "generator"
    completed("models", type(model))
    estimates: Role = model.estimates
    return estimates


@method
class Backbone:
    """The sizes of a transformer over patches.

    hidden: width, a multiple of 4 and of `heads`. depth: number of blocks. patch: side in pixels. mlp_ratio: inner
    width of an MLP / hidden.
    """

    hidden: Annotated[Int, pydantic.Field(ge=4)]
    depth: Annotated[Int, pydantic.Field(ge=1)]
    heads: Annotated[Int, pydantic.Field(ge=1)]
    patch: Annotated[Int, pydantic.Field(ge=1)]
    mlp_ratio: Annotated[float, pydantic.Field(gt=0)] = 4.0

    @pydantic.model_validator(mode="after")
    def _widths_fit(self) -> Self:
        widths_fit(self.hidden, self.heads, self.mlp_ratio)
        return self

    def fits(self, shape: tuple[int, int, int]) -> None:
        """Raise ValueError if the network cannot be built for states of this shape (C, H, W)."""
        _, height, width = shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"patches of side {self.patch} do not tile states of {height} x {width}")

    def smoke(self) -> Self:
        """The smallest network with the same patches and outputs: to test that everything connects."""
        return dataclasses.replace(self, hidden=8, depth=1, heads=2, mlp_ratio=4.0)


@method
class Generator(Backbone):
    """A transformer whose prediction generates samples. learned_variance: its output has 2C channels."""

    learned_variance: bool = False

    generates: ClassVar[bool] = True

    @property
    def predicts_variance(self) -> bool:
        """Whether its module returns 2C channels. A model of your own without this member is taken as one that does."""
        return False


def widths_fit(hidden: int, heads: int, mlp_ratio: float) -> None:
    """Raise ValueError if no transformer can have these widths."""
    if hidden % heads:
        raise ValueError(f"hidden ({hidden}) must be a multiple of heads ({heads})")
    if hidden % 4:
        raise ValueError(f"hidden ({hidden}) must be a multiple of 4, for sine and cosine of row and column")
    if hidden > WIDEST:
        raise ValueError(f"hidden ({hidden}) is above {WIDEST:,}")
    if hidden * mlp_ratio > WIDEST:
        raise ValueError(f"mlp_ratio ({mlp_ratio}) makes the MLPs wider than {WIDEST:,}")
    if int(hidden * mlp_ratio) < 1:
        raise ValueError(f"mlp_ratio ({mlp_ratio}) leaves the MLPs no width")
