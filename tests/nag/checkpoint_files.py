"""Twenty ways in which people save the weights of one network. `python -m tests.nag.checkpoint_files FOLDER` makes all.

`SAVED[name](folder, raw, ema)` writes one file (or folder) and returns its path. raw and ema are state dicts of the
same network; where a file has both, what is to be read is `ema`, else `raw`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from nag.models.sit import SiT

State = dict[str, torch.Tensor]
SIZES: dict[str, Any] = {"hidden": 48, "depth": 2, "heads": 3, "patch": 4}
SHAPE, CLASSES = (4, 16, 16), 7
ARGS = argparse.Namespace(model="SiT-XL/2", path_type="Linear", prediction="velocity", results=pathlib.Path("/a/b"))


def states() -> tuple[State, State]:
    """Random weights and their moving averages, none of them zero."""
    module = SiT(**SIZES, learned_variance=True).module(SHAPE, CLASSES, null_noise=False, seed=2)
    generator = torch.Generator().manual_seed(4)
    raw = {}
    for name, weight in module.state_dict().items():
        moved = weight + 0.1 * torch.randn(weight.shape, generator=generator)
        raw[name] = weight if name == "pos_embed" else moved
    return raw, {name: weight if name == "pos_embed" else 0.5 * weight for name, weight in raw.items()}


def below(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": weight for name, weight in state.items()}


def optimizer() -> dict[str, Any]:
    """The state dict of an optimizer: tensors that are no weights."""
    weight = torch.nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.ones(3, 4)
    made = torch.optim.AdamW([weight])
    made.step()
    return made.state_dict()


@contextlib.contextmanager
def absent_class(full_name: str) -> Iterator[type]:
    """A class whose module exists only meanwhile: what is pickled of it cannot be read by importing it."""
    module_name, _, name = full_name.rpartition(".")
    module = types.ModuleType(module_name)
    made = type(name, (), {"__module__": module_name, "__qualname__": name})
    setattr(module, name, made)
    before = sys.modules.get(module_name)
    sys.modules[module_name] = module
    try:
        yield made
    finally:
        del sys.modules[module_name]
        if before is not None:
            sys.modules[module_name] = before


def saved(name: str, content: Callable[[State, State], Any], **options: Any) -> Callable[[Path, State, State], Path]:
    def write(folder: Path, raw: State, ema: State) -> Path:
        torch.save(content(raw, ema), folder / f"{name}.pt", **options)
        return folder / f"{name}.pt"

    return write


def _safetensors(folder: Path, raw: State, ema: State) -> Path:
    save_file(below("model.", raw), folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


def _shards(folder: Path, raw: State, ema: State) -> Path:
    """A folder as transformers and diffusers write it: shards and their index, beside other files."""
    where = folder / "shards"
    where.mkdir()
    names, files = list(raw), ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    half = len(names) // 2
    for file, part in zip(files, (names[:half], names[half:]), strict=True):
        save_file({name: raw[name] for name in part}, where / file)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: files[i >= half] for i, name in enumerate(names)}}
    (where / "model.safetensors.index.json").write_text(json.dumps(index))
    (where / "README.md").write_text("weights")
    return where


def _lightning(folder: Path, raw: State, ema: State) -> Path:
    """With the averages below a prefix, weights of a loss, and hyper-parameters as OmegaConf pickles them."""
    state = below("model.", raw) | below("ema_model.", ema) | {"loss_fn.scale": torch.ones(2)}
    given = {"pytorch-lightning_version": "2.2.0", "global_step": 40_000, "epoch": 3, "state_dict": state}
    with (
        absent_class("omegaconf_not_here.DictConfig") as config,
        absent_class("omegaconf_nodes_not_here.AnyNode") as node,
    ):
        parameters, depth = config(), node()
        vars(depth)["_val"] = 2
        vars(parameters)["_content"] = {"depth": depth}
        torch.save(given | {"optimizer_states": [optimizer()], "hyper_parameters": parameters}, folder / "lightning.pt")
    return folder / "lightning.pt"


def _lit_ema(raw: State, ema: State) -> dict[str, Any]:
    """LitEma's names have no dots."""
    averages = {f"model_ema.{name.replace('.', '')}": weight for name, weight in ema.items()}
    counters = {"model_ema.decay": torch.tensor(0.999), "model_ema.num_updates": torch.tensor(3)}
    return {"state_dict": below("model.", raw) | averages | counters}


def _list(raw: State, ema: State) -> dict[str, Any]:
    """torch_ema and diffusers average a list of parameters; fixed ones are not among them."""
    shadow = [weight for name, weight in ema.items() if name != "pos_embed"]
    return {"model": raw, "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": shadow, "collected_params": None}}


def _counters(raw: State, ema: State) -> dict[str, Any]:
    rng = {"torch_rng": torch.get_rng_state(), "cuda_rng": [torch.zeros(16, dtype=torch.uint8)]}
    return raw | rng | {"step": torch.tensor(500), "epoch": 7, "best": np.float64(3.5), "when": pathlib.Path("/run/7")}


def _training(raw: State, ema: State) -> dict[str, Any]:
    return {"model": raw, "ema": ema, "opt": optimizer(), "args": ARGS, "train_steps": np.int64(7)}


SAVED: dict[str, Callable[[Path, State, State], Path]] = {
    "state dict": saved("plain", lambda raw, ema: raw),
    "official training": saved("training", _training),
    "model_state_dict": saved("msd", lambda raw, ema: {"model_state_dict": raw, "optimizer_state_dict": optimizer()}),
    "state_dict of DDP": saved("ddp", lambda raw, ema: {"state_dict": below("module.", raw), "epoch": 3}),
    "module of DeepSpeed": saved("ds", lambda raw, ema: {"module": raw, "ds_version": "0.14", "global_steps": 40_000}),
    "net and net_ema": saved("net", lambda raw, ema: {"net": raw, "net_ema": ema, "scaler": {"scale": 2.0}}),
    "compiled": saved("compiled", lambda raw, ema: below("_orig_mod.", raw)),
    "compiled in DDP": saved("both", lambda raw, ema: {"model": below("module._orig_mod.", raw)}),
    "EMA of Lightning": _lightning,
    "LitEma": saved("lit_ema", _lit_ema),
    "shadow by name": saved("shadow", lambda raw, ema: {"model": raw, "ema": {"decay": 0.99, "shadow": ema}}),
    "shadow as a list": saved("shadow_params", _list),
    "AveragedModel": saved("swa", lambda raw, ema: below("module.", raw) | {"n_averaged": torch.tensor(3)}),
    "float16": saved("half", lambda raw, ema: {name: weight.half() for name, weight in raw.items()}),
    "bfloat16": saved("bf16", lambda raw, ema: {"ema_model": {k: v.bfloat16() for k, v in ema.items()}, "model": raw}),
    "safetensors": _safetensors,
    "shards": _shards,
    "counters and RNG states": saved("rng", _counters),
    "no pos_embed": saved("no_pos", lambda raw, ema: {"ema": {k: v for k, v in ema.items() if k != "pos_embed"}}),
    "old torch": saved("old", lambda raw, ema: collections.OrderedDict(raw), _use_new_zipfile_serialization=False),
}
AVERAGED = {
    "official training", "net and net_ema", "EMA of Lightning", "LitEma", "shadow by name", "shadow as a list",
    "bfloat16", "no pos_embed",
}  # fmt: skip

if __name__ == "__main__":
    into = Path(sys.argv[1])
    into.mkdir(parents=True, exist_ok=True)
    for write in SAVED.values():
        write(into, *states())
