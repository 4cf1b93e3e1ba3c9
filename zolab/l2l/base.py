"""The base model's weights in a file, so that going back to them takes no memory of their size."""

import os
from collections.abc import Sequence

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor


class BaseWeights:
    """Tensors as they are now, written to a file until `remove`.

    Args:
        tensors: contiguous, each memory once.
        path: of the file.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, tensors: Sequence[Tensor], path: str | os.PathLike):
        self.tensors, self.path = tensors, os.fspath(path)
        save_file({str(j): t.detach() for j, t in enumerate(tensors)}, self.path)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the tensors the values that they had, one after another."""
        with safe_open(self.path, "pt") as stored:
            for j, tensor in enumerate(self.tensors):
                tensor.copy_(stored.get_tensor(str(j)))

    def remove(self) -> None:
        """Delete the file."""
        os.unlink(self.path)
