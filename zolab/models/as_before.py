"""A model that is as it was if what is done to it fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """If the block raises, every module has its attributes, children and hooks again, and what was trained is trained again.

    Numbers are not kept: the block may write into weights that it brings, not into those that are there.

    Args:
        model: it may be given and robbed of modules inside the block.
    """
    saved = [(vars(module), dict(vars(module)), _contents(module)) for module in model.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for attributes, before, contents in saved:
            attributes.clear()
            attributes.update(before)
            for name, content in contents.items():
                before[name].clear()  # the same mapping as before: handles of hooks look into it
                before[name].update(content)
        for parameter, flag in trained:
            parameter.requires_grad_(flag)
        raise


def _contents(module: nn.Module) -> dict[str, dict]:
    return {name: dict(value) for name, value in vars(module).items() if isinstance(value, dict)}
