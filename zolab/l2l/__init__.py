"""Learning to learn: a PertNN is trained so that a zeroth-order step with its scales lowers the loss."""

from zolab.l2l.evolve import Evolution, EvolveConfig, evolve
from zolab.l2l.step import GRADIENTS, MEASURED, History, MetaStep, Outcome
from zolab.l2l.train import MetaConfig, MetaRun, meta_train

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
