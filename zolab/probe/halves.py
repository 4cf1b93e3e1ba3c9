"""The halves of a doubled batch: taken apart, run through a linear layer, compared."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

NEAR = {torch.float32: 1e-3, torch.float64: 1e-6}  # how far halves may be off, of their length; half precision: 5e-2
PLAIN = (bool, int, float, str, type(None))
Moved = list[tuple[dict[str, Any], str, Tensor, Tensor]]
"""Where a module finds a tensor, and what it is on both sides."""


class RowsMixedError(Exception):
    """Something has not as many rows as the batch."""


def twice(leaf: Any) -> Any:
    """A tensor's rows two times; anything else as it is."""
    return torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) else leaf


def half_of(value: Any, rows: int, second: bool) -> Any:
    """One half of all tensors in a structure. Raises RowsMixedError if one has not so many rows, or for what is no number."""

    def half(leaf):
        if not isinstance(leaf, Tensor):
            if isinstance(leaf, PLAIN):
                return leaf
            raise RowsMixedError(type(leaf).__name__)
        if not leaf.dim() or len(leaf) != rows:
            raise RowsMixedError(str(tuple(leaf.shape)))
        return leaf[rows // 2 :] if second else leaf[: rows // 2]

    return tree_map(half, value)


def joined(first: Any, second: Any) -> Any:
    """Two halves as one."""
    return tree_map(lambda *pair: torch.cat(pair) if isinstance(pair[0], Tensor) else pair[0], first, second)


def show(moved: Moved, side: int) -> None:
    """Let a module find one side of its weights."""
    for places, name, plus, minus in moved:
        places[name] = plus if side > 0 else minus


def linear(module: nn.Linear, x: Tensor, half: int, moved: Moved) -> Tensor | None:
    """Both halves of a linear layer's output where they belong, without a copy; None if `x` is not what it takes."""
    if x.dtype != module.weight.dtype or not x.is_contiguous() or torch.is_autocast_enabled(x.device.type):
        return None
    out = x.new_empty(*x.shape[:-1], module.out_features)
    for side, part in ((1, slice(None, half)), (-1, slice(half, None))):
        show(moved, side)
        rows, target = x[part].view(-1, module.in_features), out[part].view(-1, module.out_features)
        if module.bias is None:
            torch.mm(rows, module.weight.t(), out=target)
        else:
            torch.addmm(module.bias, rows, module.weight.t(), out=target)
    return out


def one_by_one(forward: Callable, first: Any, second: Any, moved: Moved) -> Any:
    """Both halves of any module's output, from its arguments' halves."""
    show(moved, 1)
    above = forward(*first[0], **first[1])
    show(moved, -1)
    return joined(above, forward(*second[0], **second[1]))


def at_once(forward: Callable, x: Tensor, half: int, moved: Moved) -> Tensor:
    """The same of a module that multiplies by vectors, such as a norm: once, on vectors of both sides; it may refuse them."""
    for places, name, plus, minus in moved:
        places[name] = torch.stack([plus, minus]).view(2, *[1] * (x.dim() - 1), -1)
    return forward(x.view(2, half, *x.shape[1:])).view(x.shape)


def takes_both(forward: Callable, x: Tensor, half: int, moved: Moved) -> bool:
    """Whether `at_once` gives the bits of `one_by_one`."""
    if any(plus.dim() != 1 for _, _, plus, _ in moved) or x.dim() < 2 or not x.is_contiguous():
        return False
    try:
        both = at_once(forward, x, half, moved)
    except Exception:  # what does not take vectors of another shape says so in many ways, and runs one by one
        return False
    return torch.equal(both, one_by_one(forward, ((x[:half],), {}), ((x[half:],), {}), moved))


def alike(one: tuple[list[Any], Any], two: tuple[list[Any], Any]) -> bool:
    """Whether two calls have the same arguments."""
    if one[1] != two[1]:
        return False
    for a, b in zip(one[0], two[0], strict=True):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            same = a is b or (a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b))
        else:
            same = type(a) is type(b) and a == b
        if not same:
            return False
    return True


def near(one: Any, two: Any) -> bool:
    """Whether two structures hold the same within rounding."""
    a, b = tree_flatten(one)[0], tree_flatten(two)[0]
    return len(a) == len(b) and all(map(_close, a, b))


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and a == b
    if a.shape != b.shape:
        return False
    length = b.double().norm()
    return bool((a.double() - b.double()).norm() <= NEAR.get(a.dtype, 5e-2) * length)
