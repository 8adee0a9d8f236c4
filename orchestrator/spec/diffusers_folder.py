"""A network of the library diffusers: `{checkpoint: FOLDER}`, as its `save_pretrained` wrote it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nag.foreign_checkpoints import DIFFUSERS, in_folder, is_diffusers
from nag.models.convention import Convention
from orchestrator.spec.construct import MethodBuilder
from orchestrator.spec.foreign_network import classes_at, learned_by
from orchestrator.spec.loaded_network import checkpoint_path, made_on_the_spot, shape_at
from orchestrator.spec.model import Network
from orchestrator.spec.yaml_nodes import Node

KEYS = ("checkpoint", "family", "num_classes", "data", "autoencoder")


def is_of_diffusers(node: Node) -> bool:
    """Whether a checkpoint is of diffusers: its family says so or, without one, the config.json in its folder."""
    if "family" in node.value:
        return bool(node.value["family"].value == DIFFUSERS)
    return is_diffusers(checkpoint_path(node.value["checkpoint"]))


def diffusers_network(name: str, node: Node, builder: MethodBuilder, smoke: bool) -> Network:
    """The network; under `smoke` a tiny DiT. Raises SpecError for a folder that cannot be used."""
    node.only(KEYS)
    place = node.value["checkpoint"]
    path = checkpoint_path(place)
    if not Path(path).is_dir():
        raise place.error(
            f"there is no folder {str(path)!r}; its config.json says what the network is, so put it there."
        )
    data = builder.method("datasets", node.value["data"]) if "data" in node.value else None
    autoencoder = builder.autoencoder(node.value["autoencoder"]) if "autoencoder" in node.value else None
    classes = classes_at(node, data) if data is not None or "num_classes" in node.value else None
    try:
        found = in_folder(path, classes)
    except (OSError, ValueError) as error:
        raise place.error(f"{str(error).rstrip('.')}.") from None
    model = found.model
    network = Network(
        name, data, model, found.interpolant, str(found.predicts), None, autoencoder=autoencoder, checkpoint=str(path),
        states=found.shape, num_classes=found.num_classes, convention=Convention("0..999"),
        learned=learned_by(model, place), layout=f"{model.config['_class_name']} of diffusers",
    )  # fmt: skip
    states = shape_at(network, node)
    if states not in (None, found.shape):
        what = "images" if autoencoder is None else "latents"
        raise node.value["data"].error(f"its {what} are {list(states or ())}, the checkpoint's {list(found.shape)}.")
    if not smoke:
        return network
    smaller = autoencoder and autoencoder.smoke()
    return made_on_the_spot(dataclasses.replace(network, family="dit", data=data and data.smoke(), autoencoder=smaller))
