"""What a direction is named by, and the generator keys that follow from a name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np
from torch import Tensor

from zolab.noise.kernels.threefry import threefry2x32

ERA = 64
FAMILIES = ("gaussian", "rademacher")


@dataclass(frozen=True)
class Direction:
    """The name of one random direction over all parameter blocks.

    Args:
        seed: 0 <= seed < 2**64. Zero is as good as any.
        step: 0 <= step < 2**32.
        sample: which of several directions drawn in the same step.
        family: "gaussian", z ~ N(0, I), or "rademacher", each z_i is +1 or -1 with equal chance (Spall, IEEE Transactions on
            Automatic Control 37, 1992). Both have E[z z^T] = I. Signs are made faster, and E |z z^T g|^2 is n |g|^2, for n
            weights, where normals have (n + 2) |g|^2.

    Raises:
        ValueError: an argument is out of range.
    """

    seed: int
    step: int
    sample: int = 0
    family: str = FAMILIES[0]

    def __post_init__(self):
        for name, limit in (("seed", 2**64), ("step", 2**32), ("sample", 2**32)):
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"{name} must lie in [0, {limit}), got {getattr(self, name)}; choose another {name}.")
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}.")

    def keys(self, blocks: tuple[int, ...]) -> np.ndarray:
        """The generator keys of the given blocks, uint32 of shape (len(blocks), 2); those of all families are the same."""
        return _keys(self.seed, self.sample, blocks, self.step // ERA)[self.step % ERA]

    @property
    def signs(self) -> bool:
        """Whether kernels make the signs of a Rademacher direction from its keys, instead of normals."""
        return self.family == "rademacher"


@dataclass(frozen=True, eq=False)
class GivenDirection:
    """A direction that is values instead of a key: a stored one, or one made by hand for a toy problem.

    Args:
        values: one flat tensor for each parameter block, numbered as the blocks are.
    """

    values: Sequence[Tensor] | Mapping[int, Tensor]
    made: ClassVar[bool] = False
    """Whether values are made when a kernel asks for them, and then take room until it is done."""

    def part(self, block: int, span: slice) -> Tensor:
        """The values of some elements of a flat block."""
        return self.values[block].view(-1)[span]

    def check_sizes(self, blocks: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """Raise ValueError unless stored values are one for each weight of the tensors, whose blocks have these numbers."""
        for block, tensor in () if self.made else zip(blocks, tensors, strict=True):
            count = self.values[block].numel()
            if count != tensor.numel():
                raise ValueError(
                    f"the direction has {count:,} values for block {block}, which has {tensor.numel():,} weights; give one "
                    "value for each."
                )


@dataclass(frozen=True)
class ScaledDirection(GivenDirection):
    """A normal direction with a factor for each weight, u = z f: kernels make z and multiply it in the same pass.

    Args:
        values: the factors, as `part` gives them; named by what they belong to, they do not tell two directions apart.
        name: of z.

    Raises:
        ValueError: the direction is of random signs.
    """

    values: Mapping[int, Tensor] = field(compare=False, repr=False)
    name: Direction

    def __post_init__(self):
        if self.name.signs:
            raise ValueError("a direction with a factor for each weight must be normal, not of random signs.")


@lru_cache(maxsize=16)
def _keys(seed: int, sample: int, blocks: tuple[int, ...], era: int) -> np.ndarray:
    """The keys of ERA steps at once, since NumPy takes as long for one."""
    steps = np.arange(ERA, dtype=np.uint32) + np.uint32(era * ERA)
    k0, k1 = threefry2x32((seed & 0xFFFFFFFF, seed >> 32), (steps, sample))
    return np.stack(threefry2x32((k0[:, None], k1[:, None]), (np.array(blocks, dtype=np.uint32), 0)), axis=-1)
