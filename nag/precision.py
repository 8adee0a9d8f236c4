"""How exactly a network is evaluated. All but the default changes samples, so it is part of a stream's digest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nag.registry import method

if TYPE_CHECKING:
    import torch

    from nag.field import NetworkField


@method
class Precision:
    """dtype: of the network's matrix products and activations (weights stay float32; samplers and guidance always do).
    tf32: let a GPU round the inputs of float32 products to 10 bits of mantissa. compile: run `torch.compile`'s code.

    How far samples of a fixed-step sampler are from float32's (tests/nag/test_precision.py): compile 1e-4 at most;
    bfloat16 5e-2 in root mean square, for pixels in [-1, 1]. TF32 exists on GPUs only, where nothing was measured.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    tf32: bool = False
    compile: bool = False

    VERSION: ClassVar[int] = 1

    def applied(self, field: NetworkField) -> NetworkField:
        """The field at this precision."""
        import torch

        torch.backends.cuda.matmul.allow_tf32 = self.tf32
        torch.backends.cudnn.allow_tf32 = self.tf32
        module: Any = field.module
        if self.compile:
            module = torch.compile(module)
        if self.dtype == "bfloat16":
            module = _autocast(module)
        return field if module is field.module else dataclasses.replace(field, module=module)


def _autocast(module: Any) -> Any:
    import torch

    def forward(x: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return module(x, t, y).float()

    return forward
