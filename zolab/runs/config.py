"""The settings of a run, each with the sentence that the command line shows for it."""

import ast
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, get_type_hints

from zolab.runs.names import DTYPE_NAMES, METHOD_NAMES, TASK_NAMES

if TYPE_CHECKING:  # the command line's --help reads this file, and torch takes seconds
    from zolab.optim import ZeroOrderOptimizer

SCHEDULES = ("constant", "linear", "cosine")
PROBES = ("auto", "in_place", "through")


def option(default: Any, text: str, choices: Iterable[str] | None = None) -> Any:
    """A configuration field with its help text, which the command line shows, and the only values that it may have."""
    return field(default=default, metadata={"help": text, "choices": choices and tuple(choices)})


@dataclass(frozen=True)
class Config:
    """What decides the result of a run. The same configuration gives the same weights on the same machine."""

    model: str = option("smollm2-135m", "embedded name, local folder or Hub id of the model")
    task: str = option("rotten_tomatoes", f"name of the task: {', '.join(TASK_NAMES)}")
    optimizer: str = option("mezo", "name of the optimizer", METHOD_NAMES)
    lr: float = option(3e-5, "learning rate, in weight units per unit of projected gradient")
    eps: float = option(1e-3, "finite-difference radius, in weight units")
    weight_decay: float = option(0.0, "decoupled weight decay, per unit of learning rate")
    samples: int = option(1, "directions averaged in a step; each costs two forward passes")
    optim_args: str = option("", "the method's own settings, such as 'horizon=10, betas=(0.7, 0.9)'")
    schedule: str = option("constant", "learning-rate schedule over the steps", SCHEDULES)
    steps: int = option(1000, "optimizer steps")
    batch_size: int = option(16, "examples in a batch")
    train: int | None = option(None, "training examples (of each class for masked models), by default the papers' number")
    dev: int | None = option(None, "examples for choosing the best step, by default the papers' number")
    test: int | None = option(None, "examples for the reported metric, by default the papers' number")
    eval_every: int = option(100, "steps between evaluations on dev; the step with the lowest dev loss is kept")
    patience: int = option(0, "stop after this many evaluations without a new lowest dev loss; 0 never stops early")
    checkpoint_every: int = option(0, "steps between saved weights; 0 keeps only the log, from which weights are replayed")
    seed: int = option(0, "seed of the directions and of the order of batches")
    data_seed: int = option(0, "seed of the draw of train, dev and test examples")
    dtype: str = option("float32", "number format of the weights", DTYPE_NAMES)
    autocast: bool = option(False, "compute in bfloat16 where torch deems it safe; weights and losses keep their precision")
    device: str = option("cpu", "torch device, such as cpu or cuda:0")
    probe: str = option(
        "auto",
        "how a step sees moved weights: in_place moves the stored ones and takes them back, through lets each module see moved "
        "ones while it runs, auto is through on a GPU and in half precision, where it is better; the result is the same",
    )

    def validate(self) -> None:
        """Raise ValueError, naming the option, unless every value makes sense."""
        from zolab.optim import METHODS

        for name, kind in get_type_hints(type(self)).items():
            value, kind = getattr(self, name), int | float if kind is float else kind
            fits = isinstance(value, kind) and (kind is bool or type(value) is not bool)
            require(fits, f"{name} must be {getattr(kind, '__name__', kind)}, got {value!r}.")
        for name in ("steps", "batch_size", "samples", "eval_every"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("patience", "checkpoint_every", "seed", "data_seed", "lr", "weight_decay"):
            require(0 <= getattr(self, name) < math.inf, f"{name} must be at least 0, got {getattr(self, name)}.")
        require(0 < self.eps < math.inf, f"eps must be > 0, got {self.eps}.")
        require(self.schedule in SCHEDULES, f"unknown schedule {self.schedule!r}; choose {', '.join(SCHEDULES)}.")
        require(self.probe in PROBES, f"unknown probe {self.probe!r}; choose {', '.join(PROBES)}.")
        require(self.optimizer in METHODS, f"unknown optimizer {self.optimizer!r}; choose {', '.join(METHODS)}.")
        _fit(self, METHODS[self.optimizer].try_settings)


def make_optimizer(config: Config, params: Iterable) -> "ZeroOrderOptimizer":
    """The optimizer that a configuration asks for. Raises ValueError if it does not take the settings."""
    from zolab.optim import METHODS

    return _fit(config, partial(METHODS[config.optimizer], params))


def _fit(config: Config, method: Callable) -> Any:
    """Call a method with the settings of a configuration."""
    settings = {name: getattr(config, name) for name in ("lr", "eps", "weight_decay", "seed")}
    if config.samples > 1:
        settings["samples"] = config.samples
    try:
        call = ast.parse(f"dict({config.optim_args})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("values without names")
        own = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"optim_args {config.optim_args!r} do not fit {config.optimizer}: write name=value, ...") from error
    try:
        return method(**settings, **own)
    except TypeError as error:
        raise ValueError(f"optim_args {config.optim_args!r} do not fit {config.optimizer} ({error}).") from error


def require(holds: bool, sentence: str) -> None:
    if not holds:
        raise ValueError(sentence)
