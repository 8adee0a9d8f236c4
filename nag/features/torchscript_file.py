"""Load TorchScript files. Loading can run code in them, so call this only for a file that the user names or whose hash
has been checked.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load(path: Path, device: Any) -> Any:
    """The module in the file, in eval mode, float32. Raises ValueError, naming the file, if it is not TorchScript."""
    import torch

    try:
        with warnings.catch_warnings():  # torch recommends torch.export; the published files are TorchScript
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not a TorchScript file, or cut off: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The reason of an error inside TorchScript, whose text is a long trace with the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Run TorchScript without gradients and without its optimiser, which rewrites it after some calls: the same image
    could then give other bits later in the process.
    """
    import torch

    with torch.no_grad(), torch.jit.optimized_execution(False):
        yield
