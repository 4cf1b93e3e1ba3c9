"""zolab: zeroth-order fine-tuning of language models, to learn from and to reproduce with."""

from zolab.noise import Direction
from zolab.optim import METHODS, MeZO, Trajectory, replay

__version__ = "0.1.0"
__all__ = ["METHODS", "Direction", "MeZO", "Trajectory", "replay"]
