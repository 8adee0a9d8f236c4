"""No code in a file of weights runs, whatever its pickle asks for; what is refused says why."""

from __future__ import annotations

import io
import pickle
import random
import resource
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from nag.weights import pickled as machine
from nag.weights import read_weights
from nag.weights.pickled import Inert, Machine
from nag.weights.stored import Storage
from tests.nag.checkpoint_files import SAVED, states

CALLS = b"cposix\nsystem\n"
TOUCH = b"X\x09\x00\x00\x00touch ran"


class Named(torch.Tensor):
    """A subclass, as libraries for quantised or sharded weights have them."""


def interpreted(data: bytes) -> Any:
    return Machine(lambda key, size: Storage(b"", size, 0)).run(io.BytesIO(data))


def archive(path: Path, pickled: bytes, storages: dict[str, bytes], **options: Any) -> Path:
    """A zip as torch.save writes it."""
    with zipfile.ZipFile(path, "w", **options) as made:
        made.writestr("archive/data.pkl", pickled)
        made.writestr("archive/byteorder", b"little")
        for key, data in storages.items():
            made.writestr(f"archive/data/{key}", data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        read_weights(path).state()
    words = str(error.value)
    assert words.startswith(f"{path}: ")
    assert "\n" not in words
    return words.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    "program",
    [
        CALLS + TOUCH + b"\x85R.",  # REDUCE
        CALLS + TOUCH + b"\x85\x81.",  # NEWOBJ
        CALLS + TOUCH + b"\x85}\x92.",  # NEWOBJ_EX
        b"(" + TOUCH + b"iposix\nsystem\n.",  # INST
        b"(" + CALLS + TOUCH + b"o.",  # OBJ
        b"X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93" + TOUCH + b"\x85R.",  # STACK_GLOBAL
        b"ccopyreg\n_reconstructor\n(" + CALLS + b"cbuiltins\nobject\nNtR.",
        b"cbuiltins\ngetattr\n" + CALLS + TOUCH + b"\x86R" + TOUCH + b"\x85R.",  # the result of a call is called
        b"cargparse\nNamespace\n)\x81}X\x0c\x00\x00\x00__setstate__" + CALLS + b"sb.",  # BUILD
        b"cbuiltins\nexec\nX\x1e\x00\x00\x00open('ran', 'w').write('code')\x85R.",
        b"cmodule_that_writes\nThing\n)R.",  # its import would write
    ],
)
def test_nothing_is_called_or_imported(program: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "module_that_writes.py").write_text("open('ran', 'w').close()\n")
    value = interpreted(b"\x80\x04" + program)
    assert isinstance(value, Inert)
    path = archive(tmp_path / "x.pt", b"\x80\x04" + program, {})
    assert "it holds an object of the class" in refusal(path)
    assert not (tmp_path / "ran").exists()
    assert "module_that_writes" not in sys.modules


@pytest.mark.parametrize("code", [0x82, 0x83, 0x84, 0x97, 0x98])
def test_extensions_and_buffers_are_refused(code: int) -> None:
    """Codes of copyreg stand for classes that this process may know; buffers come from elsewhere."""
    with pytest.raises(ValueError, match="unexpected"):
        interpreted(b"\x80\x05" + bytes([code, 1, 0, 0, 0]) + b".")


def test_no_pickle_takes_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large counts, a memo of 2^32 places, names that double, tuples in tuples: refused, or harmless."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data, words in (
        (b"\x8e" + struct.pack("<Q", 2**40) + b".", "bytes that are not tensors"),
        (b"\x96" + struct.pack("<Q", 2**40) + b".", "bytes that are not tensors"),
        (b"X\xff\xff\xff\x7f.", "bytes that are not tensors"),
        (b"X\x01\x00\x00\x00a" + b"q\x00h\x00\x93" * 40 + b".", "damaged"),
        (b"X\xf4\x01\x00\x00" + b"a" * 500 + b"q\x00" + b"h\x00\x93q\x00" * 40 + b".", "damaged"),
    ):
        with pytest.raises(ValueError, match=words):
            interpreted(b"\x80\x04" + data)
    assert interpreted(b"\x80\x04Nr\xff\xff\xff\xff.") is None
    nested = interpreted(b"\x80\x04}N" + b"\x85" * 200_000 + b"Ns.")
    assert [key.name for key in nested] == ["tuple"]
    assert interpreted(b"\x80\x04)" + b"q\x00h\x00\x86" * 60 + b".") is not None  # 2^60 leaves, if it were copied
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000, "KB"
    monkeypatch.setattr(machine, "STEPS_AT_MOST", 1000)
    with pytest.raises(ValueError, match="more than 1,000 steps"):
        interpreted(b"\x80\x04" + b"N0" * 1000 + b"N.")
    monkeypatch.setattr(machine, "BYTES_AT_MOST", 1000)
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        interpreted(b"\x80\x04" + b"N0" * 499 + b"NNNN.")


