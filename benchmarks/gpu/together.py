"""One process of a training by several: `python -m benchmarks.gpu.together DEVICE FILE`, started by training.py.

The processes talk through gloo: NCCL refuses two processes on one card.
"""

from __future__ import annotations

import contextlib
import sys

import numpy as np

from benchmarks.gpu.networks import CLASSES, TINY, filled
from benchmarks.gpu.training import split
from nag.distributed import rendezvous, world
from nag.interpolants import Linear
from nag.models.sit import SiT
from nag.training import Training, train

SHAPE = (4, 8, 8)


def main(device: str, file: str) -> None:
    import torch

    ours, model = world(), SiT(**TINY)
    if device == "cpu":
        torch.set_num_threads(1)
    with contextlib.ExitStack() as kept:
        if ours.size > 1:
            host, port = rendezvous()
            store = torch.distributed.TCPStore(host, port, ours.size, ours.rank == 0)
            torch.distributed.init_process_group("gloo", store=store, rank=ours.rank, world_size=ours.size)
            kept.callback(torch.distributed.destroy_process_group)
        weights = train(
            filled(model.module(SHAPE, CLASSES, null_noise=True, seed=0)),
            split(SHAPE, 64),
            Training(steps=4, batch=16, noise_dropout=0.15),
            loss=model.loss(Linear(), "velocity"),
            num_classes=CLASSES,
            device=device,
            world=ours,
        )
        if ours.rank == 0:
            np.savez(file, **{name: weight.numpy() for name, weight in weights.items()})
        if ours.size > 1:
            torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
