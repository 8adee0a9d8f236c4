"""`nagbench init --images FOLDER`: a sweep over a user's own images, trained here or with a checkpoint of theirs.

It looks at both: classes, the held-out split, the network's states and what it has learned decide what is written.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from nag.datasets.folder_layout import layout_of
from nag.datasets.image_folder import ImageFolder
from nag.datasets.listing import read_listing
from nag.features.inception import Inception
from nag.header import description_in
from nag.locations import is_url
from nag.official_checkpoints import recognise
from nag.pretrained import located
from orchestrator.errors import BadInput

RESOLUTION = 32
TOKENS = 8  # along a side of an image, for a network that is trained here
AUTOENCODER, DOWN, LATENT = "stabilityai/sd-vae-ft-ema", 8, 4  # of the official SiT and DiT: its name, scale, channels
HELD_OUT = ", held_out: 0.1"

SWEEP = """\
# yaml-language-server: $schema={schema}
#
# nagbench check {path}            is this file valid?
# nagbench run   {path} --smoke    a quick test of every step, with tiny networks
# nagbench run   {path}            the comparison. To resume, extend or repair it, run the same command
# `nagbench init` without --images explains every key.

name: {name}

networks:
{networks}
# Network evaluations (NFE) of a sample: each arm has as many steps as they allow.
sampler: {{name: euler, nfe: 18}}
sample: {{count: 1000, block: 100, seed: 0}}

{score}
tune: {{metric: fid, seed: 1, count: 400, candidates: 6}}
compare: {{margin: 1.3 %, agree: [recall]}}

arms:
{arms}
"""
TRAINED = """\
  sit:
    data: {data}
    model: {{name: sit, hidden: 64, depth: 4, heads: 4, patch: {patch}}}   # a smaller patch is better, and slower
    train:
      steps: 1000         # a first look: good samples take 100 times as many, on a GPU
      batch: 64
      lr: 1e-3
      noise_dropout: 0.15   # nag needs it
{class_dropout}      seed: {{grid: [0, 1, 2]}}
"""
LOADED = """\
  mine:
    checkpoint: {checkpoint}
{more}    data: {data}
"""
READY = """\
  ready:   # mine, taught the null noise condition, which nag needs
    init: mine
    data: {data}
    train: {{steps: 500, batch: 32, lr: 1e-5, noise_dropout: 0.2{class_dropout}}}
"""


@dataclass(frozen=True)
class Brought:
    """A checkpoint, as its header describes it. shape: (C, H, W) of its states. learned: null_noise, null_class."""

    path: str
    family: str | None
    shape: tuple[int, int, int]
    learned: frozenset[str]


def sweep_text(
    images: str, resolution: int | None, checkpoint: str | None, family: str | None, target: Path, schema: str
) -> str:
    """The text of a sweep at `target`. resolution: of the images; by default the checkpoint's, or 32.

    Raises BadInput for a folder or a checkpoint that cannot be used, or if they do not fit.
    """
    brought = None if checkpoint is None else _brought(checkpoint, family)
    side = _side(resolution, brought)
    path = images if is_url(images) else _relative(images, target)
    try:
        split = "" if layout_of(read_listing(images, names=False, folder=True).folders).held_out else HELD_OUT
        folder = ImageFolder(images, side, held_out=0.1 if split else 0.0)
        folder.open("train")  # lists the images and reads none: an empty folder is told now
        has_classes = folder.num_classes > 1
    except (OSError, ValueError) as error:
        raise BadInput(f"--images {images}: {error}.") from error
    data = f"{{name: image_folder, path: {json.dumps(path)}, resolution: {side}{split}}}"
    networks = _trained(data, side, has_classes) if brought is None else _networks(brought, data, target, has_classes)
    return SWEEP.format(
        schema=schema,
        path=target.as_posix(),
        name=target.stem,
        networks=networks,
        score=_score(),
        arms="\n".join(_arms(brought, has_classes)),
    )


def _brought(checkpoint: str, family: str | None) -> Brought:
    path = Path(checkpoint)
    try:
        described = description_in(path) if path.is_file() else None
        if described is not None:
            has = {"null_noise": described.has_null_noise, "null_class": described.has_null_class}
            return Brought(checkpoint, None, described.state, frozenset(name for name in has if has[name]))
        found = recognise(path, family, checkpoint)
    except (OSError, ValueError) as error:
        raise BadInput(f"--checkpoint {checkpoint}: {error}. Networks of other code: docs/networks.md.") from error
    has = {"null_noise": found.has_null_noise, "null_class": found.has_null_class}
    return Brought(checkpoint, found.family, found.shape, frozenset(name for name in has if has[name]))


def _side(resolution: int | None, brought: Brought | None) -> int:
    """The resolution of the images. Raises BadInput for another one than the checkpoint's."""
    if brought is None:
        return resolution or RESOLUTION
    channels, height, width = brought.shape
    own = height * (DOWN if channels == LATENT else 1)
    if height != width:
        raise BadInput(f"--checkpoint {brought.path}: its states are {height} x {width}; images are square.")
    if resolution not in (None, own):
        raise BadInput(f"--resolution {resolution}: the checkpoint is for {own}. Leave the option out.")
    return own


def _trained(data: str, side: int, has_classes: bool) -> str:
    patch = min((p for p in range(1, side + 1) if side % p == 0), key=lambda p: abs(side / p - TOKENS))
    dropout = "      class_dropout: 0.1    # cfg needs it\n" if has_classes else ""
    return TRAINED.format(data=data, patch=patch, class_dropout=dropout)


def _networks(brought: Brought, data: str, target: Path, has_classes: bool) -> str:
    more = f"    family: {brought.family}\n" if brought.family else ""
    if brought.shape[0] == LATENT:
        more += f"    autoencoder: {{path: {AUTOENCODER}}}\n"
    text = LOADED.format(checkpoint=json.dumps(_relative(brought.path, target)), more=more, data=data)
    if "null_noise" in brought.learned:
        return text
    dropout = ", class_dropout: 0.1" if has_classes else ""
    return text + READY.format(data=data, class_dropout=dropout)


def _score() -> str:
    """With Inception, if its weights are on this machine."""
    try:
        located(None, Inception.FILES["weights"])
    except OSError:
        note = "# `nagbench fetch inception` gets the network that papers use; then replace pixels by inception.\n"
        return f"{note}score: {{features: [pixels], metrics: [fid, precision_recall, memorisation]}}\n"
    return "score: {features: [inception], metrics: [fid, precision_recall, memorisation]}\n"


def _arms(brought: Brought | None, has_classes: bool) -> list[str]:
    cfg = "cfg: {scale: {tune: {low: 1.1, high: 3}}}"
    nag = "nag: {scale: {tune: {low: 0.25, high: 4}}}"
    guides = has_classes and (brought is None or "null_class" in brought.learned)
    if brought is None or "null_noise" in brought.learned:
        arms = ["  plain: {}", *([f"  cfg:   {{{cfg}}}"] if guides else []), f"  nag:   {{{nag}}}"]
        return [*arms, *(["  matched: {cfg: {scale: {match: nag}}, against: nag}"] if guides else [])]
    own = [f"  cfg:   {{network: mine, {cfg}}}"] if guides else []
    return ["  plain: {network: mine}", *own, "  ready: {network: ready}", f"  nag:   {{network: ready, {nag}}}"]


def _relative(path: str, target: Path) -> str:
    return Path(os.path.relpath(path, target.parent)).as_posix()
