"""The settings of a run, each with the sentence that the command line shows for it."""

import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

from zolab.runs.literals import own_settings
from zolab.runs.names import DTYPE_NAMES, FIRST_ORDER_NAMES, METHOD_NAMES, OWN_TASKS, QUANTISE_NAMES, TASK_NAMES

if TYPE_CHECKING:  # the command line's --help reads this file, and torch takes seconds
    from torch import nn

    from zolab.models import Adapter
    from zolab.optim import ZeroOrderOptimizer
    from zolab.runs.first_order import FirstOrder

SCHEDULES = ("constant", "linear", "cosine", "warmup")
PROBES = ("auto", "in_place", "through")
PARALLEL = ("batch", "directions")
TUNINGS = ("full", "lora", "prefix")
# What settings stood at in runs that are older than these settings.
OLDER: dict[str, Any] = {
    **{"probe": "in_place", "tuning": "full", "tuning_args": "", "objective": "loss"},
    **{"balanced": False, "calibrate": 0, "parallel": "batch", "stuck": 0, "quantise": "none"},
}
COUNT = 10**9  # of what is done one after the other
LARGEST = 1.7e308  # about what a float holds
HELD = 1e-37, 1e37  # what float32 holds with all its digits, twice and half of it too
RANGES: dict[str, tuple[float, float]] = {  # the least and the greatest value of a setting, wherever it occurs
    **dict.fromkeys(("steps", "period", "eval_every"), (1, COUNT)),
    **dict.fromkeys(("patience", "checkpoint_every", "stuck", "pairs"), (0, COUNT)),
    **dict.fromkeys(("batch_size", "train", "dev", "test", "measured", "minibatches"), (1, 10**7)),
    **dict.fromkeys(("calibrate", "shots"), (0, 10**7)),
    "samples": (1, 10**4),
    "hidden": (1, 2**14),
    "seed": (0, 2**64 - 1),  # of directions, and of torch
    "data_seed": (0, 2**32 - 1),  # of NumPy's RandomState
    **dict.fromkeys(("lr", "weight_decay"), (0, LARGEST)),
    **dict.fromkeys(("meta_lr", "lr_zo"), (0, 1e4)),
    **dict.fromkeys(("clip", "reset_below"), (0, LARGEST)),
    "spread": (1e-6, 100),  # exp(100) is the most that a scale is multiplied by in a typical pair
    "rate": (1e-9, 10),
    "weight": (0, 1),
    "eps": HELD,
}
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80


def option(default: Any, text: str, choices: Iterable[str] | None = None) -> Any:
    """A configuration field with its help text, which the command line shows, and the only values that it may have."""
    return field(default=default, metadata={"help": text, "choices": choices and tuple(choices)})


