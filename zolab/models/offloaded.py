"""The weights of a model that is larger than its GPU: Accelerate keeps them in main memory and lends them layer by layer."""

from collections.abc import Iterator

from torch import Tensor, nn


def offloaded_weights(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """All weights of a model under Accelerate's `cpu_offload`, or a `device_map` with "cpu" in it, where their numbers are.

    Between its calls such a model's own parameters are empty, on the meta device. An optimizer that is given these instead
    moves them in place, in main memory, and each call of the model takes them as they are then:

        cpu_offload(model, execution_device="cuda")
        optimizer = MeZO(offloaded_weights(model), lr=1e-6)
        optimizer.step(lambda: loss(model))

    Weights that stay on a GPU are among them. `look_through` takes no such model, since its modules' weights come and go.

    Args:
        model: with Accelerate's hooks.

    Returns:
        Names and parameters as `model.named_parameters()` has them, tied ones once.

    Raises:
        ValueError: a weight is on the disk, where no step can change it, or on the meta device without a hook that brings it.
    """
    lent = dict(_lent(model))
    places: set[int] = set()
    weights = []
    for name, parameter in model.named_parameters():
        weight = parameter
        if parameter.device.type == "meta":
            if name not in lent:
                raise ValueError(
                    f"{name} is on the meta device, and no hook of Accelerate's brings it: load its numbers first."
                )
            weight = nn.Parameter(lent[name], requires_grad=parameter.requires_grad)
        if weight.data_ptr() not in places:
            places.add(weight.data_ptr())
            weights.append((name, weight))
    return weights


def _lent(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each weight that a hook brings, the tensor that it has in main memory."""
    from accelerate.hooks import AlignDevicesHook, SequentialHook
    from accelerate.utils import named_module_tensors

    for prefix, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for part in hook.hooks if isinstance(hook, SequentialHook) else [hook]:
            if not isinstance(part, AlignDevicesHook) or not part.offload or part.weights_map is None:
                continue
            for own, _ in named_module_tensors(module, include_buffers=False, recurse=part.place_submodules):
                name = f"{prefix}.{own}" if prefix else own
                tensor = part.weights_map[own]
                if part.weights_map[own].data_ptr() != tensor.data_ptr():  # it was read twice
                    raise ValueError(
                        f"{name} is on the disk, where no step can change it: keep it in main memory (cpu_offload, or a "
                        "device_map without disk)."
                    )
                yield name, tensor
