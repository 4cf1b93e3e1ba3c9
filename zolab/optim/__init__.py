"""Zeroth-order optimizers, one file each, and the probe they share."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from zolab.optim.adamezo import AdaMeZO
from zolab.optim.base import ZeroOrderOptimizer
from zolab.optim.dizo import DiZO
from zolab.optim.forward_gradient import ForwardGradient
from zolab.optim.fzoo import FZOO
from zolab.optim.grzo import GRZO
from zolab.optim.helene import HELENE
from zolab.optim.hizoo import HiZOO
from zolab.optim.lozo import LOZO
from zolab.optim.lozo_m import LOZOM
from zolab.optim.meazo import MEAZO
from zolab.optim.mezo import MeZO
from zolab.optim.mezo_adam import MeZOAdam
from zolab.optim.mezo_momentum import MeZOMomentum
from zolab.optim.mezo_svrg import MeZOSVRG
from zolab.optim.mezo_switch import MeZOSwitch
from zolab.optim.parameters import difference, frozen_as, grouped
from zolab.optim.trajectory import StepRecord, Trajectory
from zolab.optim.zo_adamu import ZOAdaMU
from zolab.optim.zo_finetuner import ZOFineTuner
from zolab.optim.zo_sign_sgd import ZOSignSGD
from zolab.probe.blocks import unique

METHODS: dict[str, type[ZeroOrderOptimizer]] = {
    "mezo": MeZO,
    "mezo_momentum": MeZOMomentum,
    "mezo_adam": MeZOAdam,
    "mezo_switch": MeZOSwitch,
    "adamezo": AdaMeZO,
    "meazo": MEAZO,
    "zo_adamu": ZOAdaMU,
    "zo_sign_sgd": ZOSignSGD,
    "hizoo": HiZOO,
    "lozo": LOZO,
    "lozo_m": LOZOM,
    "fzoo": FZOO,
    "grzo": GRZO,
    "mezo_svrg": MeZOSVRG,
    "forward_gradient": ForwardGradient,
    "dizo": DiZO,
    "helene": HELENE,
    "zo_finetuner": ZOFineTuner,
}


def replay(model: nn.Module | Iterable, trajectory: Trajectory) -> ZeroOrderOptimizer:
    """Turn base weights into fine-tuned weights by taking a run's steps again, without forward passes.

    Args:
        model: the base model, or the parameters in the order and grouping that the run's optimizer was given. What the run
            left frozen is frozen, so that it does not move.
        trajectory: from `optimizer.trajectory` or `Trajectory.load`.

    Returns:
        The optimizer, ready to go on with the run.

    Raises:
        ValueError: the trajectory's method or a setting is unknown, its steps do not follow each other or do not give the
            run's weights, or the run was given other parameters. Nothing has moved then.
    """
    by_class = {method.__name__: method for method in METHODS.values()}
    if trajectory.method not in by_class:
        raise ValueError(f"no method called {trajectory.method}; the methods are {', '.join(by_class)}.")
    trajectory.check_complete()
    params = unique(model.named_parameters() if isinstance(model, nn.Module) else model)
    if trajectory.parameters and (other := difference(grouped(params), trajectory.parameters, trained=False)):
        raise ValueError(f"the run was given other parameters ({other}); give those that its optimizer was given.")
    samples: dict[str, Any] = {} if trajectory.samples == 1 else {"samples": trajectory.samples}
    given = {"eps": trajectory.eps, "seed": trajectory.seed, "rounding": "nearest", **samples}
    settings: dict[str, Any] = {**given, **trajectory.settings}  # nearest: as all runs did that are older than the setting
    with frozen_as(trajectory.parameters, grouped(params)):
        try:
            optimizer = by_class[trajectory.method](params, **settings)
        except TypeError as error:
            raise ValueError(f"the trajectory's settings do not fit {trajectory.method} ({error}).") from error
        optimizer.replay(trajectory.records)
    return optimizer


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
    "ForwardGradient",
    "HiZOO",
    "MeZO",
    "MeZOAdam",
    "MeZOMomentum",
    "MeZOSVRG",
    "MeZOSwitch",
    "StepRecord",
    "Trajectory",
    "ZOAdaMU",
    "ZOFineTuner",
    "ZOSignSGD",
    "ZeroOrderOptimizer",
    "replay",
]
