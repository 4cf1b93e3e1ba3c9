"""Do the best scales of the theory help in a run? MeZO with each of them, beside MeZO."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zolab.models import load_model
from zolab.runs.batches import check_classes
from zolab.runs.config import Config, require
from zolab.studies.gain_map import base_signal, check_groups
from zolab.studies.plan import BASE, Plan, Prepared, check_run
from zolab.tasks import Example, load_task
from zolab.theory.judged import noise_rank, without_embedding
from zolab.theory.measure import gauss_newton_terms
from zolab.theory.terms import StepTerms

OPTIONS: dict[str, Any] = {"examples": 64, "minibatches": 4}
BEFORE = "the gradients of some examples on each task"
FROZEN = "no embedding"
"""Of several studies: MeZO with one sigma for all blocks but embeddings, which stay as they are."""
SCALES = {
    "best": "the scales with which one step gains most, all blocks moving at once",
    "bound": "the closed form for blocks moved one by one (Theorem 3's, corrected)",
    "density": "sigma_j^2 proportional to G_j / d_j",
    "best_permuted": "`best`, each scale given to another block",
    "bound_permuted": "`bound`, likewise",
}


def check(plan: Plan) -> None:
    """Raise ValueError unless every method is MeZO or one of `SCALES`."""
    unknown = [name for name in plan.methods if name not in (BASE, *SCALES)]
    require(not unknown, f"unknown scales {', '.join(unknown)}; choose {BASE}, {', '.join(SCALES)}.")
    require(bool(plan.methods), f"methods must be a list of {BASE} and some of {', '.join(SCALES)}.")
    for task in plan.tasks:
        start_of(plan, task)
    for key in OPTIONS:
        require(type(plan.options[key]) is int and plan.options[key] >= 1, f"{key} must be a whole number of at least 1.")


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """Scales from the Gauss-Newton statistics of the base model on the task.

    The search for a learning rate starts where the theory puts it: at MeZO's, times the ratio of the two best rates of a step.
    """
    config = start_of(plan, task)
    terms, rank = terms_of(config, plan.seeds[0], plan.options["examples"], plan.options["minibatches"])
    known, methods, gains = scales_of(terms), {}, {}
    for name in plan.methods:
        sigma = known.get(name, np.ones(len(terms.sizes)))
        methods[name] = with_sigma(sigma, terms, config.lr) if name in known else {"optimizer": "mezo"}
        gains[name] = float(terms.best_change(sigma) / terms.best_change(np.ones(len(sigma))))
    sigmas = {name: known[name].tolist() for name in plan.methods if name in known}
    return Prepared(methods, {"effective_rank": rank, "predicted_gain": gains, "sigma": sigmas})


def scales_of(terms: StepTerms, seed: int = 0) -> dict[str, np.ndarray]:
    """Sigma of each tensor for all of `SCALES`, on the budget.

    Args:
        terms: measured at the weights where the run begins.
        seed: of the permutation.
    """
    costs = np.maximum(terms.traces, 0) * terms.seconds
    own = np.divide(np.maximum(terms.squares, 0), costs, out=np.zeros_like(costs), where=costs > 0)
    scales = {"best": terms.best_sigma(), "bound": terms.on_budget(np.sqrt(own))}
    order = np.random.default_rng(seed).permutation(len(costs))
    scales |= {f"{name}_permuted": terms.on_budget(sigma[order]) for name, sigma in scales.items()}
    return scales | {"density": terms.on_budget(np.sqrt(np.maximum(terms.squares, 0) / terms.sizes))}


def start_of(plan: Plan, task: str) -> Config:
    """The task's configuration for MeZO, at the learning rate where its search starts."""
    return check_run(plan, task, {"optimizer": "mezo"})


def measured_terms(plan: Plan, task: str) -> tuple[StepTerms, dict[str, Any]]:
    """Terms of a study's base model on a task, and what the record keeps of them.

    With `groups` in the plan they are those of `zolab.theory.signal`, which fit runs that are calibrated and balanced, on any
    task; no dev example of a run is among theirs. Without, they are the Gauss-Newton terms of the first reported seed's
    examples; a task without options then has those of the plan's first task that has them.

    Args:
        plan: with `examples` and `groups` among its options.
        task: its name.

    Raises:
        ValueError: no task of the plan has options, or there are too few examples.
    """
    config, (examples, groups) = start_of(plan, task), (plan.options[name] for name in ("examples", "groups"))
    if groups:
        statistics = base_signal(replace(config, train=examples, dev=1), groups, judging(plan, task))
        return statistics.terms(config.batch_size), {"noise_rank": noise_rank(statistics)}
    measurable = [name for name in (task, *plan.tasks) if load_task(start_of(plan, name).task).objective == "options"]
    require(bool(measurable), "no task of the plan has options, on which the terms could be measured; add one, or give groups.")
    terms, rank = terms_of(start_of(plan, measurable[0]), plan.seeds[0], examples)
    return terms, {"effective_rank": rank}


def judging(plan: Plan, task: str) -> frozenset[Example]:
    """The dev examples of all runs on a task, which must not choose what they judge.

    Raises:
        ValueError: the examples lack classes that the runs need.
    """
    config, dev = start_of(plan, task), set()
    loaded = load_task(config.task)
    for seed in (*plan.search_seeds, *plan.seeds):
        examples = loaded.sample(seed, config.train, config.dev, config.test)
        check_classes(replace(config, seed=seed, data_seed=seed), loaded, examples.train)
        dev.update(examples.dev)
    return frozenset(dev)


def check_embedding(names: Sequence[str], model: str) -> None:
    """Raise ValueError unless one of a model's tensors is an embedding, which `FROZEN` keeps as it is.

    Args:
        names: of its tensors.
        model: for the sentence.
    """
    frozen = without_embedding(names) == 0
    require(bool(frozen.any()), f"no tensor of {model} is an embedding by its name: leave out {FROZEN}.")


def check_measured(plan: Plan) -> None:
    """Raise ValueError unless `measured_terms` can have as many groups of examples as the plan asks for."""
    examples, groups = (plan.options[name] for name in ("examples", "groups"))
    check_groups(groups, examples, or_none=True)


def terms_of(config: Config, seed: int, examples: int = 64, minibatches: int = 4) -> tuple[StepTerms, dict[str, float]]:
    """Gauss-Newton terms of a configuration's base model on its first training examples, and the matrix's effective rank."""
    task, (model, tokenizer) = load_task(config.task), load_model(config.model)
    train = task.sample(seed, config.train, config.dev, config.test).train[:examples]
    return gauss_newton_terms(model, task, tokenizer, train, config.batch_size, minibatches)


def with_sigma(sigma: np.ndarray, terms: StepTerms, lr: float) -> dict[str, Any]:
    """Settings of MeZO with fixed scales: the search for their learning rate starts where one step's best is, beside MeZO's.

    At MeZO's own where the terms, of few examples, know no best rate.
    """
    best, plain = (float(terms.best_lr(scales)) for scales in (sigma, np.ones(len(sigma))))
    ratio = best / plain if 0 < best < np.inf and 0 < plain < np.inf else 1.0
    scales = [float(f"{s:.4g}") for s in sigma]
    return {"optimizer": "mezo", "lr": float(f"{lr * ratio:.3g}"), "optim_args": f"sigma={scales}"}
