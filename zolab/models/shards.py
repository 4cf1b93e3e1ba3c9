"""A model whose weights are split among processes: FSDP2 of torch, each of whose ranks holds a part of every tensor.

FSDP2 (`torch.distributed.fsdp.fully_shard`) puts a layer's weights together while it runs, and forgets them after it. A tensor
is cut by its rows, so that a part is a piece of the flat tensor: where it starts says which numbers of a direction are its own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from zolab.models.gradients import recomputable


def shard(model: PreTrainedModel, device: str, group: Any = None) -> None:
    """Split a model's weights among the processes of a group, in place. Its parameters are others afterwards.

    A loss is then to be weighed with this process's share of it: gradients are summed over the processes, not averaged. All
    processes must call the model equally often, since each call gathers weights from all of them.

    Args:
        model: in main memory, with the same weights in each process. Layers move to the device one by one, cut already.
        device: cpu, or cuda for the process's current GPU.
        group: of `torch.distributed`, None for all processes; on a GPU its processes make one of NCCL.

    Raises:
        ValueError: the model is not a causal one, or marks no layers.
    """
    layers = recomputable(model)
    if not (layers and model.can_generate()):
        raise ValueError(
            f"{type(model).__name__} is no causal model with marked layers, which shards are made of: leave --shard."
        )
    from torch import distributed  # seconds, which other runs need not wait for
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    kind = torch.device(device).type
    if kind != "cpu":
        group = distributed.new_group(distributed.get_process_group_ranks(group), backend="nccl")
    every: Any = group or distributed.group.WORLD
    mesh = DeviceMesh.from_group(every, kind)
    for part in (*layers, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)  # else the root's weights would be those before a step
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
            module.set_gradient_divide_factor(1.0)


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is one of torch's DTensors, of which each process holds a part."""
    return hasattr(type(tensor), "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, unless it is sharded. It shares the tensor's memory."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyrefly: ignore[missing-attribute]  (of DTensor)


def start_of(tensor: Tensor) -> int:
    """The number, in the whole flat tensor, of the first weight that this process holds."""
    if not is_sharded(tensor):
        return 0
    parted: Any = tensor  # a DTensor
    rows, mesh = len(parted), parted.device_mesh
    first = min(mesh.get_local_rank() * -(-rows // mesh.size()), rows)  # as torch.chunk cuts rows
    return first * (parted.numel() // max(rows, 1))


@torch.no_grad()
def whole(tensor: Tensor) -> Tensor:
    """A tensor with the parts of all processes, each of which must call this."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # pyrefly: ignore[missing-attribute]  (of DTensor)


@torch.no_grad()
def gathered(weights: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Sharded weights, put together in main memory one by one; every process must call this.

    Args:
        weights: by name, the same names in each process.
        keep: whether this process wants them; otherwise nothing comes back.
    """
    kept = {}
    for name, weight in weights.items():
        together = whole(weight)  # by all, whoever keeps it
        if keep:
            kept[name] = together.cpu()
    return kept


@torch.no_grad()
def scatter(weights: Mapping[str, Tensor], values: Mapping[str, Tensor] | None) -> None:
    """Give sharded weights values that the first process has; every process must call this.

    Args:
        weights: by name, the same names in each process.
        values: whole tensors in main memory; None in all processes but the first.
    """
    from torch.distributed.tensor import distribute_tensor

    for name, weight in weights.items():
        parted: Any = weight
        kind = {"dtype": weight.dtype, "device": own_part(weight).device}
        together = torch.empty(weight.shape, **kind) if values is None else values[name].to(**kind)
        own_part(weight).copy_(own_part(distribute_tensor(together, parted.device_mesh, parted.placements)))
