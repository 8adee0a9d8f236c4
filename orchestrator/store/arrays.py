"""Arrays with their record as one file: safetensors, with record and checksum of the content in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.identity import canonical, checksum

if TYPE_CHECKING:
    import numpy as np


def pack(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> bytes:
    """A file of arrays with its record in the header."""
    import numpy as np
    from safetensors.numpy import save

    from nag.checkpoint import KEY

    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    header = {"record": record, "checksum": _content_checksum(arrays, record)}
    return save(arrays, metadata={KEY: canonical(header)})


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and record of a packed file. Raises ValueError if it is truncated, damaged or not such a file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from nag.checkpoint import KEY, metadata

    try:
        header = json.loads(metadata(data)[KEY])
        arrays, record = load(data), header["record"]
        matches = _content_checksum(arrays, record) == header["checksum"]
    except (SafetensorError, KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError("damaged or cut off") from error
    if not matches:
        raise ValueError("its content does not match its checksum")
    return arrays, record


def _content_checksum(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> str:
    parts = [canonical(record)]
    for name, array in sorted(arrays.items()):
        parts.append(
            canonical([name, str(array.dtype), list(array.shape), checksum(array.reshape(-1).view("u1").data)])
        )
    return checksum("\n".join(parts).encode())
