"""Parameter blocks: how a model's weights are split, how large the blocks are, and the budget that their scales share."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zolab import noise

Rule = str | Callable[[str], str]


@dataclass(frozen=True)
class Blocks:
    """A partition of a model's trainable weights.

    Args:
        names: of the blocks.
        sizes: d_j, number of weights of each block.
        tensors: name of each trainable tensor, in the order in which an optimizer numbers them.
        block_of: the block of each tensor, an index into `names`.
        numels: number of weights of each tensor.
        ties: for each tensor that has several names, the ones that are not used.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    tensors: tuple[str, ...]
    block_of: tuple[int, ...]
    numels: tuple[int, ...]
    ties: Mapping[str, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.names)

    def totals(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """Sums over each block's tensors: from shape (..., tensors) to (..., blocks)."""
        values = np.asarray(values, dtype=float)
        out = np.zeros((*values.shape[:-1], len(self)))
        place: Any = (..., np.array(self.block_of))
        np.add.at(out, place, values)
        return out

    def spread(self, values: Sequence[float] | np.ndarray) -> np.ndarray:
        """A block's value for each of its tensors: from shape (..., blocks) to (..., tensors)."""
        return np.asarray(values)[..., list(self.block_of)]


def split(model: nn.Module | Iterable[tuple[str, Tensor]], rule: Rule = "tensor") -> Blocks:
    """Split trainable weights into blocks. Weights that share memory count once, by identity, whatever their names are.

    Args:
        model: a module, or (name, tensor) pairs.
        rule: "tensor" (a block for each), "layer" (a block for each numbered layer, one for each tensor outside them), or a
            function from a tensor's name to its block's.

    Raises:
        ValueError: unknown rule, or nothing to train.
    """
    if isinstance(rule, str) and rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; choose {' or '.join(RULES)}, or give a function from names to blocks.")
    block_name = RULES[rule] if isinstance(rule, str) else rule
    every = list(model.named_parameters(remove_duplicate=False) if isinstance(model, nn.Module) else model)
    parameters = [(name, p) for name, p in unique(every) if p.requires_grad]
    if not parameters:
        raise ValueError("there is nothing to train: every parameter given has requires_grad=False.")
    names = list(dict.fromkeys(block_name(name) for name, _ in parameters))
    block_of = tuple(names.index(block_name(name)) for name, _ in parameters)
    numels = tuple(p.numel() for _, p in parameters)
    sizes = np.bincount(block_of, weights=numels, minlength=len(names)).astype(int).tolist()
    ties = {
        name: others
        for name, p in parameters
        if (others := tuple(other for other, q in every if other != name and place_of(q) == place_of(p)))
    }
    return Blocks(tuple(names), tuple(sizes), tuple(name for name, _ in parameters), block_of, numels, ties)


def weights_of(model: nn.Module) -> list[Tensor]:
    """The trainable tensors, each memory once, as `split` orders them."""
    parameters = dict(model.named_parameters())
    return [parameters[name] for name in split(model).tensors]


def kind_of(name: str) -> str:
    """A tensor's name without its layer number, such as self_attn.v_proj: what the same tensors of all layers share."""
    return re.sub(r"^.*?\.\d+\.", "", name).removesuffix(".weight").removeprefix("model.")


def layer_of(name: str) -> str:
    """The numbered layer that a tensor belongs to, such as model.layers.3, or the tensor's own name outside the layers."""
    numbered = re.match(r"(.*?\.\d+)\.", name)
    return numbered[1] if numbered else name


RULES: dict[str, Callable[[str], str]] = {"tensor": lambda name: name, "layer": layer_of}


def moments(tensors: Sequence[Tensor]) -> np.ndarray:
    """Sum and sum of squares of each tensor, float64 of shape (tensors, 2), each weight read once."""
    return noise.sums(noise.chunks(tensors), len(tensors))


def mean_and_variance(sums: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of blocks from their `moments`; the variance of a single weight is zero."""
    n = np.asarray(sizes, dtype=float)
    mean = sums[:, 0] / n
    return mean, np.maximum(sums[:, 1] - n * mean**2, 0) / np.maximum(n - 1, 1)


def budget_factor(sigma: np.ndarray | Tensor, weights: np.ndarray | Tensor) -> Any:
    """f that makes sum_j n_j (f sigma_j)^2 = sum_j n_j; exactly one where every sigma is.

    Args:
        sigma: standard deviation of each block, one of them not zero; an array or a tensor, then f is one too.
        weights: n_j, of the same kind, float64.
    """
    return (weights.sum() / (weights * sigma**2).sum()) ** 0.5


def published_weights(blocks: Blocks, hidden: int, batch: int) -> np.ndarray:
    """n_j of the budget in ZO Fine-tuner's code: the sizes, but hidden * 15 * batch wherever a name has "embed".

    That is a guess at the rows of the embedding that a batch touches; it meets learned positions and tied heads too, and
    leaves an untied head as large as it is.

    Args:
        blocks: one tensor each.
        hidden: width of the model.
        batch: examples in a batch of training, of all processes together.
    """
    rows = hidden * 15 * batch
    return np.array([rows if "embed" in name else d for name, d in zip(blocks.names, blocks.sizes, strict=True)])


def unique(params: Iterable) -> list:
    """The parameters with each memory listed once, so that tied weights are perturbed once."""
    params = [params] if isinstance(params, Tensor) else list(params)
    if not params:
        raise ValueError("the parameter list is empty; pass model.named_parameters().")
    seen: set[tuple] = set()

    def first_time(item) -> bool:
        place = place_of(item[1] if isinstance(item, tuple) else item)
        fresh = place not in seen
        seen.add(place)
        return fresh

    if isinstance(params[0], dict):
        return [{**group, "params": [p for p in _as_list(group["params"]) if first_time(p)]} for group in params]
    return [p for p in params if first_time(p)]


def place_of(tensor: Tensor) -> tuple:
    """What tells one memory from another: tied tensors share it."""
    return (tensor.data_ptr(), tensor.numel(), tensor.dtype, tensor.device) if has_memory(tensor) else (id(tensor),)


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has memory of its own: not if it holds no numbers, or is made of others, as a quantised weight is."""
    composite = hasattr(type(tensor), "__tensor_flatten__")
    return tensor.layout == torch.strided and not tensor.is_meta and tensor.numel() > 0 and not composite


def _as_list(params) -> list:
    return [params] if isinstance(params, Tensor) else list(params)
