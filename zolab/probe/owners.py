"""Which module reads which trained weights."""

from collections.abc import Container, Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zolab.noise import Chunk
from zolab.probe.blocks import place_of

if TYPE_CHECKING:
    from zolab.probe.scratch import Scratch

_COMPILER = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
NEVER_CALLED = (nn.ParameterList, nn.ParameterDict, nn.ModuleList, nn.ModuleDict)
_busy: set[int] = set()
"""The modules that are looked through at this moment, in any thread."""
ALIGNMENT = 64  # bytes, as torch aligns its own memory: a product must take the same path and give the same bits


class Part:
    """One trained tensor in one module, and the places in which the module finds it.

    Args:
        number: of the tensor, among all trained ones.
        weight: the tensor, contiguous.
        pieces: of the tensor.
    """

    def __init__(self, number: int, weight: Tensor, pieces: Sequence[Chunk]):
        self.number, self.weight, self.pieces = number, weight, pieces
        self.places: list[tuple[dict[str, Any], str, Tensor]] = []
        self.bytes = weight.numel() * weight.element_size()


class Owner:
    """A module with the trained tensors that it reads while it is called.

    Args:
        module: the module.
        number: of the owner, among all.
    """

    def __init__(self, module: nn.Module, number: int):
        self.module, self.number = module, number
        self.parts: dict[int, Part] = {}
        self.elements: set[tuple[str, str]] = set()
        """As of `elements_of`."""
        self.depth = 0
        self.scratch: Scratch | None = None
        """Where it computes now."""
        self.at_once: bool | None = None
        """Whether it takes vectors of both sides in one call, once that has been tried."""

    def settle(self) -> None:
        """Note what is known once every part is there."""
        devices = {part.weight.device for part in self.parts.values()}
        if len(devices) > 1:
            kind = type(self.module).__name__
            raise ValueError(f"a {kind} has its weights on several devices, {', '.join(map(str, devices))}; give it one.")
        (self.device,) = devices
        self.starts = _starts(self.parts.values())

    def without(self, part: Part) -> "Owner":
        """The same module, which finds a part as it is and the others moved."""
        other = Owner(self.module, self.number)
        other.parts = {j: kept for j, kept in self.parts.items() if kept is not part}
        other.device, other.starts = self.device, _starts(other.parts.values())
        return other

    def restore(self) -> "Scratch | None":
        """The module as it was, from whatever state it is in; returns the scratch that it leaves."""
        scratch, self.scratch, self.depth = self.scratch, None, 0
        if scratch is not None:
            self.put_back()
        return scratch

    def put_back(self) -> None:
        """Let the module find its own weights."""
        for part in self.parts.values():
            for places, name, own in part.places:
                places[name] = own

    def untouched(self) -> bool:
        """Whether the module still holds the tensors that it did."""
        return all(places[name] is own for part in self.parts.values() for places, name, own in part.places)


def elements_of(path: str, lists: Container[str]) -> set[tuple[str, str]]:
    """Of a module the elements of lists that it is or lies in: path of the list, path of the element."""
    names = path.split(".")
    ways = ((".".join(names[:i]), ".".join(names[: i + 1])) for i in range(len(names)))
    return {(outer, element) for outer, element in ways if outer in lists}


def unread(owners: Sequence[Owner], calls: Iterable[int]) -> tuple[list[int], list[int]]:
    """Numbers of the tensors that no module has read: those that a model passed over, and the others.

    It passed over a module that belongs to an element of a `ModuleList` or `ModuleDict` which was left alone while another one
    was called, such as an expert of a mixture that no token was sent to. The loss does not depend on its weights then.

    Args:
        owners: all of a model.
        calls: the numbers of those that were called.
    """
    called = set(calls)
    read = {j for number in called for j in owners[number].parts}
    rest = [owner for owner in owners if not owner.parts.keys() <= read]
    read_elements = {element for number in called if rest for element in owners[number].elements}
    lists = {path for path, _ in read_elements}
    passed = [
        owner for owner in rest if any(path in lists and (path, one) not in read_elements for path, one in owner.elements)
    ]
    over = {j for owner in passed for j in owner.parts} - read
    return sorted(over), sorted({j for owner in rest for j in owner.parts} - read - over)


