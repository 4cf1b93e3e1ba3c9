"""The settings of learning to learn, each with the sentence that the command line shows for it."""

import json
from dataclasses import dataclass

from zolab.runs.config import check_ranges, check_types, option, require, shown
from zolab.runs.names import DTYPE_NAMES, OWN_TASKS, TASK_NAMES

GRADIENTS = {
    "sample": "through theta' along the one direction, as published: p is a constant",
    "complete": "the same with what sigma does to p",
    "expected": "of the expectation over directions, from the clean gradient's norms G_j: -lr_zo sum_j s_j G_j",
    "curved": "of the expected change with noise and curvature, at lr_zo, from measured terms (zolab.theory.terms)",
    "gain": "of the log of the expected descent, at the best learning rate of each sigma, that of sigma = 1 being 0",
}
MEASURED = ("curved", "gain")
SCALES = {
    "signal": "sigma^2 in proportion to a block's signal to noise G / V, the mean over the tasks",
    "best": "the best of one step for all tasks at once, each at its own best learning rate",
}
RULE_NAMES = ("tensor", "layer", "kind")
OUTER_NAMES = ("sgd", "adam")
BUDGET_NAMES = ("paper", "code", "none")
BALANCED = "as many examples of each class in each batch, on tasks whose examples share their candidates"
CALIBRATE = "fit the candidates' offsets to so many training examples first, on tasks whose examples share their candidates"
NAMES = f"{', '.join(TASK_NAMES)}; or {OWN_TASKS}"


@dataclass(frozen=True)
class TaskNames:
    """Of a configuration: what `tasks`, names with commas between them, stands for; one in braces is a description, as JSON."""

    tasks: str

    @property
    def task_names(self) -> list[str]:
        """Raises ValueError where a description does not end."""
        names, rest, comma = [], self.tasks, ","
        while comma:
            rest = rest.lstrip()
            end = _end_of_json(rest) if rest.startswith("{") else 0
            more, comma, after = rest[end:].partition(",")
            names.append((rest[:end] + more).rstrip())
            rest = after
        return names

    def check_task_names(self) -> None:
        require(all(self.task_names), f"tasks {shown(self.tasks)} names an empty task; write NAME,NAME.")
        require(len(set(self.task_names)) == len(self.task_names), f"tasks {shown(self.tasks)} names a task twice.")


def _end_of_json(text: str) -> int:
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"tasks has a description that is no JSON, {shown(text)} ({error}); correct it.") from error


@dataclass(frozen=True, kw_only=True)
class MetaConfig(TaskNames):
    """What decides the result of meta-training."""

    model: str = option("smollm2-135m", "embedded name, local folder or Hub id of the model")
    tasks: str = option("rotten_tomatoes", f"with commas between them; batches take turns. The tasks: {NAMES}")
    steps: int = option(570, "meta-steps")
    period: int = option(190, "steps after which the model is put back; as many as steps never does")
    reset_below: float = option(0.0, "put it back earlier once the mean of ten losses is below this; 0 never does")
    batch_size: int = option(8, "examples in a batch")
    balanced: bool = option(False, BALANCED)
    calibrate: int = option(0, CALIBRATE)
    train: int | None = option(300, "training examples of each task")
    gradient: str = option("sample", "which gradient of the meta-loss", GRADIENTS)
    measured: int = option(32, f"examples behind each step's statistics, for gradient {' or '.join(MEASURED)}")
    minibatches: int = option(4, "minibatches drawn from them, for the noise")
    through_budget: bool = option(False, "differentiate the budget's factor too; the published code does not")
    lr_zo: float = option(1e-6, "learning rate of the zeroth-order step in the meta-loss")
    eps: float = option(1e-3, "finite-difference radius, in weight units")
    meta_lr: float = option(0.1, "learning rate of PertNN: 0.1 in the published code, 0.01 in the paper")
    outer: str = option("sgd", "optimizer of PertNN", OUTER_NAMES)
    lr: float = option(0.01, "learning rate of the model's SGD: 0.01 in the published code, 1e-6 in the paper")
    momentum: float = option(0.8, "of the model's SGD; not 0 takes memory of the weights' size")
    decay: bool = option(True, "let the model's learning rate fall linearly to zero over a period")
    clip: float = option(1.0, "largest norm of the model's gradient; 0 does not clip")
    exact: bool = option(False, "take p from the clean gradient: two forward passes less")
    fused: bool = option(False, "take the model's step inside the backward pass; needs clip 0")
    recompute: bool = option(False, "make activations again in the backward pass: less memory, more time")
    rule: str = option("tensor", "what a block is", RULE_NAMES)
    hidden: int = option(64, "tanh units of each network")
    identity: bool = option(False, "begin with sigma = 1, at MeZO")
    input_scaling: bool = option(False, "bring mean and variance to the order of one")
    normalise: str | None = option("paper", "budget of the squared scales", BUDGET_NAMES)
    seed: int = option(0, "of PertNN's first weights, the directions and the order of batches")
    data_seed: int = option(0, "of the draw of training examples")
    device: str = option("cpu", "torch device, such as cpu or cuda:0")
    dtype: str = option("float32", "number format of the weights", DTYPE_NAMES)

    @property
    def budget(self) -> str | None:
        return None if self.normalise in (None, "none") else self.normalise

    def validate(self) -> None:
        """Raise ValueError, naming the option, unless every value makes sense."""
        check_types(self)
        check_ranges(self, period="; give as many as steps never to reset.")
        require(self.lr <= 1e4, f"lr must be at most 10,000 for the model's own SGD, got {shown(self.lr)}.")
        require(0 <= self.momentum < 1, f"momentum must lie in [0, 1), got {self.momentum}.")
        require(self.gradient in GRADIENTS, f"unknown gradient {shown(self.gradient)}; choose {', '.join(GRADIENTS)}.")
        require(self.rule in RULE_NAMES, f"unknown rule {shown(self.rule)}; choose {', '.join(RULE_NAMES)}.")
        require(self.outer in OUTER_NAMES, f"unknown outer optimizer {shown(self.outer)}; choose {', '.join(OUTER_NAMES)}.")
        require(self.normalise in (None, *BUDGET_NAMES), f"normalise must be paper, code or none, got {shown(self.normalise)}.")
        require(not (self.fused and self.clip), "the fused step cannot clip; set clip to 0.")
        require(not (self.fused and self.exact), "the fused step forgets the gradients that exact needs; set one to false.")
        self.check_task_names()


