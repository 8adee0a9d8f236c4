"""One process of a training by several: `python -m benchmarks.gpu.together DEVICE FILE`, started by training.py.

The processes talk through gloo: NCCL refuses two processes on one card.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch

from benchmarks.gpu.networks import CLASSES, TINY, filled, latents
from nag.distributed import World, rendezvous, world
from nag.interpolants import Linear
from nag.models.sit import SiT
from nag.training import Training, train

SHAPE = (4, 8, 8)


def trained(device: str, ours: World) -> dict[str, np.ndarray]:
    """The weights after four steps; none but in the first process."""
    model = SiT(**TINY)
    weights = train(
        filled(model.module(SHAPE, CLASSES, null_noise=True, seed=0)),
        latents(SHAPE, 64),
        Training(steps=4, batch=16, noise_dropout=0.15),
        loss=model.loss(Linear(), "velocity"),
        num_classes=CLASSES,
        device=device,
        world=ours,
    )
    return {name: weight.numpy() for name, weight in weights.items()}


def main(device: str, file: str) -> None:
    ours = world()
    host, port = rendezvous()
    if device == "cpu":
        torch.set_num_threads(1)
    store = torch.distributed.TCPStore(host, port, ours.size, ours.rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=ours.rank, world_size=ours.size)
    try:
        weights = trained(device, ours)
        if ours.rank == 0:
            np.savez(file, **weights)
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # all is written; now and then threads of gloo abort a process at its end
