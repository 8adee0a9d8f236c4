"""extract: every output of one extractor on one block of samples, which are decoded first if they are latents; or, for
the reference, on the images of a block of encode.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.errors import NotFinite, TaskError
from orchestrator.identity import digest
from orchestrator.store.layout import block_name
from orchestrator.tasks import encode, previews
from orchestrator.tasks.context import Context, Options
from orchestrator.tasks.outputs import not_finite, read_block
from orchestrator.tasks.task import Costs, Kind, Task, kind_of

if TYPE_CHECKING:
    import numpy as np

DECODED = 8  # latents in the autoencoder at once, on a CPU
DECODED_GB = 0.7  # that each takes there at 32 x 32, which is 256 x 256 pixels; in proportion to its area
USED = 0.6  # of a GPU's free memory

Block = tuple[dict[str, "np.ndarray"], dict[str, Any]]


def run(context: Context, task: Task, number: int) -> None:
    import numpy as np
    import torch

    arrays, sampled = _images(context, task, number)
    started = time.time()
    extractor = context.extractor(task.params)
    parts: list[dict[str, Any]] = []
    for first in range(0, len(arrays["samples"]), context.options.micro_batch):
        batch = torch.from_numpy(arrays["samples"][first : first + context.options.micro_batch])
        parts.append({name: out.cpu().numpy() for name, out in extractor(batch.to(context.options.device)).items()})
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | {"labels": arrays["labels"]}
    _check(context, outputs, task, number)
    if number == 0 and not _is_encoded(context, task):
        outputs |= previews.of(arrays["samples"])
    record = {
        "kind": task.kind,
        "digest": task.digest,
        "number": number,
        "sampled": sampled,
        "started": round(started, 3),
        "seconds": round(time.time() - started + sampled.get("decode_seconds", 0.0), 4),
    }
    context.store.create_arrays(block_name(task.digest, number), outputs, record)


def _images(context: Context, task: Task, number: int) -> Block:
    """The input of the extractor: samples, decoded if they are latents, or the images that were encoded."""
    stream = task.params["stream"]
    if _is_encoded(context, task):
        return encode.images_of(context, context.tasks[stream], number)
    decode = task.params.get("decode")
    return images(context, stream, number, decode) if decode else stored(context, stream, number)


def _is_encoded(context: Context, task: Task) -> bool:
    stream = context.tasks.get(task.params["stream"])
    return stream is not None and stream.kind == "encode"


def stored(context: Context, stream: str, number: int) -> Block:
    """The block as it was sampled."""
    return context.load("block", block_name(stream, number), lambda: read_block(context.store, stream, number))


def images(context: Context, stream: str, number: int, decode: Mapping[str, Any]) -> Block:
    """The block with its latents decoded, (N, 3, H, W) uint8; cached for the other extractors of this bundle. Raises
    TaskError, with the name of the block, for latents that cannot be decoded.
    """

    def make() -> Block:
        started = time.time()
        arrays, record = stored(context, stream, number)
        try:
            decoded = decoded_by(context, decode, arrays["samples"])
        except ValueError as error:
            raise TaskError(f"{block_name(stream, number)} cannot be decoded: {error}") from error
        return {**arrays, "samples": decoded}, {**record, "decode_seconds": round(time.time() - started, 4)}

    return context.load("block", f"{block_name(stream, number)} {digest(decode)}", make)


def decoded_by(context: Context, decode: Mapping[str, Any], latents: np.ndarray) -> np.ndarray:
    """Latents (N, C, h, w) decoded to images (N, 3, H, W) uint8 by the autoencoder with this identity."""
    import numpy as np
    import torch

    from nag.datasets.dataset import to_uint8

    vae = context.load("decoder", digest(decode), lambda: encode.opened(context, decode))
    size = decoded_at_once(latents.shape[-2:], context.options)
    parts = (
        torch.from_numpy(latents[first : first + size].astype(np.float32)) for first in range(0, len(latents), size)
    )
    return np.concatenate([to_uint8(vae.decode(part)).cpu().numpy() for part in parts])


def decoded_at_once(side: tuple[int, ...], options: Options) -> int:
    """Latents (h, w) in the autoencoder at once: as many as a GPU has memory for, DECODED on a CPU; at most a
    micro-batch, which is smaller after a failure for lack of memory.
    """
    import torch

    most = options.micro_batch
    if not options.device.startswith("cuda"):
        return min(DECODED, most)
    free, _ = torch.cuda.mem_get_info(torch.device(options.device))
    free += torch.cuda.memory_reserved(options.device) - torch.cuda.memory_allocated(options.device)
    each = DECODED_GB * 1e9 * side[0] * side[1] / 32**2
    return max(1, min(int(USED * free / each), most))


def _check(context: Context, outputs: Mapping[str, np.ndarray], task: Task, number: int) -> None:
    if bad := not_finite(outputs):
        name, row, count = bad
        stream = task.params["stream"]
        sample = number * context.task(stream).params["block"] + row  # encode's last block may be shorter
        more = f", and {count - 1} more in it" if count > 1 else ""
        raise NotFinite(
            f"{task.params['extractor']['name']} gives {name} that are not finite for sample {sample} "
            f"({block_name(stream, number)}{more})"
        )


def _cost_class(task: Task, costs: Costs) -> Any:
    stream = costs.tasks[task.stream]
    return [task.params["extractor"], stream.kind, kind_of(stream.kind).cost_class(stream, costs)]


def _images_in(task: Task, costs: Costs, record: Mapping[str, Any] | None) -> float:
    return float(costs.tasks[task.stream].params["block"])


KIND = Kind(
    version=2,
    run=run,
    guess_s=lambda task, costs: 25.0,
    makes_blocks=True,
    unit="samples",
    column="features",
    cost_class=_cost_class,
    cost_units=_images_in,
)
