"""Reading TorchScript files. Doing so can run what is in them: only a file that the user names, or one checked by its
hash, comes here.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def load(path: Path, device: Any) -> Any:
    """The module in the file, in eval mode, float32. Raises ValueError that names the file."""
    import torch

    try:
        with warnings.catch_warnings():  # torch would rather have torch.export; the published files are TorchScript
            warnings.filterwarnings("ignore", message=".*torch.jit", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: not a TorchScript file, or cut off: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What is wrong, of an error from inside TorchScript, whose text is a long trace with the reason last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Run TorchScript as it is written. Else it is rewritten after some calls, so that the same image could have other
    bits later on in a process.
    """
    import torch

    with torch.no_grad(), torch.jit.optimized_execution(False):
        yield
