"""How many samples a device has at once; and what happens where its memory is too small."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.tasks.context import Options
from orchestrator.tasks.extract import DECODED, decoded_at_once
from orchestrator.tasks.sample import _at_once


@pytest.mark.parametrize(
    ("count", "micro_batch", "compiled", "wanted"),
    [
        (1000, 256, False, 256),
        (1000, 256, True, 250),
        (512, 256, True, 256),
        (100, 256, True, 256),
        (263, 256, True, 256),  # a prime: none would be equal
        (1000, 1, True, 1),
    ],
)
def test_compiled_micro_batches_have_one_shape(count: int, micro_batch: int, compiled: bool, wanted: int) -> None:
    assert _at_once(count, micro_batch, compiled) == wanted


def test_latents_are_decoded_as_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded_at_once((32, 32), Options()) == DECODED
    assert decoded_at_once((32, 32), Options(micro_batch=3)) == 3
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    found = {}
    for free in (1, 24, 80):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (int(free * 1e9), int(80e9)))
        sides = ((32, 32), (64, 64))
        found[free] = [decoded_at_once(side, Options(device="cuda", micro_batch=64)) for side in sides]
    assert found == {1: [1, 1], 24: [20, 5], 80: [64, 17]}


def test_batches_of_any_size_decode_to_the_same(tmp_path) -> None:
    """Within one step of 8 bits."""
    pytest.importorskip("diffusers", reason="the latents extra is not installed")
    from nag.autoencoders.kl import Autoencoder
    from nag.datasets.dataset import to_uint8
    from tests.nag.test_autoencoder import make, normal

    vae = Autoencoder(path=make(tmp_path / "vae")).open()
    latents = normal(6, 4, 4, 4)
    whole = to_uint8(vae.decode(latents)).numpy().astype(int)
    alone = np.concatenate([to_uint8(vae.decode(part)).numpy() for part in latents.split(1)])
    assert np.abs(whole - alone).max() <= 1
