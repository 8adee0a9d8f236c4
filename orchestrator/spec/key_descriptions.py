"""What each key of a sweep file is, in a line: for the schema of `nagbench init` and the page of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SWEEP = {
    "name": "Name of the sweep, its report and its MLflow experiment.",
    "networks": "Networks by name: trained here, fine-tuned from another, or a checkpoint.",
    "network": "Network of all arms that name none. With one network it can be left out.",
    "sampler": "How samples are made. An arm can override it.",
    "sample": "How many samples each cell has, with which noise and labels. An arm can override it.",
    "score": "How samples become numbers: feature extractors, metrics, the reference. Without it samples are kept.",
    "measure": "What else is measured while sampling: one measure or a list.",
    "precision": "Number formats of sampling, for all cells.",
    "keep": "What a scored cell keeps in the store; each word keeps less than the one before.",
    "published": "A file with published numbers, shown next to ours.",
    "tune": "How values written as {tune: ...} are chosen.",
    "compare": "The rules of a verdict.",
    "arms": "The methods to compare, by name. The first one is the baseline of the others.",
}
NETWORK = {
    "data": "The images (or latents) to train on, and what samples are compared with by default.",
    "model": "The architecture.",
    "interpolant": "The path from data to noise; linear by default.",
    "predicts": "What the network predicts; velocity by default.",
    "train": "How it is trained. {preset: NAME} takes a published recipe.",
    "autoencoder": "Trains and samples in its latent space.",
    "init": "The network that this one is fine-tuned from.",
    "checkpoint": "A file or folder of weights; the path is relative to the sweep.",
    "family": "Architecture of the checkpoint, if it has no description.",
    "time": "What the module is told of the level t.",
    "precondition": "How inputs and outputs are scaled around the module.",
    "num_classes": "Number of classes without the null class, if neither data nor weights say it.",
    "heads": "Attention heads, for sizes that are not S, B, L or XL.",
    "shape": "[C, H, W] of a state, where the weights do not show it.",
    "key": "Which weights of the checkpoint: an entry, or the keys to it.",
}
SCORE = {
    "protocol": "Measure as this evaluator does: it sets features, metrics, the reference's images and the count.",
    "features": "Extractors. Metrics use the first one; those of others carry its name, such as fid_dinov2.",
    "metrics": "Metrics. The first one decides the verdict, or the mean of fd_ratio where there is one.",
    "reference": "What samples are compared with: by default the training images; or a file, a URL, a data set.",
    "reference_rows": "Metrics that compare single images use so many of the reference; by default 50,000.",
    "decode": "The autoencoder that turns latents into images.",
}
COMPARE = {
    "margin": "Arms that differ by less are alike: a number, or a percentage of the baseline; 1.3 % by default.",
    "agree": "Metrics, by reported name; an arm is better only if none of them is worse.",
}
ARM = {
    "network": "Network of this arm.",
    "sampler": "Merged with the top level's; another name replaces it.",
    "sample": "Merged with the top level's.",
    "against": "The baseline of this arm; by default the first arm.",
    "compose": "sum adds all guidance; nested puts nag inside every branch of the others.",
}


def described(parts: Mapping[str, Any], about: Mapping[str, str]) -> dict[str, Any]:
    """Schemas of keys, each with its line. Raises KeyError for a key without one."""
    return {key: {**part, "description": about[key]} for key, part in parts.items()}
