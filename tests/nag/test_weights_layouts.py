"""The same weights as people save them: what is found, which are taken, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nag import load_network
from nag.official_checkpoints import recognise
from nag.weights import files_of, read_weights
from tests.nag.checkpoint_files import AVERAGED, SAVED, SHAPE, below, states

WORDS = {  # what `check` says of them
    "official training": "EMA weights (ema) of a training file; not taken: model",
    "EMA of Lightning": "EMA weights (state_dict) of a training file of Lightning, step 40,000; without the prefix "
    "ema_model.; not taken: state_dict.model; left out: loss_fn.scale",
    "module of DeepSpeed": "weights (module) of a training file of DeepSpeed, step 40,000",
    "compiled in DDP": "weights (model) of a training file; without the prefix module._orig_mod.",
    "AveragedModel": "EMA weights of a state dict; without the prefix module.; left out: n_averaged",
    "float16": "weights of a state dict; float16",
    "shards": "weights of a folder of 2 shards",
    "counters and RNG states": "left out: torch_rng, cuda_rng, step, epoch and 2 more",
}


@pytest.mark.parametrize("name", SAVED)
def test_the_same_weights(name: str, tmp_path: Path) -> None:
    """Each of the twenty files gives the network, in float32, with its averaged weights where it has both."""
    raw, ema = states()
    path = SAVED[name](tmp_path, raw, ema)
    wanted = ema if name in AVERAGED else raw
    dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(name, torch.float32)
    module = load_network(path, "sit", heads=3, shape=SHAPE).module
    for key, weight in module.state_dict().items():
        assert torch.equal(weight, wanted[key].to(dtype).float()), key
    found = recognise(path, "sit", str(path), heads=3, shape=SHAPE)
    assert (found.shape, found.num_classes, found.has_null_class, found.has_null_noise) == (SHAPE, 7, True, False)
    assert found.model.learned_variance
    assert WORDS.get(name, "weights") in found.words
    assert ("EMA weights" in found.words) == (name in AVERAGED or name == "AveragedModel")


def test_the_family_that_the_arguments_say(tmp_path: Path) -> None:
    path = SAVED["official training"](tmp_path, *states())
    assert recognise(path, None, str(path), heads=3).family == "sit"
    assert load_network(path, heads=3).shape == SHAPE
    with pytest.raises(ValueError, match=r"same names and shapes; give its family: dit or sit"):
        load_network(SAVED["state dict"](tmp_path, *states()), heads=3)


def test_arguments_of_classes_that_are_not_here(tmp_path: Path) -> None:
    path = SAVED["EMA of Lightning"](tmp_path, *states())
    assert read_weights(path, key=["state_dict", "model"]).arguments == {"depth": 2}


def test_which_weights_by_key(tmp_path: Path) -> None:
    raw, ema = states()
    path = SAVED["EMA of Lightning"](tmp_path, raw, ema)
    for key, wanted in ((["state_dict", "model"], raw), (["state_dict", "ema_model"], ema)):
        found = load_network(path, "sit", key=key, heads=3).module.state_dict()
        assert torch.equal(found["final_layer.linear.bias"], wanted["final_layer.linear.bias"])
    known = r"what does: \[state_dict, model\], \[state_dict, ema_model\]$"
    with pytest.raises(ValueError, match=f"lightning.pt: key emma leads to no weights; {known}"):
        load_network(path, "sit", key="emma", heads=3)
    torch.save({"ema_0.999": raw, "ema_0.9999": ema}, path)
    with pytest.raises(ValueError, match=r"it has 2 sets of weights; say which by key: ema_0\.999, ema_0\.9999"):
        load_network(path, "sit", heads=3)
    assert load_network(path, "sit", key="ema_0.9999", heads=3).shape == SHAPE


def test_all_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    raw, _ = states()
    bias = "blocks.1.attn.qkv.bias"
    changed = {name: weight for name, weight in raw.items() if name != bias}
    changed |= {"projector.0.weight": torch.ones(2, 3), "final_layer.linear.bias": torch.ones(5)}
    torch.save(changed, tmp_path / "x.pt")
    words = (
        "x.pt: these weights do not fit: blocks.1.attn.qkv.bias [144] is missing; projector.0.weight [2, 3] is not "
        "known; final_layer.linear.bias has shape [5], not [128]"
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        recognise(tmp_path / "x.pt", "sit", "x.pt", heads=3)
    assert str(error.value) == words


def test_without_positions_the_size_is_said_or_asked_for(tmp_path: Path) -> None:
    raw, ema = states()
    path = SAVED["no pos_embed"](tmp_path, raw, ema)
    with pytest.raises(ValueError, match=r"it has no pos_embed, .* give shape: \[C, H, W\]"):
        load_network(path, "sit", heads=3)
    with pytest.raises(ValueError, match=r"it has 4 channels, but shape \(3, 16, 16\) was given"):
        load_network(path, "sit", heads=3, shape=(3, 16, 16))
    content = torch.load(path, weights_only=True) | {"args": {"model": "SiT-B/4", "image_size": 128}}
    torch.save(content, path)
    assert load_network(path, heads=3).shape == (4, 16, 16)


def index_of(folder: Path, weight_map: object) -> Path:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_a_folder_that_is_not_whole(tmp_path: Path) -> None:
    path = SAVED["shards"](tmp_path, *states())
    assert [file.name for file in files_of(path)] == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    index = path / "model.safetensors.index.json"
    assert load_network(index, "sit", heads=3).shape == SHAPE
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"its shard model-00002-of-00002\.safetensors is not there; copy all 2"):
        load_network(path, "sit", heads=3)


@pytest.mark.parametrize(
    ("weight_map", "words"),
    [
        ({"a": "pytorch_model-00001-of-00002.bin"}, r"are read as safetensors only, .*safe_serialization=True"),
        ({"a": "../other.safetensors"}, r"its shard '\.\./other\.safetensors' is not beside it"),
        ({"a": "one.safetensors"}, r"1 tensors are not in their shards: a"),
        ({}, r"it lists no tensors"),
        ([], r"not an index of shards"),
    ],
)
def test_an_index_that_is_refused(weight_map: object, words: str, tmp_path: Path) -> None:
    save_file({"b": torch.ones(2)}, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=words):
        read_weights(index_of(tmp_path, weight_map))


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder without a file of weights"):
        read_weights(tmp_path)
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only pytorch_model\.bin is there; .* or name one file"):
        read_weights(tmp_path)
    save_file({"b": torch.ones(2)}, tmp_path / "one.safetensors")
    assert list(read_weights(tmp_path).tensors) == ["b"]
    save_file({"b": torch.ones(2)}, tmp_path / "one.fp16.safetensors")
    with pytest.raises(ValueError, match=r"it has 2 files of weights \(one\.fp16\.safetensors, one\.safetensors\)"):
        read_weights(tmp_path)


def test_names_that_are_not_known_keep_their_own_prefix(tmp_path: Path) -> None:
    """Without `names`, a prefix is one only if it stands before all names."""
    unet = {"model.in.weight": torch.ones(2), "out.weight": torch.ones(3), "bn.num_batches_tracked": torch.tensor(3)}
    torch.save({"state_dict": unet}, tmp_path / "x.pt")
    assert set(read_weights(tmp_path / "x.pt").tensors) == set(unet)
    torch.save({"state_dict": below("module.", unet)}, tmp_path / "x.pt")
    assert set(read_weights(tmp_path / "x.pt").tensors) == set(unet)
    assert set(read_weights(tmp_path / "x.pt", names=["in.weight"]).tensors) == {"in.weight"}