def test_what_is_no_plain_tensor(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    for weight, words in (
        (quantised, "is quantised"),
        (torch.eye(3).to_sparse(), "is sparse"),
        (torch.ones(3).as_subclass(Named), "is of a subclass"),
        (torch.ones(3, device="meta"), "is on the device meta"),
        (torch.ones(3).numpy(), "is a numpy array"),
    ):
        torch.save({"good": torch.ones(2), "odd": weight}, tmp_path / "x.pt")
        words_of_it = refusal(tmp_path / "x.pt")
        assert f"its weight 'odd' {words}" in words_of_it
        assert "save it as a plain tensor" in words_of_it


def test_parameters_and_views_are_tensors(tmp_path: Path) -> None:
    """Also those with attributes of their own, transposed, tied, empty, or of 8 bits."""
    base = torch.arange(24.0).reshape(4, 6)
    tagged = torch.nn.Parameter(torch.ones(2))
    tagged.tag = "x"  # type: ignore[attr-defined]
    plain = torch.ones(3)
    plain.tag = "y"  # type: ignore[attr-defined]
    state = {
        "view": base[1:3, ::2],
        "turned": base.T,
        "tied": base,
        "parameter": tagged,
        "plain": plain,
        "empty": torch.ones(0, 3),
        "scalar": torch.tensor(2.5),
        "eight": torch.ones(4).to(torch.float8_e4m3fn),
        "double": torch.ones(2, dtype=torch.float64),
        "whole": torch.arange(3),
        "flags": torch.tensor([True, False]),
    }
    for new in (True, False):
        names = [name for name in state if new or name != "eight"]
        torch.save({n: state[n] for n in names}, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        read = read_weights(tmp_path / "x.pt").state()
        assert list(read) == names
        for name in names:
            assert read[name].dtype == state[name].dtype, name
            assert torch.equal(read[name].float(), state[name].detach().float()), name


def test_programs_are_refused_with_the_command_that_writes_weights(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    for content, entry in ((module, ""), ({"ema": module, "step": 3}, "['ema']")):
        torch.save(content, tmp_path / "x.pt")
        words = refusal(tmp_path / "x.pt")
        assert "a whole network of the class torch.nn.modules.linear.Linear" in words
        command = f"torch.save(torch.load(PATH, weights_only=False){entry}.state_dict(), NEW_PATH)"
        assert f'python -c "import torch; {command}"' in words
        exec(command, {"torch": torch, "PATH": tmp_path / "x.pt", "NEW_PATH": tmp_path / "y.pt"})  # noqa: S102
        assert set(read_weights(tmp_path / "y.pt").tensors) == {"weight", "bias"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), tmp_path / "x.pt")
    words = refusal(tmp_path / "x.pt")
    assert "it is a TorchScript program" in words
    assert "torch.save(torch.jit.load(PATH).state_dict(), NEW_PATH)" in words
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": 3}))
    assert "pickle.load(open(PATH, 'rb'))['ema'].state_dict()" in refusal(tmp_path / "x.pkl")


def tensor(size: int, offset: int = 0, stride: int = 1, held: int = 4, key: str = "0") -> bytes:
    """A state dict of one tensor, by hand."""
    numbers = [f"I{n}\n".encode() for n in (held, offset, size, stride)]
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00" + key.encode()
    storage += b"X\x03\x00\x00\x00cpu" + numbers[0] + b"tQ"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers[1] + numbers[2] + b"\x85" + numbers[3] + b"\x85"
    return b"\x80\x02}X\x01\x00\x00\x00a" + made + b"\x89NtRs."


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": 5}, "does not fit its 4 stored numbers"),
        ({"size": 4, "offset": 1}, "does not fit"),
        ({"size": 2, "stride": 4}, "does not fit"),
        ({"size": 10**9, "stride": 0}, "does not fit"),
        ({"size": -1}, "invalid shape"),
        ({"size": 2, "stride": -1}, "invalid shape"),
        ({"size": 4, "held": 5}, "is missing or too short"),
        ({"size": 4, "key": "1"}, "is missing or too short"),
        ({"size": 4, "held": -4}, "not one of torch.save"),
    ],
)
def test_tensors_beyond_their_storage(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    data = struct.pack("<4f", *range(4))
    right = archive(tmp_path / "x.pt", tensor(4), {"0": data})
    assert read_weights(right).state()["a"].tolist() == [0, 1, 2, 3]
    assert words in refusal(archive(tmp_path / "x.pt", tensor(**given), {"0": data}))


def test_zips_that_torch_does_not_write(tmp_path: Path) -> None:
    data = struct.pack("<4f", *range(4))
    packed = archive(tmp_path / "x.pt", tensor(4), {"0": data}, compression=zipfile.ZIP_DEFLATED)
    assert "compressed or encrypted" in refusal(packed)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as made:
        made.writestr("README", "weights")
    assert "it is a zip, but not of torch.save" in refusal(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as made:
        made.writestr("archive/data.pkl", tensor(4))
        made.writestr("archive/byteorder", b"big")
    assert "big-endian" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["official training", "EMA of Lightning", "old torch"])
def test_changed_bytes_are_refused_or_harmless(name: str, tmp_path: Path) -> None:
    """Whatever changes in a pickle, only ValueError is raised."""
    raw, ema = ({key: weight[:1] for key, weight in state.items()} for state in states())
    whole = SAVED[name](tmp_path, raw, ema).read_bytes()
    chance = random.Random(1)
    begins = whole.find(b"\x80\x02")
    ends = whole.rfind(b"ub.") if whole.rfind(b"ub.") > begins else begins + 4000
    refused = []
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3, 20))):
            changed[chance.randrange(begins, min(ends, begins + 6000))] = chance.randrange(256)
        try:
            read_weights(bytes(changed)).state()
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 40
    assert all(words.startswith("checkpoint: ") for words in refused)
