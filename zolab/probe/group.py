"""The probe through modules for a direction an example: one forward pass sees each example of a batch at other weights.

    x_i (W + s U o (r_i s_i^T))^T = x_i W^T + s r_i o ((s_i o x_i) U^T)      (GRZO, arXiv 2606.02857; Flipout, arXiv 1803.04386)

Every linear layer and every embedding adds this to its output; the stored weights never move. GPT-2's Conv1D is a linear layer
whose weight is W^T, where r and s change places. Whose example a row is, a row being an index of the first dimension of what a
module is given, says `zolab.noise.rows_of`, or else its number. A full U is made some rows at a time, and multiplied like a
second weight; one of low rank costs little. All other tensors are moved as `Through` moves them, by the same for all examples.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

from zolab.noise import ROWS, GroupDirection, LowRankDirection, at_once, is_matrix
from zolab.probe.low_rank import ThroughLowRank, weight_apart
from zolab.probe.owners import Owner, Part

if TYPE_CHECKING:
    from zolab.probe.model_view import ModelView


class ThroughGroup(ThroughLowRank):
    """A model that each example i sees at w + scale_j z_ij, or at w - scale_j z_ij; it is used as `Perturbation` is."""

    def __init__(self, viewed, blocks: tuple[int, ...], direction: GroupDirection, scales):
        super().__init__(viewed, blocks, direction, scales)
        self.group = direction
        self.low_rank = direction.base if isinstance(direction.base, LowRankDirection) else None
        self.counts: set[int] = set()
        """How many rows modules were given where nothing said whose they are: each must be all examples of the batch."""
        self.laid: tuple[int, ...] = (0, 0)
        """Rows and tokens of what a module was given last, where it had both."""

    def _apart(self, owner: Owner) -> Part | None:
        return matrix_of(self.viewed, owner)

    def _add(self, weight: Part, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
        x, scale = _given(module, args, kwargs), self.side * self.scales[weight.number]
        examples = self._examples(module, x)
        drawn = self.group.signs(self.blocks[weight.number], max(examples, default=0) + 1)
        r, s = (signs.to(weight.weight.dtype) for signs in drawn)
        s = s[examples].view(len(x), *[1] * (output.ndim - 2), -1)
        if isinstance(module, nn.Embedding):
            kept = r[examples].gather(1, x.reshape(len(x), -1)).view(*x.shape, 1)
            output.add_((self._looked_up(weight, x) * s * kept).to(output.dtype), alpha=scale)
            return
        if _is_transposed(module):
            signed = x * r[examples].view(len(x), *[1] * (x.ndim - 2), -1).to(x.dtype)
            output.add_((self._transposed(weight, signed) * s).to(output.dtype), alpha=scale)
            return
        for rows, product in self._products(weight, x * s.to(x.dtype)):
            signed = product.mul_(r[:, rows][examples].view(len(x), *[1] * (x.ndim - 2), -1))
            output[..., rows].add_(signed.to(output.dtype), alpha=scale)

    def _examples(self, module: nn.Module, x: Tensor) -> list[int]:
        """The example of each row of what a module is given."""
        declared, kind, tokens = ROWS.get(), type(module).__name__, x.shape[: x.ndim - (not isinstance(module, nn.Embedding))]
        if not tokens:
            raise ValueError(f"a {kind} was given one row alone; the first dimension must be the examples.")
        count, flat = len(x), len(tokens) == 1 and len(x) == math.prod(self.laid)
        self.laid = tokens[:2] if len(tokens) > 1 else self.laid
        if declared is None:
            rows = self.laid[0] if flat else count
            self.counts.add(rows)
            examples = list(range(rows))
        else:
            examples = declared.tolist()
        if flat and len(examples) == self.laid[0]:  # the tokens of all rows one after the other, as in OPT's layers
            return [example for example in examples for _ in range(self.laid[1])]
        if len(examples) != count:
            raise ValueError(
                f"a {kind} was given {count} rows where zolab.noise.rows_of told of {len(examples)}: tell of each row."
            )
        return examples

    def _products(self, weight: Part, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """x U^T, some rows of U at a time."""
        tensor, (u, v) = weight.weight, self.factors.get(weight.number, (None, None))
        x = x if v is None else functional.linear(x, v)
        several = max(1, at_once(x) // max(x.shape[-1], x.numel() // x.shape[-1]))
        for start in range(0, len(tensor), several):
            rows = slice(start, min(start + several, len(tensor)))
            yield rows, functional.linear(x, self._rows(weight, rows) if u is None else u[rows])

    def _transposed(self, weight: Part, x: Tensor) -> Tensor:
        """x U, some rows of U at a time."""
        tensor, (u, v) = weight.weight, self.factors.get(weight.number, (None, None))
        if u is not None and v is not None:
            return x @ u @ v
        several = max(1, at_once(x) // max(tensor.shape[1], x.numel() // x.shape[-1]))
        spans = (slice(at, min(at + several, len(tensor))) for at in range(0, len(tensor), several))
        out = x.new_zeros(*x.shape[:-1], tensor.shape[1])
        for rows in spans:
            out += x[..., rows] @ self._rows(weight, rows)
        return out

    def _looked_up(self, weight: Part, x: Tensor) -> Tensor:
        """Rows of U, those that x names."""
        if self.low_rank:
            u, v = self.factors[weight.number]
            return functional.embedding(x, u) @ v
        ids, places = x.unique(return_inverse=True)
        rows = self.group.shared_rows(self.blocks[weight.number], ids)
        return functional.embedding(places, rows.to(weight.weight.dtype))

    def _rows(self, weight: Part, rows: slice) -> Tensor:
        tensor = weight.weight
        width = tensor.numel() // len(tensor)
        made = self.group.shared(self.blocks[weight.number], slice(rows.start * width, rows.stop * width))
        return made.view(-1, width).to(tensor.dtype)


def matrix_of(viewed: "ModelView", owner: Owner) -> Part | None:
    """The trained matrix of a module, None if it has none; hooks of others may stay, and find it where it is.

    Raises:
        ValueError: the module has one that cannot differ between examples.
    """
    matrices = [part for part in owner.parts.values() if is_matrix(part.weight)]
    matrix = weight_apart(owner, _is_positions(owner.module) or _is_transposed(owner.module))
    if matrices and matrices != [matrix]:
        raise ValueError(
            f"{viewed.names[matrices[0].number]} belongs to a {type(owner.module).__name__}, and only matrices of plain linear "
            "layers and embeddings can be moved for each example alone: freeze it, or take another method."
        )
    return matrix


def _is_positions(module: nn.Module) -> bool:
    """Whether it is OPT's table of positions, an embedding that is told them by name and counts from an offset."""
    return type(module).__name__ == "OPTLearnedPositionalEmbedding" and isinstance(module, nn.Embedding)


def _is_transposed(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D, which multiplies by its weight as it is stored."""
    return (type(module).__name__, type(module).__module__) == ("Conv1D", "transformers.pytorch_utils")


def _given(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Tensor:
    """What a linear layer multiplies, or an embedding looks up."""
    if _is_positions(module):
        return kwargs["position_ids"] + module.offset
    return args[0] if args else kwargs["input"]
