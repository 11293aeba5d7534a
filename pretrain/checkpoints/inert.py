"""Torch files whose pickle names more than tensors, read without importing or calling anything that they name.

Training checkpoints often hold, next to the weights, an ``argparse.Namespace``, an OmegaConf container, a callback's state or the
whole module. ``torch.load(weights_only=True)`` refuses these. Here every class or function that a pickle names, apart from the few
that make up a tensor, becomes a :class:`StandIn`: it accepts whatever the pickle does with it and does nothing. Nothing is ever
looked up by name, so there is nothing that a malicious pickle could run. Memory is bounded by the size of the file.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file that torch < 1.6 wrote
DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
LONGEST_NAME = 200  # characters of a name, of which real ones have some dozens
# Nothing harmless needs these: a pickle that names one was made to run something.
RUN_CODE = {
    "os",
    "posix",
    "nt",
    "sys",
    "subprocess",
    "shutil",
    "socket",
    "runpy",
    "importlib",
    "webbrowser",
    "pty",
    "ctypes",
    "code",
    "pickle",
    "_pickle",
    "marshal",
}
BUILTINS_THAT_RUN_CODE = {"eval", "exec", "compile", "open", "__import__", "breakpoint", "input"}


def printable(name: object) -> str:
    """``name``, which a file holds, so that it may stand in a line for people."""
    text = str(name)
    return text if text.isprintable() and len(text) <= LONGEST_NAME else repr(text)[:LONGEST_NAME]


class StandIn(dict):
    """What is built instead of an object of a class that only the file names: its items, and its attributes as ``state``.

    Attributes:
        path: the full name of the class or function that the file asks for.
        state: what the pickle gave the object as its state, usually its attributes by name; None without any.
    """

    path = ""
    state = None

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __call__(self, *args, **kwargs):
        return self

    def __setstate__(self, state):
        self.state = state

    def append(self, item):
        """Ignore an item of what was a list or a set."""

    extend = add = append
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__


class StoredTensor(Tensor):
    """A tensor that a pickle cannot change once it is built."""

    def __setstate__(self, state):
        pass


class _Build:
    """A function that may be called by a pickle and has nothing that it could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError("a function cannot be changed")

    def __call__(self, *args):
        return self._function(*args)


def _tensor(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest) -> Tensor:
    return torch.as_strided(flat, size, stride, offset).as_subclass(StoredTensor)  # checks the bounds


BUILDERS = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _Build(_tensor),
    "torch._utils._rebuild_tensor_v2": _Build(_tensor),
    "torch._utils._rebuild_parameter": _Build(lambda data, *rest: data),
    "torch._utils._rebuild_parameter_with_state": _Build(lambda data, *rest: data),
    **dict.fromkeys(("builtins.set", "__builtin__.set"), _Build(lambda items=(): set(items))),
}


class _Unpickler(pickle.Unpickler):
    """``storage(dtype, key, numel)`` gives a storage's elements, shape (numel,)."""

    def __init__(self, file: BinaryIO, storage: Callable[[torch.dtype, str, int], Tensor] | None = None):
        super().__init__(file)
        self._storage, self._stand_ins = storage, {}

    def find_class(self, module: str, name: str):
        path = printable(f"{module}.{name}")
        if module.partition(".")[0] in RUN_CODE or (module in ("builtins", "__builtin__") and name in BUILTINS_THAT_RUN_CODE):
            raise ValueError(f"it would run {path}")
        if module in ("torch", "torch.storage") and name in DTYPES:
            return DTYPES[name]
        if path not in self._stand_ins:
            self._stand_ins[path] = BUILDERS.get(path) or type("StandIn", (StandIn,), {"path": path})
        return self._stand_ins[path]

    def persistent_load(self, pid):
        if pid[0] == "module":  # torch < 1.6 kept the source of modules' classes
            return pid[1]
        kind, dtype, key, _, numel = pid[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype) or self._storage is None or any(pid[5:]):
            raise pickle.UnpicklingError("something that is no storage stands outside of the pickle")
        return self._storage(dtype, str(key), int(numel))


def read_inert(path: Path) -> object:
    """What torch saved to ``path``, tensors on the CPU and :class:`StandIn` for every other object.

    Raises:
        ValueError: it is damaged, or was made to run code (the message says so); many other exceptions where it is damaged.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path)
    with open(path, "rb") as file:
        return _read_legacy(file, path.stat().st_size)


def named_in(file: BinaryIO) -> set[str]:
    """Full names of all classes and functions that the pickle at the position of ``file`` names; the position moves behind it.

    Raises:
        ValueError: it is damaged, or asks for more memory than it has bytes.
    """
    start, names, largest = file.tell(), set(), 0
    strings, memo, last = [], {}, None
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            names.add(argument.replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = last
        elif opcode.name == "FRAME" or "PUT" in opcode.name:
            largest = max(largest, argument)
            memo |= {argument: last} if opcode.name != "FRAME" else {}
        else:
            last = memo.get(argument) if "GET" in opcode.name else argument
            strings += [last] if isinstance(last, str) else []
    if largest > file.tell() - start:
        raise ValueError("its pickle is damaged")
    return set(map(printable, names))


def _read_zip(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
        folder, content = name.removesuffix("data.pkl"), archive.read(name)
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its bytes are in big-endian order")
        kept: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
            if key not in kept:
                data = bytearray(archive.read(f"{folder}data/{key}"))
                kept[key] = torch.frombuffer(data, dtype=dtype, count=numel) if numel else torch.empty(0, dtype=dtype)
            return kept[key]

        named_in(io.BytesIO(content))
        return _Unpickler(io.BytesIO(content), storage).load()


def _read_legacy(file: BinaryIO, size: int) -> object:
    """Five pickles (a magic number, the version, the machine, the object, keys of storages), then the storages' elements."""
    kept: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        if not 0 <= numel * dtype.itemsize <= size:
            raise ValueError("a tensor is larger than the file")
        return kept.setdefault(key, torch.zeros(numel, dtype=dtype))

    def load() -> Any:
        start = file.tell()
        named_in(file)
        end = file.tell()
        file.seek(start)
        content = io.BytesIO(file.read(end - start))
        return _Unpickler(content, storage).load()

    if load() != LEGACY_MAGIC:
        raise ValueError("it was not written by torch.save")
    _, _, payload, keys = (load() for _ in range(4))
    for key in keys:
        flat = kept[key]
        data = bytearray(file.read(8 + flat.nbytes))
        if len(data) < 8 + flat.nbytes or int.from_bytes(data[:8], "little") != flat.numel():
            raise ValueError("it is truncated")
        if flat.numel():
            flat.copy_(torch.frombuffer(data, dtype=flat.dtype, offset=8))
    return payload


def parts_of(value: object) -> Mapping | None:
    """The named parts of a mapping or of an object that a :class:`StandIn` is for; of a module its tensors and its modules."""
    if isinstance(value, StandIn) and isinstance(value.state, dict):
        state = value.state
        if "_modules" not in state:  # type: ignore[attr-defined]
            return {**value, **state}
        groups = [state.get(name) for name in ("_parameters", "_buffers", "_modules")]  # type: ignore[attr-defined]
        hidden = state.get("_non_persistent_buffers_set") or ()  # type: ignore[attr-defined]
        return {key: part for group in groups if isinstance(group, Mapping) for key, part in group.items() if key not in hidden}
    return value if isinstance(value, Mapping) else None
