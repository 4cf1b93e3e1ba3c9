"""The networks in a file that `torch.save` wrote for the authors of ZO Fine-tuner, read without an unpickler.

A pickle is a program for a stack machine. `_Machine` knows the few instructions that such a file needs and makes nothing but
texts, numbers, tuples, dictionaries with texts as keys, tensors and stand-ins of three modules: nothing of a file is executed.
What a file may take is bounded by the number of networks that it should hold, before anything is unpacked.
"""

import io
import math
import os
import pickletools
import zipfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zolab.pertnn.card import brief
from zolab.pertnn.network import FEATURES
from zolab.records.files import read_bytes

NETWORK = ("Sequential", "Linear", "Tanh", "Linear")  # and what it consists of
BYTES = 1 << 15, 1 << 20  # a network and a file: a thousand units, where the published ones have 64
PROGRAM = 1 << 12, 1 << 16  # the same of the pickle, which needs 1.3 kB a network
ENTRIES = 4, 64  # the same of the archive's directory
STACK = 10_000  # torch.save puts at most a thousand pairs on it at a time


def read_networks(path: str | os.PathLike, count: int) -> dict[str, dict[str, Tensor]]:
    """Weights `w1` (h, 5), `b1` (h,), `w2` (h,) and `b2` () of each network, float32, by the name of its tensor.

    Args:
        path: the file.
        count: of the networks that it should hold; it bounds time and memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than so many networks need, damaged, or holds anything else.
    """
    content = read_bytes(path, count * BYTES[0] + BYTES[1])
    try:
        if content.count(b"PK\x01\x02") > count * ENTRIES[0] + ENTRIES[1]:  # how an entry of the directory begins
            raise ValueError(f"its archive has more entries than {count} networks need")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            networks = _unpacked(archive, len(content), count)
        layers = {name: _layers(network) for name, network in networks.items()}
        if sum(w.nbytes for layer in layers.values() for w in layer.values()) > len(content):
            raise ValueError("its networks share weights")
        return {name: {key: _numbers(w) for key, w in layer.items()} for name, layer in layers.items()}
    except Exception as error:  # what zipfile raises at damage is not documented
        raise ValueError(f"{path} is not a released fine-tuner that can be imported: {brief(error)}.") from error


