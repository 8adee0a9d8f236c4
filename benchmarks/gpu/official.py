"""The official way of sampling, rebuilt from its description: SiT's Euler-Maruyama loop and DiT's 250 DDPM steps.

float32 with TF32 allowed; noise drawn on the device; CFG by doubling the batch, both halves from the same state; SiT's
SDE asks the network twice a step, for its drift and for its score; DiT's step asks once. Nothing is checked, and a
step ends in float32. Only its time is used: which samples it makes does not matter here.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch

from nag.field import NetworkField
from nag.interpolants import convert, posterior
from nag.numerics import arithmetic
from nag.samplers.fixed_step import levels, respaced

SCALE = 1.5


def sit_sde(field: NetworkField, n: int, steps: int, cfg: bool, device: str) -> torch.Tensor:
    """`steps` steps of Euler-Maruyama from t = 1 to 0.04, and the last one."""
    x, y = torch.randn(n, *field.shape, device=device), torch.zeros(n, dtype=torch.int64, device=device)
    path = field.interpolant
    with torch.no_grad(), arithmetic(torch.device(device).type, tf32=True):
        for t, t_next in pairwise([*levels(1.0, 0.04, steps - 1), 0.0]):
            v = _asked(field, x, y, t, cfg)
            s = convert(_asked(field, x, y, t, cfg), "velocity", "score", x, t, path)
            d = path.sigma(t)
            x = x + (t_next - t) * (v - d * s)
            if t_next:
                x = x + math.sqrt(2 * d * (t - t_next)) * torch.randn_like(x)
    return x


def dit_ddpm(field: NetworkField, n: int, steps: int, cfg: bool, device: str) -> torch.Tensor:
    """The first `steps` of 250 respaced ancestral steps with the learned variance."""
    x, y = torch.randn(n, *field.shape, device=device), torch.zeros(n, dtype=torch.int64, device=device)
    channels, path = field.shape[0], field.interpolant
    with torch.no_grad(), arithmetic(torch.device(device).type, tf32=True):
        for t, t_next in list(pairwise(respaced(250)))[:steps]:
            out = _asked(field, x, y, t, cfg)
            x0 = convert(out[:, :channels], "eps", "x0", x, t, path)
            q = posterior(path, t, t_next)
            low, high = math.log(q.variance), math.log(q.forward)
            spread = (0.5 * (low + (out[:, channels:] + 1) / 2 * (high - low))).exp()
            x = q.from_x0 * x0 + q.from_x * x + spread * torch.randn_like(x)
    return x


def _asked(field: NetworkField, x: torch.Tensor, y: torch.Tensor, t: float, cfg: bool) -> torch.Tensor:
    """The network's output, all of it; with CFG on the first three channels, from a batch of twice the size."""
    if not cfg:
        return field.module(x, torch.full((len(x),), t, device=x.device), y)
    both = torch.cat([y, torch.full_like(y, field.num_classes)])
    out = field.module(torch.cat([x, x]), torch.full((2 * len(x),), t, device=x.device), both)
    given, null = out.chunk(2)
    guided = null[:, :3] + SCALE * (given[:, :3] - null[:, :3])
    return torch.cat([guided, given[:, 3:]], dim=1)