@dataclass(frozen=True, kw_only=True)
class EvolveConfig(TaskNames):
    """What decides the result of an evolution."""

    model: str = option("tiny-reviews", "embedded name, local folder or Hub id of the model")
    tasks: str = option("reviews_sentence", f"with commas between them; pairs take turns. The tasks: {NAMES}")
    start: str = option("", "record of a gain map (`map`) of these tasks, which gives the first sigma; without it they are 1")
    scales: str = option("signal", "what it gives", SCALES)
    weight: float = option(0.5, "how far the first sigma^2 go from 1: 1 - weight + weight times what the gain map gives")
    pairs: int = option(300, "pairs of runs; with none the first sigma are what comes out")
    steps: int = option(100, "zeroth-order steps of a run")
    batch_size: int = option(16, "examples in a batch")
    balanced: bool = option(False, BALANCED)
    calibrate: int = option(0, CALIBRATE)
    train: int | None = option(1000, "training examples of each task")
    dev: int = option(100, "other examples on which a run is judged")
    lr: float = option(5e-4, "learning rate of the first runs; it evolves, too")
    eps: float = option(1e-3, "finite-difference radius, in weight units")
    spread: float = option(0.3, "how far, in log sigma and log lr, the runs of a pair lie from the present ones")
    rate: float = option(0.03, "step along a pair's direction if the difference of its losses is the median one")
    rule: str = option("tensor", "what a block is", RULE_NAMES)
    seed: int = option(
        0, "of the pairs' directions; pair k's runs have seed + k, so give none of these to runs that are to judge"
    )
    data_seed: int = option(0, "of the draw of examples")
    device: str = option("cpu", "torch device, such as cpu or cuda:0")
    dtype: str = option("float32", "number format of the weights", DTYPE_NAMES)

    def validate(self) -> None:
        """Raise ValueError, naming the option, unless every value makes sense."""
        check_types(self)
        require(min(self.seed, self.data_seed) >= 0, "seed and data_seed must be at least 0.")
        check_ranges(self)
        require(self.lr > 0, f"lr must be > 0, got {self.lr}.")
        require(self.pairs > 0 or bool(self.start), "without pairs of runs there must be a start: give one, or some pairs.")
        require(self.seed + self.pairs < 2**64, f"seed must be less than 2**64 - pairs, got {self.seed}.")
        require(self.rule in RULE_NAMES, f"unknown rule {shown(self.rule)}; choose {', '.join(RULE_NAMES)}.")
        require(self.scales in SCALES, f"unknown scales {shown(self.scales)}; choose {', '.join(SCALES)}.")
        for name in ("scales", "weight") if not self.start else ():
            usual = getattr(type(self), name)
            require(
                getattr(self, name) == usual, f"{name} is about what a gain map gives: give a start, or leave it at {usual}."
            )
        self.check_task_names()