def _unpacked(archive: zipfile.ZipFile, size: int, count: int) -> dict[str, Any]:
    """What the archive's pickle describes: a dictionary."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("its entries are compressed, which torch.save does not do")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError("its entries claim more bytes than the file has")
    programs = [entry for entry in entries if entry.filename.count("/") == 1 and entry.filename.endswith("/data.pkl")]
    if len(programs) != 1:
        raise ValueError("it has no data.pkl of its own, or several")
    root = programs[0].filename.removesuffix("data.pkl")
    order = root + "byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise ValueError("its numbers are not little-endian")
    if programs[0].file_size > count * PROGRAM[0] + PROGRAM[1]:
        raise ValueError(f"its pickle has {programs[0].file_size:,} bytes, more than {count} networks need")
    networks = _Machine(archive, root).run(archive.read(programs[0]))
    if not isinstance(networks, dict):
        raise ValueError(f"it holds no dictionary of networks but a {type(networks).__name__}")
    return networks


class _Module:
    """A stand-in, which only keeps the state of what it stands for."""

    def __init__(self, kind: str):
        self.kind, self.state = kind, {}

    def part(self, name: str) -> dict[str, Any]:
        entry = self.state.get(name)
        if not isinstance(entry, dict):
            raise ValueError(f"a {self.kind} has no {name}")
        return entry


class _Machine:
    """The stack machine of pickle protocol 2, as far as released files need it."""

    def __init__(self, archive: zipfile.ZipFile, root: str):
        self.archive, self.root = archive, root
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, np.ndarray] = {}

    def run(self, program: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._do(opcode.name, argument)
            if len(self.stack) > STACK:
                raise ValueError("its pickle piles up more than networks need")

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO":
                pass
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "MARK":
                self.marks.append(len(stack))
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE":
                stack.append(tuple(self._since(self.marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._last(int(name[-1]))))
            case "SETITEM" | "SETITEMS":
                items = self._last(2) if name == "SETITEM" else self._since(self.marks.pop())
                _fill(stack[-1], items)
            case "GLOBAL":
                stack.append(_known(argument))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "NEWOBJ":
                kind, values = self._last(2)
                if not isinstance(kind, str) or kind not in NETWORK or values != ():
                    raise ValueError("it makes something that is no module")
                stack.append(_Module(kind))
            case "REDUCE":
                stack.append(_made(*self._last(2)))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], _Module) or not isinstance(state, dict):
                    raise ValueError("it gives a state to something that is no module")
                stack[-1].state = state
            case _:
                raise ValueError(f"its pickle has the instruction {name}, which networks do not need")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("its pickle is damaged")
        return self._since(len(self.stack) - count)

    def _since(self, place: int) -> list[Any]:
        values = self.stack[place:]
        del self.stack[place:]
        return values

    def _storage(self, entry: Any) -> np.ndarray:
        """The numbers of an entry, which tensors are views of."""
        if not isinstance(entry, tuple) or len(entry) != 5:
            raise ValueError("it refers to what is no storage of floats")
        tag, storage, key, _, count = entry
        if tag != "storage" or not isinstance(storage, np.dtype) or type(key) is not str or type(count) is not int:
            raise ValueError("it refers to what is no storage of floats")
        if key not in self.storages:
            self.storages[key] = np.frombuffer(self.archive.read(f"{self.root}data/{key}"), np.uint8)
        numbers, expected = self.storages[key], count * storage.itemsize
        if len(numbers) != expected:
            raise ValueError(f"the storage {brief(key)} has {len(numbers)} bytes, but {count} numbers need {expected}")
        return numbers.view(storage)


def _known(place: str) -> Any:
    """What a name of the file stands for here."""
    if place not in KNOWN:
        raise ValueError(f"it asks for {brief(place.replace(' ', '.'))}, which no tensor or network of this kind needs")
    return KNOWN[place]


def _fill(target: Any, items: list[Any]) -> None:
    keys, values = items[::2], items[1::2]
    if type(target) is not dict or len(keys) != len(values) or not all(type(key) is str for key in keys):
        raise ValueError("it has something else than texts as keys")
    target.update(zip(keys, values, strict=True))


def _made(function: Any, values: Any) -> Any:
    if not callable(function) or type(values) is not tuple:
        raise ValueError("it calls something that is no function")
    return function(*values)


def _empty_dict() -> dict[str, Any]:
    return {}


def _empty_set(items: Any) -> tuple[()]:
    if items != []:
        raise ValueError("it has a set with members")
    return ()


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> np.ndarray:
    """A contiguous view, which is all that these files hold."""
    whole = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 2
    whole = whole and all(type(n) is int and 0 <= n < 2**31 for n in (offset, *shape, *stride))
    if not whole or not isinstance(storage, np.ndarray):
        raise ValueError("it has a tensor of no shape that a network has")
    count, contiguous = math.prod(shape), tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if stride != contiguous or offset > len(storage) - count:
        raise ValueError(f"a tensor of shape {shape} and stride {stride} does not lie in its storage")
    return storage[offset : offset + count].reshape(shape)


KNOWN: dict[str, Any] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "collections OrderedDict": _empty_dict,
    "__builtin__ set": _empty_set,
    "builtins set": _empty_set,
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch.nn.modules.container Sequential": "Sequential",
    "torch.nn.modules.linear Linear": "Linear",
    "torch.nn.modules.activation Tanh": "Tanh",
}


def _layers(network: Any) -> dict[str, np.ndarray]:
    """The weights of a Sequential(Linear(5, h), Tanh, Linear(h, 1)), views of what the file holds."""
    parts = list(network.part("_modules").values()) if isinstance(network, _Module) else []
    if [part.kind if isinstance(part, _Module) else None for part in (network, *parts)] != [*NETWORK]:
        raise ValueError("a network is not a Linear, a Tanh and a Linear")
    parameters = [part.part("_parameters").get(name) for part in parts[::2] for name in ("weight", "bias")]
    shapes = [w.shape if isinstance(w, np.ndarray) else None for w in parameters]
    hidden = shapes[1][0] if shapes[1] else 0
    if shapes != [(hidden, len(FEATURES)), (hidden,), (1, hidden), (1,)] or not hidden:
        raise ValueError(f"a network has weights of shapes {shapes}")
    w1, b1, w2, b2 = parameters
    return {"w1": w1, "b1": b1, "w2": w2[0], "b2": b2[0]}


def _numbers(weights: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(np.array(weights, np.float32))
    if not tensor.isfinite().all():
        raise ValueError("a weight is not finite")
    return tensor
