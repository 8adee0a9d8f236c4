"""The transformer that SiT and DiT share: patches, adaLN-zero blocks, and a state dict with their official names.

After Peebles and Xie (DiT, arXiv 2212.09748) and Ma et al. (SiT, arXiv 2401.08740). N samples, T patches, D hidden.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nag.field import NULL_NOISE, Change, Perturbation
from nag.models.perturbation import blurred, pieces

if TYPE_CHECKING:
    from nag.models.description import Backbone, Generator

FREQUENCIES = 256


class PatchEmbedder(nn.Module):
    def __init__(self, channels: int, hidden: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()  # (N, C, H, W) -> (N, T, D)


class TimeEmbedder(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, time: Tensor) -> Tensor:
        """(N,) -> (N, D). `time` is that of the official code: SiT's in [0, 1], DiT's in [0, 1000)."""
        half = FREQUENCIES // 2
        k = torch.arange(half, dtype=torch.float32, device=time.device)
        angle = time.float()[:, None] * torch.exp(-math.log(10000) * k / half)
        return self.mlp(torch.cat([angle.cos(), angle.sin()], dim=-1))


class LabelEmbedder(nn.Module):
    def __init__(self, num_classes: int, hidden: int) -> None:
        super().__init__()
        # The last row is the null class. Torch's own initial weights would import its compiler, which takes seconds.
        self.embedding_table = nn.Embedding.from_pretrained(torch.empty(num_classes + 1, hidden), freeze=False)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, change: Perturbation | None = None, grid: tuple[int, int] = (1, 1)) -> Tensor:
        """(N, T, D) -> (N, T, D). change: of kind "identity" or "blur"; grid: rows and columns of the T tokens."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if change is not None and change.kind == "identity":
            return self.proj(v.transpose(1, 2).reshape(n, t, d))
        if change is not None:
            q = blurred(q, grid, change.sigma)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))


