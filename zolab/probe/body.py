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


def owners_inside(body: nn.Module | None, owners: Sequence[Owner]) -> list[nn.Module]:
    """The modules of owners that lie in the body; none where there is no body, or it owns weights itself."""
    inside = set(body.modules()) if body is not None else set()
    owned = [owner.module for owner in owners if owner.module in inside]
    return [] if body in owned else owned


def may_double(body: nn.Module | None, owned: Sequence[nn.Module]) -> bool:
    """Whether there is a body whose batch may be doubled: it and its `owners_inside` are called as torch calls a module."""
    return body is not None and "forward" not in vars(body) and bool(owned) and all(map(is_bare, owned))
