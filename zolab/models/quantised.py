"""A frozen base in few bits: the linear modules of a model's body, quantised by torchao; the rest stays as it is.

    int8: a byte a weight, and a scale for each row
    nf4: half a byte, and a scale of 8 bits for each 64 weights                                     (QLoRA, arXiv 2305.14314)

Embeddings, norms and the output head keep their precision, as usual. Quantised weights are made again from the same weights to
the bit, and nothing moves them: only an adapter beside them is trained. bitsandbytes, which needs a GPU, was never tried here,
and its modules are refused.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.util import find_spec

from torch import Tensor, nn
from transformers import PreTrainedModel

from zolab.records import give_back_memory

BLOCK = 64  # weights of nf4 that share a scale, as in QLoRA
SCALES = 256  # of these that share a scale of their own, at most


def check_quantiser(how: str) -> None:
    """Raise, in one sentence, if a model cannot be quantised so.

    Args:
        how: "none", or a key of `QUANTISERS`.

    Raises:
        ValueError: it is neither.
        RuntimeError: torchao is not installed.
    """
    if how not in ("none", *QUANTISERS):
        raise ValueError(f"quantise={how!r} is unknown: choose none, {' or '.join(QUANTISERS)}")
    if how != "none" and not find_spec("torchao"):
        raise RuntimeError(f"to quantise in {how} needs torchao: pip install 'zolab[quantised]'")


def quantise_base(model: PreTrainedModel, how: str) -> None:
    """Quantise a model's base in place, layer by layer, before an adapter is attached.

    Args:
        model: in float32, bfloat16 or float16, in which it computes then, too.
        how: a key of `QUANTISERS`.

    Raises:
        ValueError: the model is quantised already, has no linear modules, or has weights that the format cannot hold; load it
            again then, since some of its layers may be quantised.
        RuntimeError: torchao is not installed.
    """
    check_quantiser(how)
    if quantised_in(model) != "none":
        raise ValueError(f"{type(model).__name__} is quantised in {quantised_in(model)} already: load it again, without that")
    layers = quantised_layers(model)
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear modules beside its head, so that nothing can be quantised")
    for name, layer in layers.items():
        small = QUANTISERS[how](layer.weight.detach()) if fits(layer.weight, how) else None
        row = layer.weight.new_ones(1, layer.in_features)
        if small is None or not nn.functional.linear(row, small).isfinite().all():
            shape = " x ".join(map(str, layer.weight.shape))
            raise ValueError(f"{name}.weight, a matrix of {shape}, cannot be quantised in {how}: choose another format")
        layer.weight = nn.Parameter(small, requires_grad=False)
    vars(model)["quantised_in"] = how
    give_back_memory()


def quantised_in(model: nn.Module) -> str:
    """How a model's base was quantised: "none", or a key of `QUANTISERS`."""
    return getattr(model, "quantised_in", "none")


def quantised_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The modules that are quantised, or would be, by their names: linear ones that share no weight and are not the head."""
    holders = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    head = model.get_output_embeddings()
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear and module is not head}
    return {name: layer for name, layer in linear.items() if holders[id(layer.weight)] == 1}


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is made of other tensors."""
    return hasattr(type(weight), "__tensor_flatten__")


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that hold a tensor's numbers here: itself, those that a quantised one is made of, a part of a sharded one."""
    if not is_quantised(tensor):
        yield tensor.detach()
        return
    for name in tensor.__tensor_flatten__()[0]:  # pyrefly: ignore[missing-attribute]  (of torch's subclasses)
        yield from plain_tensors(getattr(tensor, name))


def quantised_bytes(weight: Tensor, how: str) -> int:
    """Bytes of a weight once it is quantised, told from its shape."""
    count, size = weight.numel(), weight.element_size()
    if how == "int8":
        return count + len(weight) * (4 + 1)  # scales are float32, zero points a byte
    blocks = count // BLOCK
    return count // 2 + blocks + blocks // _together(blocks) * size + 17 * size  # the 16 values, and the mean of the scales


WORKING: dict[str, Callable[[int], int]] = {"int8": lambda size: size, "nf4": lambda size: 8 + 4 * size}
"""Bytes for each weight of a module that its call takes to make them again, by the bytes of a number of the model's dtype."""


def fits(weight: Tensor, how: str) -> bool:
    """Whether a format has room for a matrix of this shape."""
    return how != "nf4" or (weight.numel() % BLOCK == 0 and weight.numel() > BLOCK)


def _int8(weight: Tensor) -> Tensor:
    from torchao.quantization import Int8Tensor, PerRow  # seconds, which only runs on a quantised base wait

    return Int8Tensor.from_hp(weight, granularity=PerRow())


def _nf4(weight: Tensor) -> Tensor:
    from torchao.quantization import to_nf4

    return to_nf4(weight, BLOCK, _together(weight.numel() // BLOCK))


def _together(blocks: int) -> int:
    """How many scales of nf4 share one of their own: torchao wants a divisor."""
    return math.gcd(blocks, SCALES)


QUANTISERS: dict[str, Callable[[Tensor], Tensor]] = {"int8": _int8, "nf4": _nf4}
"""What makes a quantised weight from a matrix, by the format's name."""
