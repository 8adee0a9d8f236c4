"""Headers of our own network files that lie: each is a ValueError in one sentence, soon, or still the right network."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nag import load_network
from nag.checkpoint import dump_network, metadata, own_form, parse_network
from nag.header import KEY, description_in
from nag.interpolants import Linear
from nag.models.noise_level import NoiseLevel
from nag.models.sit import SiT

SOON_S = 2.0  # of this process, whatever else the machine does
MODEL = SiT(hidden=16, depth=2, heads=2, patch=2)
DEEP = json.loads("[" * 150 + "]" * 150)
VALUES = [
    None,
    [],
    {},
    "",
    "nonsense",
    -1,
    0,
    3,
    2.5,
    True,
    1e308,
    2**62,
    2**70,
    math.nan,
    -math.inf,
    ["a"],
    DEEP,
    "é\x1b[2J",
]


def file_of(model: Any = MODEL, predicts: str = "velocity") -> bytes:
    module = model.module((1, 8, 8), 10, null_noise=True, seed=1)
    fields = {"interpolant": Linear(), "predicts": predicts, "shape": (1, 8, 8), "num_classes": 10}
    return dump_network(module.state_dict(), model=model, **fields, has_null_noise=True, has_null_class=True)


def opened(data: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """The header's table, the JSON under our key, and the tensors."""
    (length,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + length])
    return table, json.loads(table["__metadata__"][KEY]), data[8 + length :]


