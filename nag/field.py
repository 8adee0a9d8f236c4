"""A network as the library sees it: a field, called with states, levels and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from nag.interpolants import Interpolant, Prediction, known_level
from nag.numerics import Precision

if TYPE_CHECKING:
    import torch

NULL_NOISE = -1.0  # the level that stands for "no noise condition"


class Perturbation(NamedTuple):
    """How the blocks `layers` of a transformer, counted from 0, run differently.

    kind: "skip" leaves them out; with "identity" each token attends to itself alone; "blur" smooths the queries over
    the grid of tokens with a Gaussian of standard deviation `sigma` tokens (inf: their mean). "" changes nothing.
    """

    kind: str = ""
    layers: tuple[int, ...] = ()
    sigma: float = 0.0


class Change(NamedTuple):
    """What is different for `rows` of a batch: blocks, and what is added to the embedded level (rows, hidden)."""

    rows: slice
    perturbation: Perturbation = Perturbation()
    embedding: torch.Tensor | None = None


class Field(Protocol):
    """`field(x, t, y) -> prediction` (N, C, H, W), or 2C channels where a variance is predicted too.

    x: (N, C, H, W) float32. t: (N,) float32, 0 is data, 1 is noise, -1 the null noise condition.
    y: (N,) int64, `num_classes` is the null class. A field of your own may leave out `has_null_class` (taken as True)
    and `calls` (taken as 1). One whose blocks can be perturbed has `layers`, `hidden` and `changed` too, as
    `NetworkField`.
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

    @property
    def layers(self) -> int:
        """Number of blocks that can be perturbed; 0 if the module has none."""
        return getattr(self.module, "depth", 0)

    @property
    def hidden(self) -> int:
        """Width of the embedded level."""
        width: int = getattr(self.module, "hidden")  # noqa: B009  (a module's attributes are tensors to mypy)
        return width

    def __call__(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Raises ValueError for inputs of another shape: nothing is expanded."""
        return self.changed(x, t, y, ())

    def changed(self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
        """The prediction with `changes`, whose rows do not overlap; only for a module with `layers`."""
        import torch

        n = len(x)
        if x.shape != (n, *self.shape) or t.shape != (n,) or y.shape != (n,):
            shapes = ", ".join(str(tuple(v.shape)) for v in (x, t, y))
            raise ValueError(f"x, t, y must be (N, {', '.join(map(str, self.shape))}), (N,), (N,); got {shapes}")
        with torch.no_grad(), self.precision.arithmetic(x.device.type):
            out = self.module(x, t, y, changes) if changes else self.module(x, t, y)
        return out if self.precision.dtype == "float32" else out.float()


def everywhere(t: float, x: torch.Tensor) -> torch.Tensor:
    """(N,) the level t for each sample of x. `levels_of` knows it while nothing is computed from it."""
    import torch

    levels = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
    levels.level = float(torch.tensor(t, dtype=x.dtype))  # type: ignore[attr-defined]
    return levels


def levels_of(t: torch.Tensor) -> list[float]:
    """The levels (N,) as numbers; one for all where `everywhere` made them, so that nothing waits for a GPU."""
    level = known_level(t)
    return t.tolist() if level is None else [level]


class Calls:
    """Counts the network function evaluations (NFE) that are made, one for each sample of a batch: `made`.

    Sample with `counted(network)` in place of the network, and of each reference. The same network gives the same
    wrapper, so a network that is its own reference still is. A gradient of an estimator counts as one call.
    `residuals`: evaluations of small residual networks, which NFE leaves out.
    """

    def __init__(self) -> None:
        self.made = self.residuals = 0
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
        if name not in ("gradient", "changed", "share"):
            return member

        def counted(x: torch.Tensor, *others: Any) -> torch.Tensor:
            if name == "share":
                self._calls.residuals += len(x)
            else:
                self._calls.made += len(x)
            return member(x, *others)

        return counted
