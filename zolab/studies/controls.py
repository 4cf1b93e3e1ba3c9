"""Is it learned? A trained PertNN beside everything that might do as well: the controls that decide."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zolab.models import fingerprint, load_model
from zolab.pertnn import PertNN, features
from zolab.pertnn.network import folder_of
from zolab.probe.blocks import mean_and_variance, moments, weights_of
from zolab.runs.config import require
from zolab.studies.plan import BASE, Plan, Prepared
from zolab.studies.scales import FROZEN, check_embedding, check_measured, measured_terms, scales_of, start_of, with_sigma
from zolab.theory.judged import without_embedding
from zolab.theory.terms import StepTerms

OPTIONS: dict[str, Any] = {"pertnn": None, "untrained": 2, "examples": 64, "groups": 0}
BEFORE = "the gradients of some examples on each task"
CONTROLS = {
    "trained": "the PertNN",
    "frozen": "its sigma of the first step, kept",
    "permuted": "its networks, each given to another block",
    "untrained": "networks as they begin, of several seeds",
    "density": "sigma_j^2 proportional to G_j / d_j, measured on the task",
    "best": "the scales with which one step gains most, measured on the task",
    "bound": "the closed form of the corrected bound, measured on the task",
    FROZEN: "one sigma for all blocks but embeddings, which stay as they are",
    "meazo": "MEAZO: one scalar second moment",
    "dizo": "DiZO: ratios for each tensor, which forward passes choose while a run goes on",
}
INFORMED = ("density", "best", "bound")
"""Controls that need gradients of the very task."""


def check(plan: Plan) -> None:
    """Raise OSError or ValueError unless the PertNN is there and every method is MeZO or a control."""
    unknown = [name for name in plan.methods if name not in (BASE, *CONTROLS)]
    require(not unknown, f"unknown control {', '.join(unknown)}; choose among {BASE}, {', '.join(CONTROLS)}.")
    require(bool(plan.methods), f"methods must be a list of {BASE} and some of {', '.join(CONTROLS)}.")
    require(isinstance(plan.options["pertnn"], str), "pertnn must be the folder of a PertNN, or the name of a shipped one.")
    count = plan.options["untrained"]
    require(type(count) is int and count >= 1, f"untrained must be a whole number of at least 1, got {count!r}.")
    folder_of(plan.options["pertnn"])
    check_measured(plan)
    for task in plan.tasks:
        start_of(plan, task)


def names(plan: Plan) -> list[str]:
    run_names = []
    for name in plan.methods:
        run_names += [f"untrained{seed}" for seed in range(plan.options["untrained"])] if name == "untrained" else [name]
    return run_names


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """The settings of each control, with the terms of `measured_terms`."""
    config, (terms, measured) = start_of(plan, task), measured_terms(plan, task)
    model, _ = load_model(config.model)
    trained = PertNN.load(plan.options["pertnn"], model)
    pertnns = {**networks(trained, plan.options["untrained"]), "frozen": trained}
    sigmas, methods = measured_sigmas(terms), {}
    if FROZEN in plan.methods:
        check_embedding(trained.blocks.tensors, config.model)
    sigmas[FROZEN] = without_embedding(trained.blocks.tensors)
    for name in names(plan):
        if name in pertnns:
            folder = out / "pertnn" / f"{task}-{name}"
            about = {"base_model": config.model, "fingerprint": fingerprint(model), "training_data": name, "licence": "MIT"}
            pertnns[name].save(folder, **about, metrics={})
            methods[name] = deployed(folder, model, terms, config.lr, ", freeze=True" if name == "frozen" else "")
        elif name in sigmas:
            methods[name] = with_sigma(sigmas[name], terms, config.lr)
        elif name == "meazo":  # its steps are as long as MeZO's where |p| is about |g_B|
            methods[name] = {"optimizer": "meazo", "lr": float(f"{config.lr * terms.seconds.sum() ** 0.5:.3g}")}
        else:
            methods[name] = {"optimizer": "dizo" if name == "dizo" else "mezo"}
    return Prepared(methods, measured)


def networks(trained: PertNN, untrained: int = 2) -> dict[str, PertNN]:
    """The controls that are networks, by name: `trained` itself, `permuted`, and `untrained0` and so on."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(trained.blocks)))
    permuted = copy.deepcopy(trained)
    permuted.load_state_dict({name: w[order] for name, w in trained.state_dict().items()})
    fresh = {f"untrained{seed}": PertNN(trained.blocks, trained.hidden, seed=seed) for seed in range(untrained)}
    return {"trained": trained, "permuted": permuted, **fresh}


def measured_sigmas(terms: StepTerms) -> dict[str, np.ndarray]:
    """The controls that have seen gradients, by name: sigma of each tensor, on the budget."""
    return {name: sigma for name, sigma in scales_of(terms).items() if name in INFORMED}


def deployed(folder: Path, model: torch.nn.Module, terms: StepTerms, lr: float, extra: str = "") -> dict[str, Any]:
    """Settings of ZO Fine-tuner with the PertNN in a folder; the search for its rate starts where its first step's best is."""
    first = with_sigma(first_sigma(PertNN.load(folder, model), model), terms, lr)
    return {"optimizer": "zo_finetuner", "optim_args": f"pertnn={str(folder)!r}{extra}", "lr": first["lr"]}


@torch.no_grad()
def first_sigma(pertnn: PertNN, model: torch.nn.Module) -> np.ndarray:
    """Sigma of each tensor in the first step."""
    sums = pertnn.blocks.totals(moments(weights_of(model)).T).T
    raw = pertnn(features(*mean_and_variance(sums, pertnn.blocks.sizes), (0.0, 0.0), (1.0,)))
    return pertnn.spread(pertnn.normalised(raw)).double().numpy()
