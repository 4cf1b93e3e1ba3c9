"""The base model's weights in a file, so that going back to them takes no memory of their size."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zolab.records.files import writing


class BaseWeights:
    """Tensors as they are now, in a file as long as its `with` block lasts; at most one of them is in memory a second time.

    Args:
        tensors: of any dtype, each memory once.
        path: of the file; the bytes of one tensor after another.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, tensors: Sequence[Tensor], path: str | os.PathLike):
        self.tensors, self.path = tensors, path
        try:
            with writing(path), open(path, "wb") as file:
                for tensor in tensors:
                    file.write(_bytes_of(tensor.detach().cpu().contiguous()).data)
        except OSError:
            Path(path).unlink(missing_ok=True)
            raise

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the tensors the values that they had. Raises OSError if the file is not whole; then load the model anew."""
        with open(self.path, "rb") as file:
            for tensor in self.tensors:
                before = torch.empty(tensor.shape, dtype=tensor.dtype)
                if file.readinto(_bytes_of(before).data) != before.nbytes:
                    raise OSError(f"{self.path} was cut short while it was in use; start again.")
                tensor.copy_(before)

    def __enter__(self) -> "BaseWeights":
        return self

    def __exit__(self, *error) -> None:
        os.unlink(self.path)


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """The memory of a contiguous tensor, not copied."""
    return tensor.view(-1).view(torch.uint8).numpy()
