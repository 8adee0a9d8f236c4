"""A network as the library sees it: a field, called with states, levels and classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from nag.interpolants import Interpolant, Prediction
from nag.numerics import Precision

if TYPE_CHECKING:
    import torch

NULL_NOISE = -1.0  # the level that stands for "no noise condition"


class Field(Protocol):
    """`field(x, t, y) -> prediction` (N, C, H, W), or 2C channels where a variance is predicted too.

    x: (N, C, H, W) float32. t: (N,) float32, 0 is data, 1 is noise, -1 the null noise condition.
    y: (N,) int64, `num_classes` is the null class. A field of your own may leave out `has_null_class` (taken as True)
    and `calls` (taken as 1).
    """

    @property
    def interpolant(self) -> Interpolant: ...
    @property
    def predicts(self) -> Prediction: ...
    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a state."""
        ...

    @property
    def num_classes(self) -> int: ...
    @property
    def has_null_noise(self) -> bool: ...
    @property
    def has_null_class(self) -> bool: ...
    @property
    def calls(self) -> int:
        """Network function evaluations (NFE) of one call, for each sample."""
        ...

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class NetworkField:
    """The field of a module with `forward(x, t, y)` in our conventions. Evaluated without gradients, at `precision`."""

    module: torch.nn.Module
    interpolant: Interpolant
    predicts: Prediction
    shape: tuple[int, int, int]
    num_classes: int
    has_null_noise: bool
    has_null_class: bool
    precision: Precision = field(default_factory=Precision)

    calls: ClassVar[int] = 1

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Raises ValueError for inputs of another shape: nothing is expanded."""
        import torch

        n = len(x)
        if x.shape != (n, *self.shape) or t.shape != (n,) or y.shape != (n,):
            shapes = ", ".join(str(tuple(v.shape)) for v in (x, t, y))
            raise ValueError(f"x, t, y must be (N, {', '.join(map(str, self.shape))}), (N,), (N,); got {shapes}")
        with torch.no_grad(), self.precision.arithmetic(x.device.type):
            out = self.module(x, t, y)
        return out if self.precision.dtype == "float32" else out.float()


def everywhere(t: float, x: torch.Tensor) -> torch.Tensor:
    """(N,) the level t for each sample of x. `levels_of` knows it while nothing is computed from it."""
    import torch

    levels = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    levels.level = float(torch.tensor(t, dtype=x.dtype))  # type: ignore[attr-defined]
    return levels


def levels_of(t: torch.Tensor) -> list[float]:
    """The levels (N,) as numbers; one for all where `everywhere` made them, so that nothing waits for a GPU."""
    return [t.level] if hasattr(t, "level") else t.tolist()


class Calls:
    """Counts the network function evaluations (NFE) that are made, one for each sample of a batch: `made`.

    Sample with `counted(network)` in place of the network, and of each reference. The same network gives the same
    wrapper, so a network that is its own reference still is. A gradient of an estimator counts as one call.
    """

    def __init__(self) -> None:
        self.made = 0
        self._counted: dict[int, Any] = {}

    def counted(self, network: Any) -> Any:
        return self._counted.setdefault(id(network), _Counted(network, self))


class _Counted:
    """A field or estimator that reports its calls; all else is the network's."""

    def __init__(self, network: Any, calls: Calls) -> None:
        self._network, self._calls = network, calls

    def __call__(self, x: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        self._calls.made += len(x)
        return self._network(x, *conditions)

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._network, name)
        if name != "gradient":
            return member

        def gradient(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            self._calls.made += len(x)
            return member(x, t)

        return gradient
