"""Do the best scales of the theory help in a run? MeZO with each of them, against MeZO at equal forward passes."""

from pathlib import Path
from typing import Any

import numpy as np

from zolab.models import load_model
from zolab.records import environment, save_record
from zolab.runs.config import Config
from zolab.studies.sweep import compare, load_plan
from zolab.tasks import load_task
from zolab.theory.measure import gauss_newton_terms
from zolab.theory.terms import StepTerms

EXAMPLES, MINIBATCHES = 64, 4


def scales_of(terms: StepTerms, seed: int = 0) -> dict[str, np.ndarray]:
    """The scales that are compared, each on the budget: `best` moves all blocks at once, `bound` is the closed form for blocks
    moved one by one, s_j = G_j / (t_j A_j) (Theorem 3's, corrected, up to a factor), and each again `permuted` over blocks.
    """
    costs = np.maximum(terms.traces, 0) * terms.seconds
    own = np.divide(np.maximum(terms.squares, 0), costs, out=np.zeros_like(costs), where=costs > 0)
    found = {"best": terms.best_sigma(), "bound": terms.on_budget(np.sqrt(own))}
    order = np.random.default_rng(seed).permutation(len(costs))
    return found | {f"{name}_permuted": terms.on_budget(sigma[order]) for name, sigma in found.items()}


def study(plan_path: Path, out: Path, record_path: Path, names: tuple[str, ...], examples: int = EXAMPLES) -> dict[str, Any]:
    """Every method of a plan (tasks, with MeZO), again with the scales measured on its task; the record of all.

    The statistics are the Gauss-Newton ones of the base model on the first seed's training examples. The search for a learning
    rate starts where the theory puts it: at MeZO's, times the ratio of the two best rates of one step.

    Args:
        plan_path: a plan of `zolab.studies.sweep`.
        out: folder of the runs.
        record_path: file of the record, written after each method.
        names: which of `scales_of`.
        examples: on which the terms are measured.
    """
    plan, result = load_plan(plan_path), {}
    for task, method in plan["methods"].items():
        config = Config(**{**plan["base"], **method})
        terms, rank = terms_of(config, plan["seeds"][0], examples)
        sigmas = {name: sigma for name, sigma in scales_of(terms).items() if name in names}
        variants = {name: with_sigma(sigma, terms, float(method["lr"])) for name, sigma in sigmas.items()}
        entry = result[task] = {"effective_rank": rank, "methods": {}}
        for name, found in compare(plan, task, variants, out):
            sigma = sigmas.get(name, np.ones(len(terms.sizes)))
            gain = float(terms.best_change(sigma) / terms.best_change(np.ones(len(sigma))))
            entry["methods"][name] = {"sigma": sigma.tolist(), "predicted_gain": gain, **found}
            save_record({"config": plan, "result": result, **environment()}, record_path)
    return result


def terms_of(config: Config, seed: int, examples: int = EXAMPLES) -> tuple[StepTerms, dict[str, float]]:
    """Gauss-Newton terms of a configuration's base model on its first training examples."""
    task, (model, tokenizer) = load_task(config.task), load_model(config.model)
    train = task.sample(seed, config.train, config.dev, config.test).train[:examples]
    return gauss_newton_terms(model, task, tokenizer, train, config.batch_size, MINIBATCHES)


def with_sigma(sigma: np.ndarray, terms: StepTerms, lr: float) -> dict[str, Any]:
    """Settings of MeZO with fixed scales: the search for their learning rate starts where one step's best is, beside MeZO's."""
    ratio = float(terms.best_lr(sigma) / terms.best_lr(np.ones(len(sigma))))
    return {"lr": float(f"{lr * ratio:.3g}"), "optim_args": f"sigma={[float(f'{s:.4g}') for s in sigma]}"}