@dataclass(frozen=True)
class Config:
    """What decides the result of a run. The same configuration gives the same weights on the same machine."""

    model: str = option("smollm2-135m", "embedded name, local folder or Hub id of the model")
    task: str = option("rotten_tomatoes", f"name of the task: {', '.join(TASK_NAMES)}; or {OWN_TASKS}")
    objective: str = option(
        "loss",
        "what a step lowers, and a step is kept by: loss, or what the task's metric lacks to 1, accuracy or f1. Equal on both "
        "sides of a step, a metric says nothing about where to go: take a larger eps and batch_size for it",
    )
    optimizer: str = option("mezo", "name of the optimizer", METHOD_NAMES + FIRST_ORDER_NAMES)
    lr: float = option(3e-5, "learning rate, in weight units per unit of projected gradient")
    eps: float = option(1e-3, "finite-difference radius, in weight units")
    weight_decay: float = option(0.0, "decoupled weight decay, per unit of learning rate")
    samples: int = option(1, "directions averaged in a step, 1 for as many as the method has by itself")
    optim_args: str = option("", "the method's own settings, such as 'horizon=10, betas=(0.7, 0.9)'")
    tuning: str = option(
        "full",
        "what is trained: full is every weight, lora and prefix are adapters of peft; as starting points MeZO's lr and eps on "
        "OPT-13B are 1e-7 to 1e-6 and 1e-3 for full, 5e-5 to 1e-4 and 1e-2 for lora, 1e-3 to 1e-2 and 1e-1 for prefix",
        TUNINGS,
    )
    tuning_args: str = option(
        "", "the adapter's own settings, such as 'r=8, alpha=16, targets=[\"q_proj\", \"v_proj\"]' or 'tokens=5'"
    )
    quantise: str = option(
        "none", "quantise an adapter's frozen base by torchao: int8 is 8 bits a weight, nf4 4; tried on CPUs", QUANTISE_NAMES
    )
    schedule: str = option(
        "",
        "learning-rate schedule, by default constant; of first-order methods warmup, the lower of 20 steps up and a line to 0",
        SCHEDULES,
    )
    steps: int = option(1000, "optimizer steps")
    batch_size: int = option(16, "examples in a batch")
    balanced: bool = option(
        False, "as many examples of each class in each batch; what the number of classes leaves over goes to them in turn"
    )
    calibrate: int = option(
        0,
        "training examples on which an offset for each candidate is fitted before the first step, by so many forward passes; "
        "losses are then taken with it, in training and on dev; 0 leaves this out",
    )
    train: int | None = option(None, "training examples (of each class for masked models), by default the papers' number")
    dev: int | None = option(None, "examples for choosing the best step, by default the papers' number")
    test: int | None = option(None, "examples for the reported metric, by default the papers' number")
    eval_every: int = option(100, "steps between evaluations on dev; the best step there, by the objective, is kept")
    patience: int = option(0, "stop after this many evaluations without a new best; 0 never stops early")
    stuck: int = option(
        20,
        "stop, with advice, after so many steps in a row that do nothing: equal losses on both sides, less than half of a step "
        "arriving in half-precision weights, or a loss that is not finite, whose batch is passed over until then; 0 stops for "
        "the last alone, at once",
    )
    checkpoint_every: int = option(0, "steps between saved weights; 0 keeps only the log, from which weights are replayed")
    seed: int = option(0, "seed of the directions and of the order of batches")
    data_seed: int = option(0, "seed of the draw of train, dev and test examples")
    dtype: str = option("float32", "number format of the weights", DTYPE_NAMES)
    autocast: bool = option(False, "compute in bfloat16 where torch deems it safe; weights and losses keep their precision")
    device: str = option("cpu", "torch device, such as cpu or cuda:0")
    probe: str = option(
        "auto",
        "how a step sees moved weights: in_place moves the stored ones and takes them back, through lets each module see moved "
        "ones while it runs, auto is through on a GPU, in half precision and for lozo, where it is better; the result is the "
        "same, of lozo up to rounding; grzo is always through",
    )
    parallel: str = option(
        "batch",
        "what the processes of a run share, if torchrun or accelerate launch started several, each with the whole model: batch "
        "gives each a part of each batch, directions a part of a step's samples or of their sides; they exchange losses alone; "
        "the result is that of one process, of batch up to rounding",
        PARALLEL,
    )

    def __post_init__(self):
        if not self.schedule:
            object.__setattr__(self, "schedule", "warmup" if self.first_order else "constant")

    @property
    def first_order(self) -> bool:
        """Whether the optimizer takes gradients."""
        return self.optimizer in FIRST_ORDER_NAMES

    @property
    def differentiates(self) -> bool:
        """Whether the loss must have a derivative: a gradient, or the slope along a direction."""
        return self.first_order or self.optimizer == "forward_gradient"

    @property
    def per_example(self) -> bool:
        """Whether the optimizer takes the loss of each example of a batch, and so moves weights for each alone."""
        from zolab.optim import METHODS

        return not self.first_order and METHODS[self.optimizer].per_example

    def validate(self) -> None:
        """Raise ValueError, naming the option, unless every value makes sense."""
        check_types(self)
        check_ranges(self)
        known = {"schedule": SCHEDULES, "probe": PROBES, "tuning": TUNINGS, "parallel": PARALLEL, "quantise": QUANTISE_NAMES}
        for name, names in {**known, "optimizer": METHOD_NAMES + FIRST_ORDER_NAMES}.items():
            value = getattr(self, name)
            require(value in names, f"unknown {name} {shown(value)}; choose {', '.join(names)}.")
        for name in ("eps", "samples", "probe", "checkpoint_every") if self.first_order else ():
            usual = type(self).__dataclass_fields__[name].default
            message = f"{name} is a setting of zeroth-order methods, and {self.optimizer} takes gradients"
            own = "; Adam's own eps is one of optim_args" if name == "eps" else ""
            require(getattr(self, name) == usual, f"{message}: leave it at {usual}{own}.")
        make_adapter(self)
        _fit(self, _method(self))
        if self.per_example:
            _check_per_example(self)


def _check_per_example(config: Config) -> None:
    reason, relative = f"{config.optimizer} moves weights for each example alone", own_settings(config.optim_args)
    require(config.probe != "in_place", f"{reason}, which weights in place cannot be: leave --probe at auto.")
    require(config.objective == "loss", f"{reason}, and takes its loss: leave --objective at loss.")
    require(config.tuning != "prefix", f"{reason}, and all of a batch share a prefix: choose --tuning full or lora.")
    alone = config.batch_size == 1 and relative.get("group_relative", True)
    require(not alone, f"{config.optimizer} compares examples: raise batch_size, or write --optim_args group_relative=False.")


def make_optimizer(config: Config, model: "nn.Module") -> "ZeroOrderOptimizer | FirstOrder":
    """The optimizer of a model that a configuration asks for. Raises ValueError if it does not take the settings."""
    return _fit(config, _method(config, model))