class MLP(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(activated(self.fc1, x))


def activated(layer: nn.Linear, x: Tensor) -> Tensor:
    """gelu(layer(x)), by its tanh approximation. A GPU that samples with rounded weights does both in one kernel: the
    numbers in between, four times those of the state, are never written.
    """
    if not x.is_cuda or layer.weight.dtype != torch.bfloat16 or torch.is_grad_enabled():
        return functional.gelu(layer(x), approximate="tanh")
    rows = x.to(torch.bfloat16).flatten(0, -2)
    return torch._addmm_activation(layer.bias, rows, layer.weight.t(), use_gelu=True).unflatten(0, x.shape[:-1])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: layer norm of x (N, T, D), scaled and shifted by the condition (N, D)."""
    x = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attn = Attention(hidden, heads)
        self.mlp = MLP(hidden, inner)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(
        self, x: Tensor, c: Tensor, change: Perturbation | None = None, grid: tuple[int, int] = (1, 1)
    ) -> Tensor:
        if change is not None and change.kind == "skip":
            return x
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, dim=1)
        x = x + gate_a[:, None] * self.attn(modulate(x, shift_a, scale_a), change, grid)
        return x + gate_m[:, None] * self.mlp(modulate(x, shift_m, scale_m))


class FinalLayer(nn.Module):
    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(x, shift, scale))


def through(blocks: nn.ModuleList, x: Tensor, c: Tensor, checkpointing: bool) -> Tensor:
    """Apply the blocks in turn. checkpointing: activations are computed again in the backward pass."""
    for block in blocks:
        x = checkpoint(block, x, c, use_reentrant=False) if checkpointing and torch.is_grad_enabled() else block(x, c)
    return x


def checkpoint_activations(module: nn.Module) -> None:
    """Use activation checkpointing: less memory, a third more compute. Other modules do not change."""
    for part in module.modules():
        if isinstance(part, Transformer | LevelTransformer):
            part.checkpointing = True


class Transformer(nn.Module):
    """forward(x (N, C, H, W), t (N,), y (N,)) -> (N, C, H, W), or 2C channels, in our convention: t = 0 is data.

    `time` turns our t into what the official code embeds, `output` the official prediction into ours. Where t = -1, the
    learned `null_noise` replaces the embedded time.
    """

    pos_embed: Tensor
    checkpointing = False
    repeated = "blocks"  # the list of its blocks, which are alike

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        out_channels: int,
        hidden: int,
        depth: int,
        heads: int,
        patch: int,
        inner: int,
        num_classes: int,
        null_noise: bool,
        time: Callable[[Tensor], Tensor],
        output: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.patch, self.grid, self.out_channels = patch, (height // patch, width // patch), out_channels
        self.depth, self.hidden = depth, hidden
        self.time, self.output = time, output
        self.x_embedder = PatchEmbedder(channels, hidden, patch)
        self.t_embedder = TimeEmbedder(hidden)
        self.y_embedder = LabelEmbedder(num_classes, hidden)
        self.register_buffer("pos_embed", torch.empty(1, math.prod(self.grid), hidden))  # fixed, but in the state dict
        self.blocks = nn.ModuleList([Block(hidden, heads, inner) for _ in range(depth)])
        self.final_layer = FinalLayer(hidden, patch * patch * out_channels)
        self.null_noise = nn.Parameter(torch.empty(hidden)) if null_noise else None

    def forward(self, x: Tensor, t: Tensor, y: Tensor, changes: Sequence[Change] = ()) -> Tensor:
        c = self.t_embedder(self.time(t))
        for rows, _, embedding in changes:
            if embedding is not None:
                c = torch.cat([c[: rows.start], c[rows] + embedding, c[rows.stop :]])
        if self.null_noise is not None:
            c = torch.where((t == NULL_NOISE)[:, None], self.null_noise, c)
        c = c + self.y_embedder(y)
        x = self.x_embedder(x) + self.pos_embed
        x = self._perturbed(x, c, changes) if changes else through(self.blocks, x, c, self.checkpointing)
        return self.output(self._unpatchify(self.final_layer(x, c)))

    def _perturbed(self, x: Tensor, c: Tensor, changes: Sequence[Change]) -> Tensor:
        for layer, block in enumerate(self.blocks):
            parts = pieces(changes, layer, len(x))
            x = torch.cat([block(x[rows], c[rows], change, self.grid) for rows, change in parts])
        return x

    def products(self) -> list[nn.Module]:
        """The layers whose weights enter matrix products and nothing else."""
        return [module for module in self.modules() if isinstance(module, nn.Linear | nn.Conv2d)]

    def _unpatchify(self, x: Tensor) -> Tensor:
        (rows, columns), p, c = self.grid, self.patch, self.out_channels
        x = x.view(-1, rows, columns, p, p, c).permute(0, 5, 1, 3, 2, 4)  # (N, C, rows, p, columns, p)
        return x.reshape(-1, c, rows * p, columns * p)


class LevelTransformer(nn.Module):
    """forward(x (N, C, H, W)) -> (N, outputs), logits of the noise level: the same backbone, unconditional. With
    `timed` it is told a level, forward(x, t (N,)).
    """

    pos_embed: Tensor
    checkpointing = False
    repeated = "blocks"  # the list of its blocks, which are alike

    def __init__(
        self,
        *,
        shape: tuple[int, int, int],
        hidden: int,
        depth: int,
        heads: int,
        patch: int,
        inner: int,
        outputs: int,
        timed: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.grid = (height // patch, width // patch)
        self.x_embedder = PatchEmbedder(channels, hidden, patch)
        self.register_buffer("pos_embed", torch.empty(1, math.prod(self.grid), hidden))
        self.blocks = nn.ModuleList([Block(hidden, heads, inner) for _ in range(depth)])
        self.final_layer = FinalLayer(hidden, outputs)
        self.null_noise = nn.Parameter(torch.empty(hidden))  # replaces the noise and class of a generator
        self.t_embedder = TimeEmbedder(hidden) if timed else None

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        c = self.null_noise.expand(len(x), -1)
        if self.t_embedder is not None and t is not None:
            c = c + self.t_embedder(1000 * t)
        x = self.x_embedder(x) + self.pos_embed
        x = through(self.blocks, x, c, self.checkpointing)
        return self.final_layer(x, c).mean(dim=1)


def generator(
    model: Generator,
    shape: tuple[int, int, int],
    num_classes: int,
    null_noise: bool,
    seed: int,
    *,
    time: Callable[[Tensor], Tensor],
    output: Callable[[Tensor], Tensor],
) -> nn.Module:
    """The network that `model` describes, with initial weights. Raises ValueError if patches do not tile H, W."""
    model.fits(shape)
    return built(
        lambda: Transformer(
            shape=shape,
            out_channels=shape[0] * (1 + model.learned_variance),
            hidden=model.hidden,
            depth=model.depth,
            heads=model.heads,
            patch=model.patch,
            inner=int(model.hidden * model.mlp_ratio),
            num_classes=num_classes,
            null_noise=null_noise,
            time=time,
            output=output,
        ),
        seed,
    )


def level_network(
    sizes: Backbone, shape: tuple[int, int, int], outputs: int, seed: int, timed: bool = False
) -> nn.Module:
    """A new LevelTransformer of these sizes for states of `shape`. Raises ValueError if they do not fit together."""
    sizes.fits(shape)
    return built(
        lambda: LevelTransformer(
            shape=shape,
            hidden=sizes.hidden,
            depth=sizes.depth,
            heads=sizes.heads,
            patch=sizes.patch,
            inner=int(sizes.hidden * sizes.mlp_ratio),
            outputs=outputs,
            timed=timed,
        ),
        seed,
    )


def built(make: Callable[[], Transformer | LevelTransformer], seed: int) -> nn.Module:
    """A network with initial weights, on the CPU. Under `torch.device("meta")` it stays there, without weights."""
    left_on_meta = torch.empty(0).is_meta  # torch 2.6 has no other way to ask
    with torch.device("meta"):  # torch's own initial weights would come from the global generator
        network = make()
    if not left_on_meta:
        network.to_empty(device="cpu")
        initialise(network, seed)
    return network


def initialise(network: Transformer | LevelTransformer, seed: int) -> None:
    """The official initial weights, drawn from (seed, name), so that depth and a null embedding do not change others.

    Linear and patch weights are Xavier uniform, embeddings N(0, 0.02^2), biases, modulations and the final layer 0.
    """
    from nag import noise

    with torch.no_grad():
        for name, weight in network.named_parameters():
            shape, draw = tuple(weight.shape), zlib.crc32(name.encode())
            if name.endswith("bias") or "adaLN_modulation" in name or name.startswith("final_layer"):
                weight.zero_()
            elif name == "null_noise" or name.startswith(("t_embedder", "y_embedder")):
                weight.copy_(torch.from_numpy(0.02 * noise.normal(seed, [0], draw, shape, noise.WEIGHTS)[0]))
            else:
                bound = math.sqrt(6 / (shape[0] + math.prod(shape[1:])))
                u = noise.uniform(seed, [0], draw, shape, noise.WEIGHTS)[0]
                weight.copy_(torch.from_numpy(bound * (2 * u - 1)))
        network.pos_embed.copy_(positions(*network.grid, network.pos_embed.shape[-1]))


def positions(rows: int, columns: int, hidden: int) -> Tensor:
    """Fixed embedding of the patches, (1, rows * columns, D): [sin, cos] of the column, then of the row."""
    quarter = hidden // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (rows, columns)), indexing="ij")
    angles = [place.reshape(-1, 1) * omega for place in (column, row)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1).float()[None]
