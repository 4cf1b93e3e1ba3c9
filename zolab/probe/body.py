"""The body of a model, whose batch may be doubled so that it runs on both sides of a probe at once."""

from collections.abc import Sequence

from torch import nn

from zolab.probe.owners import Owner, is_bare


def body_of(model: nn.Module) -> nn.Module | None:
    """The part of a transformers model, or of one around it, that makes hidden states from tokens; None if there is none."""
    body: nn.Module = model
    while isinstance(inner := getattr(body, "base_model", None), nn.Module) and inner is not body:
        body = inner
    return None if body is model and not hasattr(model, "config") else body


def may_double(body: nn.Module | None, owners: Sequence[Owner]) -> bool:
    """Whether there is a body whose batch may be doubled: it and the owners in it are called as torch calls a module."""
    if body is None or "forward" in vars(body):
        return False
    inside = set(body.modules())
    owned = [owner.module for owner in owners if owner.module in inside]
    return bool(owned) and body not in owned and all(map(is_bare, owned))