def make_adapter(config: Config) -> "Adapter | None":
    """The adapter that a configuration asks for, in no model yet; None where every weight is trained.

    Raises:
        ValueError: it does not take the settings.
    """
    if config.tuning == TUNINGS[0]:
        require(not config.tuning_args, "tuning_args are for an adapter: choose --tuning lora or prefix, or leave them out.")
        advice = "freezes the base, and tuning full moves all of it: choose --tuning lora or prefix."
        require(config.quantise == "none", f"quantise {config.quantise} {advice}")
        return None
    from zolab.models import ADAPTERS, check_quantiser

    check_quantiser(config.quantise)
    message = f"tuning_args {shown(config.tuning_args)} do not fit {config.tuning}"
    return _made(ADAPTERS[config.tuning], config.tuning_args, message)


def forwards(config: Config, steps: int, train: int) -> int:
    """Forward passes, on a batch each, of a run's calibration and first steps; a backward pass counts as two.

    Args:
        config: of the run, valid.
        steps: how many steps.
        train: training examples of the run: all of them are the full batch of a method that needs one.
    """
    from zolab.optim import METHODS

    offsets = -(-config.calibrate // config.batch_size)
    if config.first_order:
        from zolab.runs.first_order import FIRST_ORDER, FirstOrder

        return offsets + steps * FirstOrder.forwards(**{**FIRST_ORDER[config.optimizer], **own_settings(config.optim_args)})
    return offsets + _fit(config, partial(METHODS[config.optimizer].forwards, steps, full=-(-train // config.batch_size)))


def _method(config: Config, model: "nn.Module | None" = None) -> Callable:
    """What makes the optimizer of a model from its settings, or tries them if there is no model yet."""
    from zolab.optim import METHODS

    if config.first_order:
        from zolab.runs.first_order import first_order

        return partial(first_order, config.optimizer, model)
    method = METHODS[config.optimizer]
    return method.try_settings if model is None else partial(method, model.named_parameters())


def _fit(config: Config, method: Callable) -> Any:
    """Call a method with the settings of a configuration."""
    names = ("lr", "weight_decay") if config.first_order else ("lr", "eps", "weight_decay", "seed")
    settings = {name: getattr(config, name) for name in names}
    if config.samples > 1:
        settings["samples"] = config.samples
    message = f"optim_args {shown(config.optim_args)} do not fit {config.optimizer}"
    return _made(lambda **own: method(**settings, **own), config.optim_args, message)  # each name once, unlike in a partial


def _made(make: Callable, text: str, opening: str) -> Any:
    """Call something with the settings that a text holds; `opening` begins the sentence that says why it refuses them."""
    try:
        own = own_settings(text)
    except ValueError as error:
        raise ValueError(f"{opening}: write name=value, ... ({error}).") from error
    try:
        return make(**own)
    except (TypeError, LookupError, ArithmeticError, AttributeError) as error:  # at values of other types than it takes
        raise ValueError(f"{opening} ({str(error)[:200]}).") from error
    except ValueError as error:
        if len(str(error)) > 500:  # a sentence that shows a long text whole
            raise ValueError(f"{opening} ({str(error)[:200]} ...).") from error
        raise


def check_types(settings: Any) -> None:
    """Raise ValueError, naming the field, unless every value of a dataclass of settings is of its field's type."""
    for name, kind in get_type_hints(type(settings)).items():
        value, kind = getattr(settings, name), int | float if kind is float else kind
        fits = isinstance(value, kind) and (kind is bool or type(value) is not bool)
        require(fits, f"{name} must be {getattr(kind, '__name__', kind)}, got {shown(value)}.")


def check_ranges(settings: Any, **hints: str) -> None:
    """Raise ValueError, naming the field, unless every value of a dataclass of settings lies in its range of `RANGES`.

    Args:
        settings: the dataclass.
        hints: for names of fields what the sentence ends with.
    """
    for name in get_type_hints(type(settings)):
        check_range(name, getattr(settings, name), hints.get(name, "."))


def check_range(name: str, value: Any, hint: str = ".") -> None:
    """The same for one value, None being none; the sentence ends with `hint`."""
    least, greatest = RANGES.get(name, (None, None))
    if least is None or greatest is None or value is None or least <= value <= greatest:
        return
    bound = f"at most {_written(greatest)}" if value > greatest else f"at least {_written(least)}"
    bound = "> 0" if 0 < least < 1 and not value > 0 else bound
    raise ValueError(f"{name} must be {bound}, got {shown(value)}{hint}")


def _written(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def shown(value: Any) -> str:
    """A value as a sentence may show it: cut where it is long."""
    return "a number of very many digits" if isinstance(value, int) and abs(value) > 1e60 else _SHOWN.repr(value)


def require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)
