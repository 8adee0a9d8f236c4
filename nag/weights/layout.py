"""The weights among everything else that a file has: which entry, below which prefix, and what is left out.

Training programs save the same weights in many ways: a state dict, or one of several entries ("ema", "model", ...),
with prefixes that wrappers put before the names ("module.", "_orig_mod.", ...). Averaged (EMA) weights are preferred.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nag.header import short_repr
from nag.weights.averaged import by_order, without_dots
from nag.weights.pickled import Inert
from nag.weights.stored import FLOATS, Stored

EMA = re.compile(r"(^|[^a-z])(ema|shadow|swa|averaged|average)([^a-z]|$)")
WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "ema_model", "model_ema", "ema", "online_model")
MODELS = (*WRAPPERS, "state_dict", "model_state_dict", "model_state", "weights", "params", "generator", "denoiser")
NOT_WEIGHTS = re.compile(r"opt|optim|.*optimi[sz]er.*|.*sched.*|.*scaler.*|rng.*|.*rng_states?|loops")
COUNTERS = re.compile(r"decay|.*steps?|num_updates|n_averaged|initted|iteration|epoch")
UNREADABLE = {  # functions of pickles that make what is not a plain tensor
    **{"_rebuild_qtensor": "quantised", "_rebuild_sparse_tensor": "sparse", "_rebuild_nested_tensor": "nested"},
    **{"_rebuild_wrapper_subclass": "of a subclass of tensors", "_rebuild_from_type_v2": "of a subclass of tensors"},
    **{"_rebuild_meta_tensor_no_storage": "on the device meta, without numbers", "_reconstruct": "a numpy array"},
}
DEEPEST = 4
SEVERAL = 8  # members of a list that are looked at

Key = tuple[str, ...]


class SeveralSets(ValueError):
    """A file has several sets of weights, and nothing says which."""


@dataclass(frozen=True)
class Candidate:
    """A set of weights by name. path: the keys that lead to it; prefix: what stood before its names. left_out: names of
    entries beside it. unreadable: by name, why a weight cannot be read.
    """

    path: Key
    tensors: Mapping[str, Stored]
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return (*self.path, *(part for part in self.prefix.split(".") if part))

    @property
    def averaged(self) -> bool:
        return any(EMA.search(part.lower()) for part in self.key) or "n_averaged" in self.left_out


def chosen(content: Any, key: Sequence[str], names: Collection[str]) -> tuple[Candidate, list[Candidate]]:
    """The weights in the content of a file, and all that were to choose from.

    key: the keys that lead to the weights, for a file that has several; by default averaged ones, else those of an
    entry with a usual name. names: of some weights of the network, if known: what has less than half of them is not
    looked at. Raises ValueError if there are none, several, or some that cannot be read.
    """
    found = _candidates(content, names) or _candidates(content, ())
    if not found:
        raise ValueError(_without_weights(content))
    pool = [one for one in found if one.key[: len(key)] == tuple(key)]
    if not pool:
        raise ValueError(f"key {_shown(tuple(key))} leads to no weights; what does: {_listed(found)}")
    usual = [one for one in pool if all(part in MODELS or part.isdigit() for part in one.path)]
    best = [one for one in pool if one.averaged] or usual or pool
    if len(best) > 1:
        raise SeveralSets(f"it has {len(best)} sets of weights; say which by key: {_listed(best)}")
    if best[0].unreadable:
        name, reason = next(iter(best[0].unreadable.items()))
        anew = "save it as a plain tensor: {name: weight.dense or .dequantize() or .float()} in torch.save"
        raise ValueError(f"its weight {short_repr(name)} is {reason}, which is not read; {anew}")
    return best[0], found


def _candidates(content: Any, names: Collection[str]) -> list[Candidate]:
    found: list[Candidate] = []
    lists: list[tuple[Key, list[Stored]]] = []
    for path, value in _walk(content, ()):
        if isinstance(value, Mapping):
            found += _below_prefixes(_sorted(path, value), names)
        else:
            lists.append((path, list(value)))
    for path, values in lists:  # averages without names: those of the weights beside them
        fitting = (by_order(values, one.tensors) for one in found if not one.averaged)
        if (named := next(filter(None, fitting), None)) is not None:
            found.append(Candidate(path, named))
    return found


def _walk(value: Any, path: Key) -> Iterator[tuple[Key, Any]]:
    """Dictionaries with weights, and lists of weights, with the keys that lead to them."""
    entries = value.fields if isinstance(value, Inert) and not value.is_module else value
    if isinstance(entries, list | tuple):
        if entries and all(isinstance(one, Stored) for one in entries):
            yield path, entries
            return
        entries = {str(place): one for place, one in enumerate(entries[:SEVERAL])}
    if not isinstance(entries, Mapping) or len(path) > DEEPEST:
        return
    if any(_is_weight(one) for one in entries.values()):
        yield path, entries
    for key, one in entries.items():
        if not isinstance(one, Stored) and not NOT_WEIGHTS.fullmatch(str(key).lower()):
            yield from _walk(one, (*path, str(key)))


def _is_weight(value: Any) -> bool:
    unreadable = isinstance(value, Inert) and value.name.rpartition(".")[2] in UNREADABLE
    return unreadable or (isinstance(value, Stored) and value.dtype in FLOATS and len(value.shape) > 0)


def _sorted(path: Key, entries: Mapping[Any, Any]) -> Candidate:
    """The weights of a dictionary, apart from counters, states of random generators and whatever else it has."""
    tensors: dict[str, Stored] = {}
    unreadable: dict[str, str] = {}
    left_out = []
    for key, value in entries.items():
        name = str(key) if isinstance(key, str | int) else type(key).__name__
        if isinstance(value, Inert) and (kind := UNREADABLE.get(value.name.rpartition(".")[2])):
            unreadable[name] = kind
        elif not isinstance(value, Stored) or _counts(name, value):
            left_out.append(name)
        else:
            tensors[name] = value
    return Candidate(path, tensors, "", tuple(left_out), unreadable)


def _counts(name: str, value: Stored) -> bool:
    """Whether it is a counter or the state of a random generator."""
    if value.shape:
        return value.dtype == "uint8" and len(value.shape) == 1
    return bool(COUNTERS.fullmatch(name.rpartition(".")[2])) or (value.dtype not in FLOATS and "." not in name)


def _below_prefixes(one: Candidate, names: Collection[str]) -> list[Candidate]:
    """The sets of weights in a dictionary that differ by what stands before their names."""
    prefixes = _prefixes_of(one.tensors, names) if names else _wrappers(one.tensors)
    found = []
    for prefix in prefixes:
        within = [other for other in prefixes if other != prefix and other.startswith(prefix)]
        tensors = {
            name.removeprefix(prefix): value
            for name, value in one.tensors.items()
            if name.startswith(prefix) and not name.startswith(tuple(within))
        }
        others = tuple(name for name in one.tensors if not name.startswith((prefix, *prefixes)))
        unreadable = {name: why for name, why in one.unreadable.items() if name.startswith(prefix)}
        found.append(Candidate(one.path, tensors, prefix, (*one.left_out, *others), unreadable))
    raw = [each for each in found if not each.averaged]
    for prefix in sorted({f"{name.rpartition('.')[0]}." for name in one.tensors if "." in name} - set(prefixes)):
        if not EMA.search(prefix) or not raw:
            continue
        flat = {name.removeprefix(prefix): value for name, value in one.tensors.items() if name.startswith(prefix)}
        if (named := without_dots(flat, raw[0].prefix, raw[0].tensors)) is not None:
            found.append(Candidate(one.path, named, prefix, raw[0].left_out))
    return found


def _prefixes_of(tensors: Mapping[str, Stored], names: Collection[str]) -> list[str]:
    """What stands before `names`: each prefix below which at least half of them are."""
    wanted, counts = set(names), Counter[str]()
    for name in tensors:
        parts = name.split(".")
        for place in range(len(parts)):
            if ".".join(parts[place:]) in wanted:
                counts[".".join((*parts[:place], ""))[: None if place else 0]] += 1
    return [prefix for prefix, count in counts.items() if 2 * count >= len(wanted)]


def _wrappers(tensors: Mapping[str, Stored]) -> list[str]:
    """The names of wrappers that stand before all names, or before each of two sets of the same names."""
    below: dict[str, set[str]] = {}
    for name in tensors:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts[:-1]) if part not in WRAPPERS), len(parts) - 1)
        below.setdefault("".join(f"{part}." for part in parts[:place]), set()).add(".".join(parts[place:]))
    twins = [prefix for prefix in below if prefix and list(below.values()).count(below[prefix]) > 1]
    columns = zip(*(prefix.split(".")[:-1] for prefix in below), strict=False)
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, columns)
    return twins or ["".join(f"{parts[0]}." for parts in shared)]


def _without_weights(content: Any) -> str:
    """Why a file without weights is refused."""
    entries = content.fields if isinstance(content, Inert) else content
    of_entries = entries.items() if isinstance(entries, dict) else ()
    module = next((key for key, one in of_entries if isinstance(one, Inert) and one.is_module), None)
    if isinstance(content, Inert):
        what = "a whole network" if content.is_module else "an object"
        return f"it holds {what} of the class {short_repr(content.name)[1:-1]}; {anew('')}"
    if module is not None:
        name = short_repr(entries[module].name)[1:-1]
        return f"its {short_repr(module)} is a whole network of the class {name}; {anew(f'[{short_repr(module)}]')}"
    if not isinstance(entries, dict):
        what = "tensor" if isinstance(content, Stored) else type(content).__name__
        return f"it holds a {what}, not a state dict"
    others = ", ".join(_entry(key, value) for key, value in list(entries.items())[:5])
    return f"it holds no weights, only {others}" if entries else "it is empty"


def _entry(key: Any, value: Any) -> str:
    name = short_repr(key)[1:-1] if isinstance(key, str) else short_repr(key)
    return f"{name} ({short_repr(value.name)[1:-1]}, which is not run)" if isinstance(value, Inert) else name


def anew(entry: str) -> str:
    """What to do with a file that only its own code can read."""
    return (
        "reading that runs code from the file. Where you trust it and have its code, write its weights anew: "
        f'python -c "import torch; torch.save(torch.load(PATH, weights_only=False){entry}.state_dict(), NEW_PATH)"'
    )


def _shown(key: Key) -> str:
    words = [short_repr(part)[1:-1] for part in key]
    return words[0] if len(words) == 1 else f"[{', '.join(words)}]"


def _listed(found: list[Candidate]) -> str:
    return ", ".join(_shown(one.key) if one.key else "[] (the file itself)" for one in found[:8])
