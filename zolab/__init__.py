"""zolab: zeroth-order fine-tuning of language models, to learn from and to reproduce with."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `__getattr__` imports the same when first asked: --help must not wait for torch
    from zolab.noise import Direction
    from zolab.optim import (
        FZOO,
        GRZO,
        HELENE,
        LOZO,
        LOZOM,
        MEAZO,
        METHODS,
        AdaMeZO,
        DiZO,
        ForwardGradient,
        HiZOO,
        MeZO,
        MeZOAdam,
        MeZOMomentum,
        MeZOSVRG,
        MeZOSwitch,
        Trajectory,
        ZOAdaMU,
        ZOFineTuner,
        ZOSignSGD,
        replay,
    )

# Where torchao is installed, transformers imports it, and it warns of every kernel for GPUs that it does not find.
for _logger in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_logger).setLevel(logging.ERROR)

__version__ = "0.1.0"
__all__ = [
    "FZOO",
    "GRZO",
    "HELENE",
    "LOZO",
    "LOZOM",
    "MEAZO",
    "METHODS",
    "AdaMeZO",
    "DiZO",
    "Direction",
    "ForwardGradient",
    "HiZOO",
    "MeZO",
    "MeZOAdam",
    "MeZOMomentum",
    "MeZOSVRG",
    "MeZOSwitch",
    "Trajectory",
    "ZOAdaMU",
    "ZOFineTuner",
    "ZOSignSGD",
    "replay",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("zolab.noise" if name == "Direction" else "zolab.optim"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
