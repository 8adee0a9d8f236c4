"""Pickles as data: interpreted here, so that nothing in them is imported or called.

A pickle is a program for a small machine that imports names and calls them. This machine has no imports and no calls:
a name stays text, and a call becomes an `Inert` record of the name and its arguments. Only dictionaries and the tensors
of torch.save are recognised by their names, and built by the code of this package.
"""

from __future__ import annotations

import os
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, cast

from nag.weights.stored import ITEMSIZE, Storage, stored

BYTES_AT_MOST = 2**26  # of a pickle: that of DiT-XL/2 with its optimizer has 0.3 MB
STEPS_AT_MOST = 4_000_000  # of the machine; the same has 40,000
LONGEST_NAME = 500  # characters
DICTS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict", "__builtin__.dict")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
TENSORS = tuple(f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3"))
OLDER_CLASSES = ("copyreg._reconstructor", "copy_reg._reconstructor")
PLAIN_TENSORS = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
STORAGES = {
    **{"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8", "_UntypedStorage": "uint8"},
    **{"ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128"},
}

Find = Callable[[str, int], Storage]  # from a key and a size in bytes


class Name(str):
    """The full name of a class or function in a pickle. It is not imported."""

    __slots__ = ()


@dataclass(eq=False)
class Inert:
    """What a pickle would have made by calling `name`. Nothing was called."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)

    @property
    def fields(self) -> dict[Any, Any]:
        """Its attributes or, of a class like dict, its items."""
        return self.items or (self.state if isinstance(self.state, dict) else {})

    @property
    def is_module(self) -> bool:
        """Whether it was a torch.nn.Module."""
        return "_parameters" in self.fields and "_modules" in self.fields


@dataclass(frozen=True)
class PickledStorage:
    """A storage, with the dtype that its class has. start: of this view of it, in elements."""

    storage: Storage
    dtype: str
    start: int = 0


_MARK = object()


class Machine:
    """Runs one pickle. find: the storage of a key; it raises ValueError for one that is not in the file."""

    def __init__(self, find: Find) -> None:
        self.find = find
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        """The value of the pickle at this place of a file. Raises ValueError if it is damaged or too large."""
        limited = _Limited(file)
        try:
            for steps, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], limited))):
                if steps > STEPS_AT_MOST:
                    raise ValueError(f"it takes more than {STEPS_AT_MOST:,} steps to read")
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
            raise ValueError(f"its pickle is damaged or not of torch.save: {_first_line(error)}") from None
        raise ValueError("its pickle has no end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name not in ("PROTO", "FRAME"):
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise ValueError(f"unexpected {name}")
            step(argument)

    def _marked(self) -> list[Any]:
        """The values since the last mark, taken from the stack."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise LookupError("a mark is missing")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def _taken(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise LookupError("a value is missing")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self._taken(1)

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _tuple1(self, _: Any) -> None:
        self.stack.append(tuple(self._taken(1)))

    def _tuple2(self, _: Any) -> None:
        self.stack.append(tuple(self._taken(2)))

    def _tuple3(self, _: Any) -> None:
        self.stack.append(tuple(self._taken(3)))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    _frozenset = _list

    def _dict(self, _: Any) -> None:
        made: dict[Any, Any] = {}
        _put(made, self._marked())
        self.stack.append(made)

    def _append(self, _: Any) -> None:
        _extend(self.stack[-2], self._taken(1))

    def _appends(self, _: Any) -> None:
        values = self._marked()
        _extend(self.stack[-1], values)

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        values = self._taken(2)
        _put(self.stack[-1], values)

    def _setitems(self, _: Any) -> None:
        values = self._marked()
        _put(self.stack[-1], values)

    def _global(self, argument: str) -> None:
        self.stack.append(_name(argument.split(" ")))

    def _stack_global(self, _: Any) -> None:
        self.stack.append(_name(self._taken(2)))

    def _inst(self, argument: str) -> None:
        self.stack.append(Inert(_name(argument.split(" ")), tuple(self._marked())))

    def _obj(self, _: Any) -> None:
        made, *arguments = self._marked()
        self.stack.append(_called(made, tuple(arguments)))

    def _reduce(self, _: Any) -> None:
        made, arguments = self._taken(2)
        self.stack.append(_called(made, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        made, arguments, _named = self._taken(3)
        self.stack.append(_called(made, arguments))

    def _build(self, _: Any) -> None:
        (state,) = self._taken(1)
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def _binpersid(self, _: Any) -> None:
        kind, of, key, _device, count, *view = self._taken(1)[0]
        dtype = STORAGES.get(of.rpartition(".")[2]) if isinstance(of, Name) else None
        if (
            kind != "storage"
            or not isinstance(of, Name)
            or type(key) is not str
            or type(count) is not int
            or not 0 <= count < 2**48
        ):
            raise ValueError("a storage is not one of torch.save")
        if dtype is None:  # such as that of a quantised tensor
            self.stack.append(Inert(of))
            return
        start = view[0][1] if view and view[0] is not None else 0
        self.stack.append(PickledStorage(self.find(key, count * ITEMSIZE[dtype]), dtype, start))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_DICT": dict},
}
_LITERALS = frozenset(
    [
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    ]
)


class _Limited:
    """A file of which pickletools reads at most BYTES_AT_MOST. (A file in memory could not limit one large read.)"""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.left = file, BYTES_AT_MOST

    def read(self, count: int) -> bytes:
        self._spend(count)
        return self.file.read(count)

    def readline(self) -> bytes:
        line = self.file.readline(self.left)
        self._spend(len(line))
        return line

    def tell(self) -> int:
        return self.file.tell()

    def _spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError(f"it has more than {BYTES_AT_MOST:,} bytes that are not tensors")


def _name(parts: list[Any]) -> Name:
    if len(parts) != 2 or not all(isinstance(part, str) and len(part) <= LONGEST_NAME for part in parts):
        raise ValueError("a name is not valid")
    return Name(".".join(parts))


def _put(target: Any, values: list[Any]) -> None:
    """Keys and values, in turn, into a dictionary."""
    items = target.items if isinstance(target, Inert) else target
    if not isinstance(items, dict):
        raise TypeError("an item is given to what is not a dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if key is None or isinstance(key, str | int | float | bytes):
            items[key] = value
        else:  # never hashed: a deeply nested tuple would end the process
            items[Inert(type(key).__name__)] = value


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Inert):  # a class like list
        target.items |= {len(target.items) + place: value for place, value in enumerate(values)}
    else:
        raise TypeError("a value is appended to what is not a list")


def _called(made: Any, arguments: Any) -> Any:
    """In place of `made(*arguments)`."""
    if not isinstance(arguments, tuple):
        raise TypeError("arguments are not a tuple")
    name = made if isinstance(made, Name) else "the result of a call"
    if name in DICTS:
        return _dictionary(arguments)
    if name in PARAMETERS:
        return arguments[0]
    if name in TENSORS:
        return _tensor(name, arguments)
    if name == "torch._tensor._rebuild_from_type_v2" and arguments[0] in TENSORS and arguments[1] in PLAIN_TENSORS:
        return _tensor(arguments[0], arguments[2])
    if name == "torch.Size":
        return tuple(arguments[0])
    if name in OLDER_CLASSES:
        return Inert(arguments[0] if isinstance(arguments[0], Name) else "a call", arguments[2:])
    return Inert(name, arguments)


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    pairs = arguments[-1] if arguments and isinstance(arguments[-1], list) else ()
    for pair in pairs:
        _put(made, list(pair))
    return made


def _tensor(name: str, arguments: tuple[Any, ...]) -> Any:
    """`_rebuild_tensor*(storage, offset, shape, stride, ...)`."""
    of, offset, shape, stride = arguments[:4]
    if not isinstance(of, PickledStorage):
        return Inert(getattr(of, "name", "a tensor without storage"))
    dtype = of.dtype
    if name.endswith("_v3"):
        if not isinstance(arguments[6], Name):
            raise TypeError("a dtype is not a name")
        dtype = arguments[6].removeprefix("torch.")
        if dtype not in ITEMSIZE:
            return Inert(arguments[6])
    return stored(of.storage, dtype, tuple(shape), tuple(stride), of.start + offset)


def plain(value: Any, depth: int = 6) -> Any:
    """A value as text, numbers, lists and dictionaries; None for what is none of these. Paths become text."""
    if value is None or isinstance(value, str | int | float):
        return value
    if depth == 0:
        return None
    if isinstance(value, list | tuple):
        return [plain(each, depth - 1) for each in value[:1000]]
    if isinstance(value, Inert):
        if value.name.startswith("pathlib") and all(isinstance(part, str) for part in value.arguments):
            return os.path.join("", *value.arguments)
        fields = value.fields
        inner = next((fields[key] for key in ("_content", "_val") if key in fields), fields)  # those of OmegaConf
        return plain(inner, depth - 1)
    if isinstance(value, Mapping):
        return {key: plain(each, depth - 1) for key, each in list(value.items())[:1000] if isinstance(key, str)}
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
