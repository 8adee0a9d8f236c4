"""Networks of diffusers, against the modules of diffusers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel

import nag
from nag.seeding import seeded

BLOCKS = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
SIZES: dict[str, Any] = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1} | BLOCKS


def unet(folder: Path, classes: int | None = 10) -> UNet2DModel:
    with seeded(0):
        net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, num_class_embeds=classes, **SIZES)
    net.save_pretrained(folder)
    return net.eval()


def dit(folder: Path) -> DiTTransformer2DModel:
    with seeded(0):
        net = DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
            num_embeds_ada_norm=10, patch_size=2,
        )  # fmt: skip
    net.save_pretrained(folder)
    return net.eval()


def states(channels: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    with seeded(1):
        return torch.randn(4, channels, 8, 8), torch.tensor([0.001, 0.25, 0.7, 1.0]), torch.tensor([0, 3, 7, 9])


@pytest.mark.parametrize("classes", [10, None])
def test_a_u_net_is_that_of_diffusers(tmp_path: Path, classes: int | None) -> None:
    net = unet(tmp_path / "unet", classes)
    field = nag.load_network(tmp_path / "unet")
    x, t, y = states(1)
    with torch.no_grad():
        wanted = net(x, 1000 * t - 1, class_labels=y if classes else None).sample
    torch.testing.assert_close(field(x, t, y), wanted, rtol=1e-4, atol=1e-4)
    assert (field.predicts, field.has_null_class, field.has_null_noise) == ("eps", False, False)


def test_a_dit_is_that_of_diffusers(tmp_path: Path) -> None:
    """With its own embedding of levels (127 steps of frequency, where the official DiT has 128), and its null class."""
    net = dit(tmp_path)
    field = nag.load_network(tmp_path, family="diffusers")
    x, t, y = states(4)
    y[1] = 10
    with torch.no_grad():
        wanted = net(x, 1000 * t - 1, class_labels=y).sample
    torch.testing.assert_close(field(x, t, y), wanted, rtol=1e-4, atol=1e-4)
    assert wanted.shape == (4, 8, 8, 8)
    assert field.has_null_class


def test_the_last_row_can_be_the_null_class(tmp_path: Path) -> None:
    net = unet(tmp_path, 11)
    field = nag.load_network(tmp_path, num_classes=10)
    x, t, y = states(1)
    with torch.no_grad():
        wanted = net(x, 1000 * t - 1, class_labels=torch.full_like(y, 10)).sample
    torch.testing.assert_close(field(x, t, torch.full_like(y, 10)), wanted, rtol=1e-4, atol=1e-4)
    assert field.has_null_class


def test_a_dit_learns_null_noise_in_all_its_blocks(tmp_path: Path) -> None:
    """Each block embeds the level anew; one learned vector replaces them all, and other rows stay as they were."""
    from nag.foreign_checkpoints import in_folder

    net = dit(tmp_path)
    foreign = in_folder(tmp_path)
    module = foreign.adapted.module((4, 8, 8), 10, null_noise=True)
    module.inner.load_state_dict(net.state_dict())
    module.train()  # its table of classes drops none by itself
    x, t, y = states(4)
    with torch.no_grad():
        before = net(x, 1000 * t - 1, class_labels=y).sample
        t[2] = -1
        out = module(x, t, y)
        assert torch.equal(out[[0, 1, 3]], before[[0, 1, 3]])
        for block in net.transformer_blocks:
            last = block.norm1.emb.timestep_embedder.linear_2
            last.weight.zero_()
            last.bias.copy_(module.null_noise)
        torch.testing.assert_close(out[2:3], net(x[2:3], t[2:3], class_labels=y[2:3]).sample)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DModel and DiTTransformer2DModel can be"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "its class_embed_type is 'timestep'; only a table"),
        ("unet/config.json", {"sample_size": None}, "has no sizes of a state: in_channels 1, sample_size None"),
        ("unet/config.json", {"num_class_embeds": 12}, "class_embedding.weight has shape [10, 16], not [12, 16]"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "scaled_linear"}, "its scheduler has beta_schedule 'sca"),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'; eps"),
    ],
)
def test_what_is_not_ddpm_is_said(tmp_path: Path, file: str, changes: dict[str, Any], said: str) -> None:
    unet(tmp_path / "unet")
    DDIMScheduler(1000).save_pretrained(tmp_path / "scheduler")
    config = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(config | changes))
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message is compared
        nag.load_network(tmp_path / "unet")
    assert str(caught.value).startswith(f"{tmp_path}/unet: ")
    assert said in str(caught.value)
