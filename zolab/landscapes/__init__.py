"""Toy functions of two variables, and `run`, which walks on them with the same optimizers that train language models.

Two weights are no language model: among so few directions noise averages out in a handful of steps, and scaling each
coordinate helps far more than it can among millions. What is seen here is how a method moves, not which one is best.
"""

from zolab.landscapes.functions import LANDSCAPES, Landscape, Point, Protocol, magnitude
from zolab.landscapes.walk import Descent, optimizers_of, run, run_protocol

__all__ = ["LANDSCAPES", "Descent", "Landscape", "Point", "Protocol", "magnitude", "optimizers_of", "run", "run_protocol"]
