"""Is it learned? A trained PertNN beside everything that might do as well: the controls that decide."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zolab.models import fingerprint, load_model
from zolab.pertnn import PertNN, features
from zolab.probe.blocks import mean_and_variance, moments, weights_of
from zolab.records import environment, save_record
from zolab.runs.config import Config
from zolab.studies.scales import scales_of, terms_of, with_sigma
from zolab.studies.sweep import compare, load_plan
from zolab.tasks import load_task
from zolab.theory.terms import StepTerms

CONTROLS = {
    "trained": "the PertNN",
    "frozen": "its sigma of the first step, kept",
    "permuted": "its networks, each given to another block",
    "untrained": "networks as they begin, of several seeds",
    "density": "sigma_j^2 proportional to G_j / d_j, measured on the task",
    "best": "the scales with which one step gains most, measured on the task",
    "bound": "the closed form of the corrected bound, measured on the task",
    "meazo": "MEAZO: one scalar second moment",
}
UNTRAINED = 2


def study(plan_path: Path, pertnn: str, out: Path, record_path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """MeZO on every method of a plan (they are tasks), and the controls, each at its own best learning rate; the record.

    What a control measures, it measures on the task; on one without options, the terms of the task before it stand in.

    Args:
        plan_path: a plan of `zolab.studies.sweep`.
        pertnn: folder of a PertNN, or the name of a shipped one.
        out: folder of the runs, and of the control PertNNs.
        record_path: file of the record, written after each method.
        names: which of `CONTROLS`.

    Raises:
        ValueError: an unknown control, or the PertNN is for another model.
    """
    if unknown := set(names) - set(CONTROLS):
        raise ValueError(f"unknown control {', '.join(sorted(unknown))}; choose among {', '.join(CONTROLS)}.")
    plan, result, terms = load_plan(plan_path), {}, None
    for task, method in plan["methods"].items():
        config = Config(**{**plan["base"], **method})
        if load_task(config.task).objective == "options" or terms is None:
            terms, _ = terms_of(config, plan["seeds"][0])
        variants = _variants(config, terms, pertnn, out / "pertnn", names)
        entry = result[task] = {}
        for name, found in compare(plan, task, variants, out):
            entry[name] = found
            save_record({"config": {**plan, "pertnn": pertnn}, "result": result, **environment()}, record_path)
    return result


def networks(trained: PertNN) -> dict[str, PertNN]:
    """The controls that are networks, by name: `trained` itself, `permuted`, and `untrained0` and so on."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(trained.blocks)))
    permuted = copy.deepcopy(trained)
    permuted.load_state_dict({name: w[order] for name, w in trained.state_dict().items()})
    untrained = {f"untrained{seed}": PertNN(trained.blocks, trained.hidden, seed=seed) for seed in range(UNTRAINED)}
    return {"trained": trained, "permuted": permuted, **untrained}


def measured_sigmas(terms: StepTerms) -> dict[str, np.ndarray]:
    """The controls that have seen gradients, by name: sigma of each tensor, on the budget."""
    density = terms.on_budget(np.sqrt(np.maximum(terms.squares, 0) / terms.sizes))
    return {"density": density, **{name: sigma for name, sigma in scales_of(terms).items() if name in CONTROLS}}


def _variants(config: Config, terms: StepTerms, pertnn: str, folder: Path, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The settings of each control; networks of its own are written into a folder."""
    model, _ = load_model(config.model)
    trained = PertNN.load(pertnn, model)
    found = {}
    for name, network in {**networks(trained), "frozen": trained}.items():
        if name.rstrip("0123456789") in names:
            about = {"base_model": config.model, "fingerprint": fingerprint(model), "training_data": name, "licence": "MIT"}
            network.save(folder / name, **about, metrics={})
            extra = ", freeze=True" if name == "frozen" else ""
            found[name] = deployed(folder / name, model, terms, config.lr, extra)
    found |= {name: with_sigma(sigma, terms, config.lr) for name, sigma in measured_sigmas(terms).items() if name in names}
    if "meazo" in names:  # its steps are as long as MeZO's where |p| is about |g_B|
        found["meazo"] = {"optimizer": "meazo", "lr": float(f"{config.lr * terms.seconds.sum() ** 0.5:.3g}")}
    return found


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
