"""Backward passes in little memory: gradients used and forgotten one by one, activations made again layer by layer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

SLICE = 1 << 24  # elements


def gradient_of(parameter: Tensor) -> Tensor:
    """The gradient that a backward pass has left. Raises ValueError if it left none."""
    if parameter.grad is None:
        raise ValueError(f"the loss does not depend on a parameter of shape {tuple(parameter.shape)}; freeze it.")
    return parameter.grad


def wide(gradient: Tensor) -> Tensor:
    """Its values in float32 or wider: sums of half-precision numbers round off what is added, and their squares vanish."""
    return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))


def squares(gradients: Iterable[Tensor]) -> np.ndarray:
    """Squared norm of each, of which a slice at a time takes room in float32."""
    slices = (gradient.detach().reshape(-1).split(SLICE) for gradient in gradients)
    return np.array([sum(float(wide(part).square().sum(dtype=torch.float64)) for part in parts) for parts in slices])


def length(gradient: Tensor) -> Tensor:
    """Its norm, a number on its device that is not finite if one of its values is not; without waiting for the device."""
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    parts = [torch.linalg.vector_norm(part, dtype=dtype) for part in gradient.detach().reshape(-1).split(SLICE)]
    return torch.linalg.vector_norm(torch.stack(parts))


@contextmanager
def consumed(params: Sequence[Tensor], use: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Inside the block, a backward pass hands each parameter's whole gradient to `use(j, gradient)` instead of keeping it.

    Gradients that the parameters hold already are back afterwards.

    Args:
        params: leaves that require gradients.
        use: gets the number of the parameter, and its gradient; it may change the parameter's data, since what the rest of
            the backward pass needs of it has been used by then.
    """

    def hook(j: int) -> Callable[[Tensor], None]:
        def consume(parameter: Tensor) -> None:
            gradient = gradient_of(parameter)
            parameter.grad = None
            use(j, gradient)

        return consume

    gradients = [p.grad for p in params]
    hooks = []
    try:
        for j, p in enumerate(params):
            p.grad = None
            hooks.append(p.register_post_accumulate_grad_hook(hook(j)))
        yield
    finally:
        for handle in hooks:
            handle.remove()
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = gradient


def recomputable(model: nn.Module) -> list[nn.Module]:
    """The layers whose activations `recomputed` makes again: those that transformers marks for it."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Inside the block, a backward pass makes each layer's activations again, from the layer's input, instead of keeping them.

    Values and gradients are the same; the backward pass takes one more forward pass. transformers' own switch for this asks
    for train mode, where some models drop out.

    Args:
        model: of transformers, where it marks layers that allow this; any other is left as it is.
    """
    layers = recomputable(model)
    of_others = [vars(layer).get("forward") for layer in layers]  # such as what moves weights between devices
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, of_others, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
