"""Gradients that are used and forgotten one by one, as a backward pass makes them, so that they never exist together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor


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
            gradient, parameter.grad = parameter.grad, None
            use(j, gradient)

        return consume

    kept = [p.grad for p in params]
    hooks = []
    try:
        for j, p in enumerate(params):
            p.grad = None
            hooks.append(p.register_post_accumulate_grad_hook(hook(j)))
        yield
    finally:
        for handle in hooks:
            handle.remove()
        for p, gradient in zip(params, kept, strict=True):
            p.grad = gradient
