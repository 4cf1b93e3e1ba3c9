"""Models that a process keeps from one run to the next: the next run begins with a copy, and loads nothing."""

import copy

import torch

from zolab.models.load import Loaded, load_model, model_bytes
from zolab.models.quantised import is_quantised

KEPT = 2 * 10**9
"""Bytes of weights that a process keeps, all models together; to load a larger one takes little of the run that needs it."""
_kept: dict[tuple[str, str, str, str], Loaded] | None = None


def keep_models() -> None:
    """Keep what is loaded from now on, as it is when it comes: a file that changes later is seen by other processes alone."""
    global _kept
    _kept = {} if _kept is None else _kept


def kept_model(name: str, dtype: str = "float32", device: str | torch.device = "cpu", quantise: str = "none") -> Loaded:
    """What `load_model` gives: loaded, or, if this process keeps models and has had this one before, a copy of it.

    Copies share quantised weights.

    Args:
        name, dtype, device, quantise: as for `load_model`.

    Raises:
        ValueError, OSError, RuntimeError: as `load_model`.
    """
    if _kept is None:
        return load_model(name, dtype, device, quantise)
    key = name, dtype, str(device), quantise
    if key not in _kept:
        loaded = load_model(name, dtype, device, quantise)
        if sum(model_bytes(model) for model, _ in [*_kept.values(), loaded]) > KEPT:
            return loaded
        _kept[key] = loaded
    model, tokenizer = _kept[key]
    frozen = {id(weight): weight for weight in model.parameters() if is_quantised(weight)}  # nothing moves them
    return copy.deepcopy(model, frozen), copy.copy(tokenizer)
