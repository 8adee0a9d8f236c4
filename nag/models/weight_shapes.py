"""The names and shapes of a transformer's weights, known without torch: to check a file by its header alone."""

from __future__ import annotations

from nag.models.description import Generator

FREQUENCIES = 256  # of the embedded time


def weight_shapes(
    model: Generator, shape: tuple[int, int, int], num_classes: int, null_noise: bool
) -> dict[str, tuple[int, ...]]:
    """By name, the shapes in the state dict of `model.module(shape, num_classes, null_noise)`.

    shape: (C, H, W) of a state. Raises ValueError if patches do not tile H, W.
    """
    model.fits(shape)
    (channels, height, width), d, p = shape, model.hidden, model.patch
    inner, out = int(d * model.mlp_ratio), channels * (1 + model.learned_variance)
    shapes: dict[str, tuple[int, ...]] = {"null_noise": (d,)} if null_noise else {}
    shapes["pos_embed"] = (1, (height // p) * (width // p), d)
    shapes |= {"x_embedder.proj.weight": (d, channels, p, p), "x_embedder.proj.bias": (d,)}
    shapes |= _linear("t_embedder.mlp.0", FREQUENCIES, d) | _linear("t_embedder.mlp.2", d, d)
    shapes["y_embedder.embedding_table.weight"] = (num_classes + 1, d)
    for block in (f"blocks.{place}" for place in range(model.depth)):
        shapes |= _linear(f"{block}.attn.qkv", d, 3 * d) | _linear(f"{block}.attn.proj", d, d)
        shapes |= _linear(f"{block}.mlp.fc1", d, inner) | _linear(f"{block}.mlp.fc2", inner, d)
        shapes |= _linear(f"{block}.adaLN_modulation.1", d, 6 * d)
    shapes |= _linear("final_layer.linear", d, p * p * out) | _linear("final_layer.adaLN_modulation.1", d, 2 * d)
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
