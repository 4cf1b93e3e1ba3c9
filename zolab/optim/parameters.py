"""What an optimizer was given: the tensors that it moves, how they are numbered, and what fits a trajectory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor

from zolab import noise

Layout = list[list[Any]]
"""Number of weights, dtype, group, and whether it is trained, for each parameter in order: JSON."""


class Trainable(NamedTuple):
    """What is trained.

    Args:
        tensors: those to move.
        blocks: the number of each; frozen parameters keep theirs.
        groups: the parameter group of each.
        names: of the tensors.
    """

    tensors: list[Tensor]
    blocks: tuple[int, ...]
    groups: list[int]
    names: list[str]


def named(groups: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, str, Tensor]]:
    """Group, name and tensor of each parameter, in the order in which blocks are numbered."""
    for g, group in enumerate(groups):
        params = group["params"]
        names = group.get("param_names") or [f"parameter {i} of group {g}" for i in range(len(params))]
        for name, tensor in zip(names, params, strict=True):
            yield g, name, tensor


def grouped(params: Iterable) -> list[dict[str, Any]]:
    """Parameters in any of the forms that an optimizer takes, as its groups have them."""
    params = list(params)
    groups = params if params and isinstance(params[0], dict) else [{"params": params}]
    out = []
    for group in groups:
        items = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        tensors = [item[1] if isinstance(item, tuple) else item for item in items]
        names = [item[0] for item in items if isinstance(item, tuple)]
        out.append({"params": tensors, **({"param_names": names} if names else {})})
    return out


def trainable(groups: Sequence[Mapping[str, Any]]) -> Trainable:
    """What is trained. Raises ValueError if that is nothing, or a tensor cannot be changed in place."""
    tensors, blocks, of_group, names = [], [], [], []
    for block, (g, name, tensor) in enumerate(named(groups)):
        if tensor.requires_grad:
            noise.check(tensor, name)
            tensors.append(tensor)
            blocks.append(block)
            of_group.append(g)
            names.append(name)
    if not tensors:
        raise ValueError("there is nothing to train: every parameter given has requires_grad=False.")
    return Trainable(tensors, tuple(blocks), of_group, names)


def layout(groups: Sequence[Mapping[str, Any]]) -> Layout:
    """What a trajectory keeps of the parameters, so that it fits these and no others."""
    return [[tensor.numel(), str(tensor.dtype)[6:], g, tensor.requires_grad] for g, _, tensor in named(groups)]


def difference(groups: Sequence[Mapping[str, Any]], expected: Layout, *, trained: bool = True) -> str | None:
    """The first difference between parameters and a layout, for an error; None if they fit.

    Args:
        groups: the parameters.
        expected: the layout.
        trained: whether the same ones have to be trained.
    """
    present = layout(groups)
    if len(present) != len(expected):
        return f"{len(expected)} parameters there, {len(present)} here"
    for (_, name, _), here, there in zip(named(groups), present, expected, strict=True):
        if here[: 3 + trained] != there[: 3 + trained]:
            return f"{name} is {_described(there)} there, {_described(here)} here"
    return None


@contextmanager
def frozen_as(expected: Layout | None, groups: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Freeze the parameters that a layout has as frozen, and train the others; if the block raises, all are as they were."""
    were = [(tensor, tensor.requires_grad) for _, _, tensor in named(groups)]
    for (tensor, _), (*_, trained) in zip(were, expected or [], strict=expected is not None):
        tensor.requires_grad_(trained)
    try:
        yield
    except BaseException:
        for tensor, trained in were:
            tensor.requires_grad_(trained)
        raise


def check_same(groups: Sequence[Mapping[str, Any]], expected: Layout | None) -> None:
    """Raise ValueError unless the parameters are those of the steps so far, if there were any."""
    if expected and (other := difference(groups, expected)):
        raise ValueError(
            f"the parameters are not those of the steps so far ({other}, there being the first step); change them back, or "
            "begin a new optimizer."
        )


def _described(entry: Sequence[Any]) -> str:
    numel, dtype, group, trained = entry
    return f"{'trained' if trained else 'frozen'} ({numel:,} weights, {dtype}, group {group})"
