"""What a PertNN's card says about the blocks it was made for, and whether a model has the same."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from zolab.probe.blocks import Blocks, split


def blocks_to(blocks: Blocks) -> dict[str, Any]:
    """Blocks as JSON: each block's size, each tensor's block and size, and the ties."""
    owners = (blocks.names[block] for block in blocks.block_of)
    tensors = zip(blocks.tensors, owners, blocks.numels, strict=True)
    return {
        "sizes": dict(zip(blocks.names, blocks.sizes, strict=True)),
        "tensors": {name: {"block": block, "size": size} for name, block, size in tensors},
        "ties": {name: list(others) for name, others in blocks.ties.items()},
    }


def blocks_from(card: dict[str, Any]) -> Blocks:
    """Blocks from what `blocks_to` wrote. Raises ValueError if their sizes are not those of their tensors."""
    names, sizes = tuple(card["sizes"]), tuple(card["sizes"].values())
    tensors = card["tensors"]
    numels = tuple(entry["size"] for entry in tensors.values())
    if not all(type(size) is int and size >= 0 for size in (*sizes, *numels)) or not sizes:
        raise ValueError("its sizes are not whole numbers")
    held = dict.fromkeys(names, 0)
    for name, entry in tensors.items():
        if entry["block"] not in held:
            raise ValueError(f"the tensor {name} is of the block {entry['block']!r}, which has no size")
        held[entry["block"]] += entry["size"]
    for name, size in card["sizes"].items():
        if held[name] != size:
            raise ValueError(f"the block {name} is said to have {size:,} weights, but its tensors have {held[name]:,}")
    places = {name: number for number, name in enumerate(names)}
    block_of = tuple(places[entry["block"]] for entry in tensors.values())
    return Blocks(names, sizes, tuple(tensors), block_of, numels, {name: tuple(t) for name, t in card["ties"].items()})


def check_same_blocks(blocks: Blocks, model: nn.Module | Iterable[tuple[str, Tensor]], whose: str) -> None:
    """Raise ValueError unless a model has the tensors that the blocks consist of: names, sizes, order and ties.

    Args:
        blocks: the partition.
        model: the model, or its (name, tensor) pairs in any order; order and ties are those of the model.
        whose: begins the sentence of the error, such as "this PertNN".
    """
    ours = split(model)
    mine, theirs = dict(zip(blocks.tensors, blocks.numels, strict=True)), dict(zip(ours.tensors, ours.numels, strict=True))
    differences = [
        _some("blocks that the model lacks", [name for name in mine if name not in theirs]),
        _some("no blocks for", [name for name in theirs if name not in mine]),
        _some(
            "another size of",
            [f"{n} ({mine[n]:,}, not {theirs[n]:,})" for n in mine if n in theirs and mine[n] != theirs[n]],
        ),
    ]
    if isinstance(model, nn.Module):
        differences.append(_some("other ties of", [n for n in mine if blocks.ties.get(n) != ours.ties.get(n) and n in theirs]))
    if any(differences):
        told = "; ".join(filter(None, differences))
        raise ValueError(f"{whose} is for another architecture (or other trainable weights): it has {told}.")
    if isinstance(model, nn.Module) and blocks.tensors != ours.tensors:
        raise ValueError(f"{whose} has the model's blocks in another order; give the parameters as the model has them.")


def _some(what: str, names: list[str], shown: int = 3) -> str:
    """A difference with its first few names and how many there are, or nothing."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what} ({len(names)}): {', '.join(names[:shown])}{rest}" if names else ""