def closed(table: Any, own: Any, tensors: bytes) -> bytes:
    if own is not None and isinstance(table, dict):
        table = {**table, "__metadata__": {KEY: own if isinstance(own, str) else json.dumps(own)}}
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything within a JSON value."""
    if at:
        yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*at, key))


def altered(value: Any, random_: random.Random) -> Any:
    """One thing replaced by another, left out, or added."""
    value = copy.deepcopy(value)
    *above, last = random_.choice(list(places(value)))
    holder = value
    for key in above:
        holder = holder[key]
    match random_.randrange(6):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder["more"] = random_.choice(VALUES)
        case _:
            holder[last] = random_.choice(VALUES)
    return value


def judged(data: bytes, path: Path) -> str:
    """The words with which a file is refused, or "" for a network of the same weights that works."""
    path.write_bytes(data)
    began = time.process_time()
    try:
        field = load_network(path)
        description_in(path)
    except ValueError as error:
        words = str(error)
        assert words.startswith(f"{path}: "), words
        assert "\n" not in words
        assert "\x1b" not in words
        assert len(words) < 700, words
        with pytest.raises(ValueError, match=r"^there: "):
            parse_network(data, source="there")
        with pytest.raises(ValueError, match=r"^there: "):
            own_form(data, source="there")
    else:
        words = ""
        right = parse_network(file_of()).module.state_dict()
        assert all(torch.equal(weight, right[name]) for name, weight in field.module.state_dict().items())
        x, y = torch.zeros(2, *field.shape), torch.tensor([0, field.num_classes])
        assert field(x, torch.tensor([0.5, -1.0]), y).shape == x.shape
        assert field.predicts in ("velocity", "eps", "x0", "score")
    assert time.process_time() - began < SOON_S, "soon"
    return words


@pytest.mark.parametrize("seed", range(4))
def test_headers_altered_at_random(tmp_path: Path, seed: int) -> None:
    """80 of each seed: what we write of the network, what safetensors writes of the tensors, the bytes themselves."""
    random_, data = random.Random(seed), file_of()
    table, own, tensors = opened(data)
    tables = {name: entry for name, entry in table.items() if name != "__metadata__"}
    refused = []
    for number in range(80):
        match number % 4:
            case 0 | 1:
                changed = closed(table, altered(own, random_), tensors)
            case 2:
                changed = closed(altered(tables, random_), own, tensors)
            case _:
                place = random_.randrange(len(data) - len(tensors))
                changed = data[:place] + bytes([random_.randrange(256)]) + data[place + 1 :]
        refused.append(judged(changed, tmp_path / "network.safetensors"))
    assert sum(map(bool, refused)) > 60, "nearly all of them are refused"


def test_what_an_altered_header_is_refused_for(tmp_path: Path) -> None:
    table, own, tensors = opened(file_of())
    path, network = tmp_path / "network.safetensors", own["network"]

    def said(network: Any = network, table: Any = table, own: Any = own, tensors: bytes = tensors) -> str:
        whole = own if isinstance(own, str) else {**own, "network": network}
        return judged(closed(table, whole, tensors), path).removeprefix(f"{path}: ")

    def without(key: str) -> dict[str, Any]:
        return {name: value for name, value in network.items() if name != key}

    def of_model(**changes: Any) -> dict[str, Any]:
        return {**network, "model": {**network["model"], "fields": {**network["model"]["fields"], **changes}}}

    assert said() == ""
    assert "network.predicts: Input should be 'velocity', 'eps', 'x0' or 'score', got 'nonsense'" in said(
        {**network, "predicts": "nonsense"}
    )
    for key in network:
        assert f"network.{key}: Field required" in said(without(key))
    assert "network.model: Input should be" in said({**network, "model": ["sit"]})
    assert "unknown name 'unet' in models; known: sit, dit" in said(
        {**network, "model": {"name": "unet", "fields": {}}}
    )
    assert "unknown name 'cosine' in interpolants" in said({**network, "interpolant": {"name": "cosine", "fields": {}}})
    assert "is user code" in said({**network, "model": {**network["model"], "source": "0123456789abcdef"}})
    assert "its model sit is not valid: hidden: " in said(of_model(hidden=math.nan))
    assert "its model sit is not valid: hidden: Field required" in said(
        {**network, "model": {"name": "sit", "fields": {}}}
    )
    for name in ("name", "family", "cls", "self"):
        assert name in said(of_model(**{name: 1}))
    assert "depth 1,000,000,000, the file only" in said(of_model(depth=10**9))
    assert "these weights do not fit: " in said(of_model(hidden=262_144))
    assert "these weights do not fit: " in said({**network, "num_classes": 9_999_999})
    assert "network.num_classes: " in said({**network, "num_classes": 2**62})
    assert "network.shape.1: " in said({**network, "shape": [1, 2**40, 2**40]})
    assert "do not fit" in said({**network, "shape": [1, 65_536, 65_536]})
    assert "its description of the network is not valid" in said(own="[" * 100_000)
    assert "format None" in said(own="[]") or "not valid" in said(own="[]")
    assert "format 'nagbench-network-2', wanted 'nagbench-network-1'" in said(
        own={**own, "format": "nagbench-network-2"}
    )
    assert "not a network of nagbench" in said(own={})
    assert "its header is not its JSON" in said(table=b"[" * 100_000)
    assert "its header is not its JSON" in said(table=b'{"a": ' * 100_000)
    assert "the file is cut off or damaged" in said(tensors=tensors[:-4])
    assert "the file is cut off or damaged" in said(tensors=tensors + b"more")


def test_tensors_that_are_not_there(tmp_path: Path) -> None:
    """Shapes that overflow or need more bytes than the file has, offsets that overlap or leave gaps."""
    table, own, tensors = opened(file_of())
    name = "x_embedder.proj.bias"

    def said(**changes: Any) -> str:
        changed = {**table, name: {**table[name], **changes}}
        return judged(closed(changed, own, tensors), tmp_path / "network.safetensors")

    begins, ends = table[name]["data_offsets"]
    assert f"tensor '{name}' of shape [17] takes 68 bytes" in said(shape=[17])
    assert "takes more than 2^63 bytes" in said(shape=[2**40, 2**40])
    assert f"{name} has shape [1, 16], not [16]" in said(shape=[1, 16])
    assert "its header says" in said(data_offsets=[begins + 4, ends])
    assert "its header says" in said(data_offsets=[begins - 4, ends - 4])
    assert "data_offsets.1: " in said(data_offsets=[begins, -1])
    assert "has the unknown dtype 'F31'" in said(dtype="F31")
    assert f"{name} is int32, not float32" in said(dtype="I32")
    assert "takes 128 bytes" in said(dtype="F64")


def test_a_hole_of_gigabytes(tmp_path: Path) -> None:
    """As a copy leaves it that was interrupted: it is not read, whether or not its header fits."""
    path, (table, own, tensors) = tmp_path / "network.safetensors", opened(file_of())
    huge = 8 * 2**30
    tables = {name: entry for name, entry in table.items() if name != "__metadata__"}
    last = max(tables, key=lambda name: tables[name]["data_offsets"])
    begins, ends = tables[last]["data_offsets"]
    grown = {**tables, last: {**tables[last], "data_offsets": [begins, begins + huge], "shape": [huge // 4]}}
    for found in (tables, grown):
        data = closed(found, own, tensors)
        path.write_bytes(data)
        with path.open("r+b") as file:
            file.truncate(len(data) - (ends - begins) + huge)
        began = time.process_time()
        with pytest.raises(ValueError, match=r"were ever written; copy it again|cut off or damaged"):
            load_network(path)
        with pytest.raises(ValueError, match=r"network\.safetensors: "):
            description_in(path)
        assert time.process_time() - began < SOON_S


def test_an_estimator_is_read_by_the_same_model() -> None:
    data = file_of(NoiseLevel(hidden=16, depth=1, heads=2, patch=2, bins=5))
    with pytest.raises(ValueError, match="estimates, it does not generate"):
        parse_network(data)


def test_a_checkpoint_that_is_no_file(tmp_path: Path) -> None:
    for family in (None, "dit"):
        with pytest.raises(ValueError, match=f"^{tmp_path}: a folder without a file of weights"):
            load_network(tmp_path, family)


@pytest.mark.parametrize("data", [b"", b"1234567", b"\xff" * 8, struct.pack("<Q", 2**25) + bytes(64)])
def test_what_is_no_safetensors(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"safetensors|header"):
        metadata(data)
    (tmp_path / "x.safetensors").write_bytes(data)
    assert description_in(tmp_path / "x.safetensors") is None


@pytest.mark.parametrize("make", [lambda: file_of(), lambda: file_of(predicts="eps")])
def test_what_we_write_is_described(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(make())
    found = description_in(path)
    assert found is not None
    assert (found.state, found.num_classes, found.has_null_noise, found.has_null_class) == ((1, 8, 8), 10, True, True)
    assert found.predicts == parse_network(make()).predicts
