"""A network from a checkpoint in the `networks` section: `{checkpoint: PATH}`, and what the file itself does not say.

What the network is, is read from the header of the file: no tensor is read.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nag import header
from nag.autoencoders.block_means import BlockMeans
from nag.datasets.synthetic import SyntheticImages
from nag.foreign_checkpoints import DIFFUSERS
from nag.header import Description, description_in
from nag.official_checkpoints import FAMILIES, POSITIONS, Recognised, recognise
from nag.training import Training
from nag.weights.safetensors_file import INDEX
from orchestrator.errors import unknown
from orchestrator.spec.construct import MethodBuilder, local_path
from orchestrator.spec.foreign_network import DROPOUT
from orchestrator.spec.model import Network
from orchestrator.spec.yaml_nodes import Node, show

IMAGENET = 1000  # classes of official checkpoints, so that data of ImageNet can tune their stand-in
GIVEN = ("key", "heads", "shape", "num_classes")  # of a checkpoint without a description
LOADED = ("checkpoint", "family", *GIVEN, "data", "autoencoder")


def loaded(name: str, node: Node, builder: MethodBuilder, smoke: bool) -> Network:
    """The network of a checkpoint; under `smoke` a tiny one of its kind. Raises SpecError for one that cannot be used.

    A file that is not on this machine can be planned with, if its family is given.
    """
    place = node.value["checkpoint"]
    path, given = checkpoint_path(place), given_at(node)
    family = node.value["family"].text() if "family" in node.value else None
    if family is not None and family not in FAMILIES:
        raise node.value["family"].error(unknown("family", family, [*FAMILIES, DIFFUSERS]))
    if not path.exists() and family is None:
        raise place.error(f"there is no file {str(path)!r}. To plan without it, add family: dit or sit.")
    data = builder.method("datasets", node.value["data"]) if "data" in node.value else None
    autoencoder = builder.autoencoder(node.value["autoencoder"]) if "autoencoder" in node.value else None
    network = Network(
        name, data, None, None, "", None, autoencoder=autoencoder, checkpoint=str(path), family=family, given=given
    )
    states = shape_at(network, node)
    try:
        described = description_in(path) if path.is_file() else None
        parts = _described_parts(described)
        found = recognise(path, family, str(path), states=states, **given) if path.exists() and not described else None
    except (OSError, ValueError) as error:
        raise place.error(f"{error}.") from None
    if described is not None:
        network = _own(network, described, parts, node)
    else:
        network = _official(network, found) if found else dataclasses.replace(network, learned=None)
    if states is not None and network.states not in (None, states):
        what = "images" if autoencoder is None else "latents"
        raise node.value["data"].error(f"its {what} are {list(states)}, the checkpoint's {list(network.states or ())}.")
    return _small(network) if smoke else network


def checkpoint_path(place: Node) -> Path:
    """The file or folder of a checkpoint. An index of shards stands for its folder, which is copied as one."""
    local_path(place)
    path = Path(place.file).parent / place.text()
    return path.parent if path.name.endswith(INDEX) and path.is_file() else path


def given_at(node: Node) -> dict[str, Any]:
    """What a sweep says of a checkpoint that its weights do not show, as it enters a digest."""
    given: dict[str, Any] = {}
    for key in ("heads", "num_classes"):
        if key in node.value:
            given[key] = _whole(node.value[key])
    if "shape" in node.value:
        sides = node.value["shape"].entries("[4, 32, 32]")
        if len(sides) != 3:
            raise node.value["shape"].error(f"expected [C, H, W], three numbers, got {len(sides)}.")
        given["shape"] = [_whole(side) for side in sides]
    if "key" in node.value:
        key = node.value["key"]
        given["key"] = [
            part.text() for part in (key.entries("[state_dict, ema]") if isinstance(key.value, list) else [key])
        ]
    return given


def shape_at(network: Network, node: Node) -> tuple[int, int, int] | None:
    """(C, H, W) of a network's states, if known. Raises SpecError for images that its autoencoder cannot encode."""
    try:
        return network.shape
    except ValueError as error:
        raise node.value.get("autoencoder", node).error(f"{error}.") from None


def made_on_the_spot(network: Network) -> Network:
    """A tiny network of the same family, trained for a few steps, in place of a checkpoint under --smoke."""
    model, interpolant, predicts = network.model, network.interpolant, network.predicts
    if network.family:
        family = FAMILIES[network.family]
        model = family.model(hidden=8, depth=1, heads=2, patch=2, learned_variance=True)
        interpolant, predicts = interpolant or family.interpolant, family.predicts
    data, autoencoder = network.data, network.autoencoder
    if data is None:
        classes = network.given.get("num_classes") or (IMAGENET if network.family else SyntheticImages.classes)
        data, autoencoder = SyntheticImages(classes=classes), autoencoder or BlockMeans()  # official ones make latents
    train = Training(steps=4, batch=16, lr=1e-2, noise_dropout=0.1, class_dropout=0.1)
    tiny = Network(network.name, data, model.smoke(), interpolant, predicts, train, autoencoder=autoencoder)
    return dataclasses.replace(tiny, learned=network.learned or frozenset(DROPOUT))


def _whole(node: Node) -> int:
    if isinstance(node.value, bool) or not isinstance(node.value, int) or node.value < 1:
        raise node.error(f"expected a whole number, at least 1, got {show(node)}.")
    return node.value


def _official(network: Network, found: Recognised) -> Network:
    """With what the header of a checkpoint of another program says."""
    without_size = POSITIONS not in found.weights.tensors
    return dataclasses.replace(
        network,
        family=found.family,
        given=dict(network.given) | ({"shape": list(found.shape)} if without_size else {}),
        model=found.model,
        interpolant=found.interpolant,
        predicts=found.predicts,
        states=found.shape,
        layout=found.words,
        learned=frozenset(need for need in DROPOUT if getattr(found, f"has_{need}")),
    )


def _own(network: Network, described: Description, parts: dict[str, Any], node: Node) -> Network:
    """With what a checkpoint of nagbench says of itself."""
    for key in ("family", *GIVEN):
        if key in node.value:
            raise node.value[key].error("this checkpoint has a description; remove this key.")
    if described.model.source:
        name = described.model.name
        raise node.value["checkpoint"].error(
            f"its model {name!r} is a user's own code; only the sweep that trained it can use it."
        )
    return dataclasses.replace(
        network,
        **parts,
        predicts=described.predicts,
        states=described.state,
        learned=frozenset(need for need in DROPOUT if getattr(described, f"has_{need}")),
    )


def _small(network: Network) -> Network:
    """Under --smoke: the checkpoint, if it describes itself and fits the stand-in for its data, or a tiny network."""
    parts = {key: getattr(network, key) for key in ("data", "autoencoder")}
    small = dataclasses.replace(network, **{key: part and part.smoke() for key, part in parts.items()})
    fits = network.family is None and small.shape in (None, network.states)
    return small if fits else made_on_the_spot(small)


def _described_parts(described: Description | None) -> dict[str, Any]:
    """Model and interpolant of a checkpoint's description; {} for a user's own model. ValueError for invalid ones."""
    if described is None or described.model.source:
        return {}
    return {
        "model": header.built("models", described.model),
        "interpolant": header.built("interpolants", described.interpolant),
    }
