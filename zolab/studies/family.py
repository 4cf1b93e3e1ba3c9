"""The family of methods: who descends from whom, and what each changes."""

from typing import Any, NamedTuple

from zolab.optim import METHODS
from zolab.runs.first_order import FIRST_ORDER


class Member(NamedTuple):
    """A method's place in the family.

    Args:
        label: as its paper writes it, and as plans and records call it.
        parent: the optimizer's name of the method that it changes; empty for the root.
        kind: what it changes: gradient, estimate, direction, moments or length (of the step).
        idea: the change, in a few words.
        source: arXiv number.
    """

    label: str
    parent: str
    kind: str
    idea: str
    source: str


FAMILY = {
    "sgd": Member("SGD", "", "gradient", "the gradient, by backpropagation", ""),
    "adam": Member("Adam", "sgd", "gradient", "two moments of the gradient", "1412.6980"),
    "sgd_checkpointed": Member("SGD checkpointed", "sgd", "gradient", "activations made again", "1604.06174"),
    "sgd_fused": Member("SGD fused", "sgd", "gradient", "steps inside the backward pass", "2306.09782"),
    "forward_gradient": Member("forward gradient", "sgd", "gradient", "exact slope along a direction", "2202.08587"),
    "mezo": Member("MeZO", "sgd", "estimate", "slope from two losses", "2305.17333"),
    "mezo_momentum": Member("MeZO-momentum", "mezo", "moments", "one moment, stored", "2402.11592"),
    "zo_adamu": Member("ZO-AdaMU", "mezo_momentum", "moments", "momentum in the probe", "2312.15184"),
    "mezo_adam": Member("MeZO-Adam", "mezo", "moments", "both moments, stored", "2305.17333"),
    "adamezo": Member("AdaMeZO", "mezo_adam", "moments", "moments made again from seeds", "2605.00650"),
    "meazo": Member("MEAZO", "mezo_adam", "moments", "second moment, one number", "2605.03869"),
    "helene": Member("HELENE", "mezo_adam", "moments", "annealed, clipped moments", "2411.10696"),
    "zo_sign_sgd": Member("ZO-signSGD", "mezo", "length", "the sign of the slope", "2402.11592"),
    "mezo_switch": Member("MeZO-switch", "mezo", "length", "another run's step lengths", "2605.00650"),
    "fzoo": Member("FZOO", "mezo", "length", "many probes over their spread", "2506.09034"),
    "dizo": Member("DiZO", "mezo", "length", "the way walked, rescaled", "2502.03304"),
    "hizoo": Member("HiZOO", "mezo", "direction", "scaled by a stored curvature", "2402.15173"),
    "zo_finetuner": Member("ZO Fine-tuner", "mezo", "direction", "scaled by trained networks", "2510.00419"),
    "lozo": Member("LOZO", "mezo", "direction", "of low rank", "2410.07698"),
    "lozo_m": Member("LOZO-M", "lozo", "moments", "momentum as small as a factor", "2410.07698"),
    "grzo": Member("GRZO", "mezo", "direction", "one for each example", "2606.02857"),
    "mezo_svrg": Member("MeZO-SVRG", "mezo", "estimate", "corrected by the full batch", "2404.08080"),
}
"""By the optimizer's name, children after their parents."""
NORMALISED = ("mezo_adam", "adamezo", "meazo", "zo_sign_sgd", "fzoo", "grzo", "adam")
"""Methods whose steps are about as long wherever the loss is steep or flat."""


def family() -> dict[str, Member]:
    """The members of `FAMILY` that this version of zolab has, in its order.

    Raises:
        ValueError: the library has a method that is no member.
    """
    known = {**METHODS, **FIRST_ORDER}
    if lost := [name for name in known if name not in FAMILY]:
        raise ValueError(f"{', '.join(lost)} has no place in the family; give it a row in zolab/studies/family.py.")
    return {name: member for name, member in FAMILY.items() if name in known}


def settings_for(name: str, pertnn: str) -> dict[str, Any]:
    """A method's settings as a plan has them, without a rate: the library's defaults, and a PertNN where it takes one."""
    return {"optimizer": name, **({"optim_args": f"pertnn={pertnn!r}"} if name == "zo_finetuner" else {})}


def name_of(label: str) -> str:
    """The optimizer's name of a label; what follows a comma says how it is set. Raises ValueError if there is none."""
    for name, member in FAMILY.items():
        if member.label == label.partition(",")[0]:
            return name
    raise ValueError(f"no method is called {label[:80]}; the labels are {', '.join(m.label for m in FAMILY.values())}.")


def is_first_order(label: str) -> bool:
    """Whether a method of this label takes gradients by backpropagation."""
    return name_of(label) in FIRST_ORDER
