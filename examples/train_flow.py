"""A checkpoint of somebody else: flow matching (arXiv 2210.02747) in plain PyTorch, saved as Lightning saves it.

python examples/train_flow.py [STEPS], about 1 minute on 2 CPU cores, writes examples/flow_digits.ckpt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from flow_net import FlowNet

from nag.datasets.digits import Digits

STEPS, BATCH, NULL = int(sys.argv[1]) if len(sys.argv) > 1 else 3000, 128, 10


def main() -> None:
    torch.manual_seed(0)
    split = Digits().open("train")
    images, labels = (torch.from_numpy(get(range(len(split)))) for get in (split.images, split.labels))
    net = FlowNet().module(tuple(images.shape[1:]), NULL, null_noise=False)
    averaged = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    for _ in range(STEPS):
        picked = torch.randint(len(images), (BATCH,))
        data, y = images[picked], torch.where(torch.rand(BATCH) < 0.1, NULL, labels[picked])
        noise, time = torch.randn_like(data), torch.rand(BATCH)
        along = time.view(-1, 1, 1, 1)
        loss = (net((1 - along) * noise + along * data, time, y) - (data - noise)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averaged.update_parameters(net)
    weights = {f"model.{name}": value for name, value in net.state_dict().items()}
    weights |= {f"ema_model.{name}": value for name, value in averaged.module.state_dict().items()}
    saved = {"state_dict": weights, "global_step": STEPS, "optimizer_states": [optimizer.state_dict()]}
    torch.save(saved, Path(__file__).with_name("flow_digits.ckpt"))


if __name__ == "__main__":
    main()
