"""A network that nagbench did not train: DDPM (arXiv 2006.11239) in plain PyTorch.

python sweeps/train_unet.py, about 2 minutes on 2 CPU cores, writes its weights twice: unet_digits.safetensors for
sweeps/your_network.yaml, and the folder unet_digits, as diffusers saves it, for examples/diffusers_unet.yaml.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from diffusers import UNet2DModel
from safetensors.torch import save_file

from nag.datasets.digits import Digits

STEPS, BATCH, NULL = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, 128, 10


def main() -> None:
    torch.manual_seed(0)
    split = Digits().open("train")
    images, labels = (torch.from_numpy(get(range(len(split)))) for get in (split.images, split.labels))
    net = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        num_class_embeds=NULL + 1,
        block_out_channels=(16, 32),
        down_block_types=["DownBlock2D"] * 2,
        up_block_types=["UpBlock2D"] * 2,
        layers_per_block=1,
        norm_num_groups=4,
    )
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(STEPS):
        picked = torch.randint(len(images), (BATCH,))
        x0, y = images[picked], torch.where(torch.rand(BATCH) < 0.1, NULL, labels[picked])
        level, eps = torch.randint(1000, (BATCH,)), torch.randn_like(x0)
        kept = alpha_bar[level].view(-1, 1, 1, 1)
        loss = (net(kept.sqrt() * x0 + (1 - kept).sqrt() * eps, level, y).sample - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(net)
    save_file(averaged.module.state_dict(), Path(__file__).with_name("unet_digits.safetensors"))
    averaged.module.save_pretrained(Path(__file__).with_name("unet_digits"))


if __name__ == "__main__":
    main()
