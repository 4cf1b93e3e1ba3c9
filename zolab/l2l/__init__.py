"""Learning to learn: a PertNN is trained so that a zeroth-order step with its scales lowers the loss."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `__getattr__` imports the same when first asked: settings must not wait for torch
    from zolab.l2l.config import GRADIENTS, MEASURED, EvolveConfig, MetaConfig
    from zolab.l2l.evolution import Evolution, evolve
    from zolab.l2l.step import History, MetaStep, Outcome
    from zolab.l2l.train import MetaRun, meta_train

__all__ = [
    "GRADIENTS",
    "MEASURED",
    "Evolution",
    "EvolveConfig",
    "History",
    "MetaConfig",
    "MetaRun",
    "MetaStep",
    "Outcome",
    "evolve",
    "meta_train",
]
_PLACES = {
    "config": ("GRADIENTS", "MEASURED", "EvolveConfig", "MetaConfig"),
    "evolution": ("Evolution", "evolve"),
    "step": ("History", "MetaStep", "Outcome"),
    "train": ("MetaRun", "meta_train"),
}


def __getattr__(name: str) -> Any:
    for place, names in _PLACES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{place}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