def is_bare(module: nn.Module) -> bool:
    """Whether a module is called as its class says, with no hook of anybody; asked before any of ours is there."""
    return not (module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module))


def is_read_alone(module: nn.Module) -> bool:
    """Whether nobody but a module itself reads its weights: hooks of others, if there are any, say `reads_only_inputs`."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return "forward" not in vars(module) and all(getattr(hook, "reads_only_inputs", False) for hook in hooks)


def _starts(parts: Iterable[Part]) -> list[int]:
    """Where parts lie one after the other, in bytes, and where the last one ends."""
    return list(accumulate((-(-part.bytes // ALIGNMENT) * ALIGNMENT for part in parts), initial=0))


def owners_of(model: nn.Module, tensors: Sequence[Tensor], pieces: Sequence[Chunk]) -> tuple[list[Owner], list[str]]:
    """The modules that read the tensors when called, and the tensors' names in the model.

    What a `ParameterList` or `ParameterDict` holds, and the output projection of `MultiheadAttention`, is read by the module
    around it: these are never called.

    Raises:
        ValueError: a tensor is none of the model's, the model is compiled, or a module has weights on several devices.
    """
    numbers = {place_of(tensor): j for j, tensor in enumerate(tensors)}
    names: list[str | None] = [None] * len(tensors)
    owners: dict[nn.Module, Owner] = {}
    readers: dict[nn.Module, nn.Module] = {}
    lists = {path for path, module in model.named_modules() if isinstance(module, (nn.ModuleList, nn.ModuleDict))}
    of_tensor: list[list[Chunk]] = [[] for _ in tensors]
    for piece in pieces:
        of_tensor[piece.tensor].append(piece)
    for path, module in model.named_modules():
        _refuse_compiled(module, path)
        reader = readers.get(module, module)
        for name, child in module.named_children():
            attention = isinstance(module, nn.MultiheadAttention) and name == "out_proj"
            if attention or isinstance(child, NEVER_CALLED):
                readers[child] = reader
        for name, value in module._parameters.items():
            j = None if value is None else numbers.get(place_of(value))
            if value is not None and j is not None:
                names[j] = names[j] or (f"{path}.{name}" if path else name)
                owner = owners.setdefault(reader, Owner(reader, len(owners)))
                owner.elements = elements_of(path, lists)
                part = owner.parts.setdefault(j, Part(j, tensors[j], of_tensor[j]))
                part.places.append((module._parameters, name, value))
    for j, name in enumerate(names):
        if name is None:
            shape = tuple(tensors[j].shape)
            raise ValueError(
                f"trained tensor {j}, of shape {shape}, is none of the model's; give the model that it is part of."
            )
    for owner in owners.values():
        owner.settle()
    return list(owners.values()), [name for name in names if name is not None]


def _refuse_compiled(module: nn.Module, path: str) -> None:
    compiled = type(module).__module__.startswith("torch._dynamo") or getattr(module, "_compiled_call_impl", None)
    if compiled or isinstance(module, torch.jit.ScriptModule):
        where = f"module {path}" if path else "the model"
        raise ValueError(f"{where} is compiled, and compiled code does not ask where weights are; give the model as it was.")


def refuse_compiler(module: nn.Module) -> None:
    """Raise ValueError if what calls a module is being compiled, as by `torch.compile(model)(x)` in a closure."""
    compiles = getattr(_COMPILER, "get_eval_frame_callback", None)
    if compiles and compiles() is not None:
        raise ValueError(
            f"the closure calls a compiled {type(module).__name__}, and compiled code does not ask where weights are; call the "
            "model as it was."
        )


def check_free(owners: Sequence[Owner]) -> set[int]:
    """What names the owners' modules. Raises RuntimeError if they are claimed."""
    modules = {id(owner.module) for owner in owners}
    if not _busy.isdisjoint(modules):
        raise RuntimeError("the model is being looked through already: a step cannot be taken inside another one's closure.")
    return modules


def claim(owners: Sequence[Owner]) -> set[int]:
    """The same, and nobody else may claim them until they are let go."""
    modules = check_free(owners)
    _busy.update(modules)
    return modules


def let_go(modules: set[int]) -> None:
    """End a claim."""
    _busy.difference_update(modules)
