"""zolab: zeroth-order fine-tuning of language models, to learn from and to reproduce with."""

from zolab.noise import Direction
from zolab.optim import (
    MEAZO,
    METHODS,
    AdaMeZO,
    MeZO,
    MeZOAdam,
    MeZOMomentum,
    MeZOSwitch,
    Trajectory,
    ZOAdaMU,
    ZOFineTuner,
    replay,
)

__version__ = "0.1.0"
__all__ = [
    "MEAZO",
    "METHODS",
    "AdaMeZO",
    "Direction",
    "MeZO",
    "MeZOAdam",
    "MeZOMomentum",
    "MeZOSwitch",
    "Trajectory",
    "ZOAdaMU",
    "ZOFineTuner",
    "replay",
]
