"""The module of LightningDiT. N samples, T patches, D hidden."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nag.models.transformer import LabelEmbedder, PatchEmbedder, TimeEmbedder, positions

EPS = 1e-6


class Rotary(nn.Module):
    """Rotates pairs of channels by the patch's row (first half of a head) and column (Su et al., arXiv 2104.09864)."""

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        half = width // 2
        angle = torch.arange(side)[:, None] / 10000 ** (torch.arange(0, half, 2) / half)
        angle = angle.repeat_interleave(2, dim=1)  # (side, half)
        rows, columns = angle[:, None].expand(-1, side, -1), angle[None].expand(side, -1, -1)
        angle = torch.cat([rows, columns], dim=-1).reshape(side * side, width)
        self.register_buffer("freqs_cos", angle.cos())
        self.register_buffer("freqs_sin", angle.sin())

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        return x * self.freqs_cos + torch.stack([-odd, even], dim=-1).flatten(-2) * self.freqs_sin


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.q_norm = nn.RMSNorm(hidden // heads, eps=EPS) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(hidden // heads, eps=EPS) if qk_norm else nn.Identity()
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotary(self.q_norm(q)), rotary(self.k_norm(k))
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))


class SwiGLU(nn.Module):
    """Shazeer, arXiv 2002.05202."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(hidden, 2 * inner)
        self.w3 = nn.Linear(inner, hidden)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(functional.silu(gate) * value)


def _modulation(hidden: int, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(hidden, parts * hidden))


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, inner: int, qk_norm: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(hidden, eps=EPS), nn.RMSNorm(hidden, eps=EPS)
        self.attn, self.mlp = Attention(hidden, heads, qk_norm), SwiGLU(hidden, inner)
        self.adaLN_modulation = _modulation(hidden, 6)

    def forward(self, x: Tensor, c: Tensor, rotary: Rotary) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c)[:, None].chunk(6, dim=2)
        x = x + gate_a * self.attn(self.norm1(x) * (1 + scale_a) + shift_a, rotary)
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m) + shift_m)


class FinalLayer(nn.Module):
    def __init__(self, hidden: int, out: int) -> None:
        super().__init__()
        self.norm_final, self.linear = nn.RMSNorm(hidden, eps=EPS), nn.Linear(hidden, out)
        self.adaLN_modulation = _modulation(hidden, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(c)[:, None].chunk(2, dim=2)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class LightningTransformer(nn.Module):
    """forward(x (N, C, H, W), time (N,), y (N,)) -> (N, C, H, W), the derivative by its time: 0 noise, 1 data."""

    pos_embed: Tensor

    def __init__(self, model: Any, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.channels, self.patch, self.side = shape[0], model.patch, shape[1] // model.patch
        self.x_embedder = PatchEmbedder(shape[0], model.hidden, model.patch)
        self.t_embedder = TimeEmbedder(model.hidden)
        self.y_embedder = LabelEmbedder(num_classes, model.hidden)
        self.register_buffer("pos_embed", positions(self.side, self.side, model.hidden))
        self.feat_rope = Rotary(self.side, model.hidden // model.heads)
        inner = int(2 / 3 * int(model.hidden * model.mlp_ratio))
        blocks = [Block(model.hidden, model.heads, inner, model.qk_norm) for _ in range(model.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.final_layer = FinalLayer(model.hidden, model.patch**2 * shape[0] * (1 + model.learned_variance))
        for part in self.modules():  # adaLN-zero: a new network predicts 0
            if isinstance(part, Block | FinalLayer):
                for weight in part.adaLN_modulation.parameters():
                    nn.init.zeros_(weight)
        nn.init.zeros_(self.final_layer.linear.weight)
        nn.init.zeros_(self.final_layer.linear.bias)

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        c = self.t_embedder(time) + self.y_embedder(y)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, c, self.feat_rope)
        x = self.final_layer(x, c).view(len(x), self.side, self.side, self.patch, self.patch, -1)
        x = x.permute(0, 5, 1, 3, 2, 4)  # (N, C, rows, p, columns, p)
        return x.reshape(len(x), -1, self.side * self.patch, self.side * self.patch)[:, : self.channels]
