"""The card of a PertNN: how it is made, the blocks it was made for, a digest of its weights; and whether a model fits."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zolab.probe.blocks import Blocks, split
from zolab.records.files import read_json
from zolab.records.sealed import seal, unseal

if TYPE_CHECKING:
    from zolab.pertnn.network import PertNN

FEATURES = ("mean", "variance", "loss_plus", "loss_minus", "sigma")
LARGEST = 1 << 23  # bytes of a card; that of a model with 272 tensors has 65,000
LIMIT = 1 << 48  # weights of a block


def blocks_to(blocks: Blocks) -> dict[str, Any]:
    """Blocks as JSON: each block's size, each tensor's block and size, and the ties."""
    owners = (blocks.names[block] for block in blocks.block_of)
    tensors = zip(blocks.tensors, owners, blocks.numels, strict=True)
    return {
        "sizes": dict(zip(blocks.names, blocks.sizes, strict=True)),
        "tensors": {name: {"block": block, "size": size} for name, block, size in tensors},
        "ties": {name: list(others) for name, others in blocks.ties.items()},
    }


def card_of(pertnn: "PertNN", weights: str, about: dict[str, Any]) -> dict[str, Any]:
    """A sealed card.

    Args:
        pertnn: what it belongs to.
        weights: `zolab.records.sealed.tensors_digest` of its weights.
        about: what it says about the training.
    """
    options: dict[str, Any] = {"hidden": pertnn.hidden, "input_scaling": pertnn.input_scaling, "normalise": pertnn.normalise}
    options["budget_weights"] = pertnn.budget.tolist() if pertnn.normalise == "code" and pertnn.budget is not None else None
    about = {**about, "features": list(FEATURES), "options": options, "blocks": blocks_to(pertnn.blocks)}
    return seal({**about, "weights": weights})


def read_card(path: str | os.PathLike) -> dict[str, Any]:
    """What a card says, without its seal.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, damaged, changed after it was written, or has other features.
    """
    card = unseal(read_json(path, LARGEST), str(path))
    if card.get("features") != list(FEATURES):
        raise ValueError(f"its features are {brief(card.get('features'))}, not {list(FEATURES)}")
    return card


def options_from(card: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `PertNN` from a card; those that are missing are the constructor's. Raises ValueError at a wrong type."""
    options, kinds = _part(card, "options"), {"hidden": int, "input_scaling": bool, "normalise": str, "budget_weights": list}
    for name, value in options.items():
        if name not in kinds:
            raise ValueError(f"{brief(name)} is no option of a PertNN")
        if type(value) is not kinds[name] and not (value is None and name in ("normalise", "budget_weights")):
            raise ValueError(f"its option {name} is {brief(value)}, which is no {kinds[name].__name__}")
    if not all(type(n) in (int, float) for n in options.get("budget_weights") or []):
        raise ValueError("its budget_weights are not numbers")
    return options


def blocks_from(card: dict[str, Any]) -> Blocks:
    """The blocks of a card. Raises ValueError if something is missing or sizes are not those of the tensors."""
    blocks = _part(card, "blocks")
    size_of, tensors, ties = (_part(blocks, key) for key in ("sizes", "tensors", "ties"))
    entries = list(tensors.values())
    if not all(isinstance(entry, dict) and isinstance(entry.get("block"), str) for entry in entries):
        raise ValueError("a tensor has no block")
    if not all(isinstance(others, list) and all(isinstance(name, str) for name in others) for others in ties.values()):
        raise ValueError("its ties are not lists of names")
    names, sizes, numels = tuple(size_of), tuple(size_of.values()), tuple(entry.get("size") for entry in entries)
    if not all(type(size) is int and 0 <= size < LIMIT for size in (*sizes, *numels)) or not sizes:
        raise ValueError("its sizes are not whole numbers")
    totals = dict.fromkeys(names, 0)
    for name, entry in tensors.items():
        if entry["block"] not in totals:
            raise ValueError(f"the tensor {brief(name)} is of the block {brief(entry['block'])!r}, which has no size")
        totals[entry["block"]] += entry["size"]
    for name, size in size_of.items():
        if totals[name] != size:
            message = f"said to have {size:,} weights, but its tensors have {totals[name]:,}"
            raise ValueError(f"the block {brief(name)} is {message}")
    places = {name: number for number, name in enumerate(names)}
    block_of = tuple(places[entry["block"]] for entry in entries)
    return Blocks(names, sizes, tuple(tensors), block_of, numels, {name: tuple(others) for name, others in ties.items()})


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
        message = "; ".join(filter(None, differences))
        raise ValueError(f"{whose} is for another architecture (or other trainable weights): it has {message}.")
    if isinstance(model, nn.Module) and blocks.tensors != ours.tensors:
        raise ValueError(f"{whose} has the model's blocks in another order; give the parameters as the model has them.")


def _part(whole: dict[str, Any], key: str) -> dict[str, Any]:
    part = whole.get(key)
    if not isinstance(part, dict):
        raise ValueError(f"its {key} are missing")
    return part


def _some(what: str, names: list[str], shown: int = 3) -> str:
    """A difference with its first few names and how many there are, or nothing."""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what} ({len(names)}): {', '.join(map(brief, names[:shown]))}{rest}" if names else ""


def brief(value: Any, length: int = 200) -> str:
    """A text, or what else is told, cut to a length at which a sentence with it stays one."""
    text = str(value)[: length + 1]
    return text if len(text) <= length else f"{text[: length - 4]} ..."
