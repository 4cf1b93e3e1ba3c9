"""Do the gains that the map predicts arrive? MeZO with scales of each way, beside MeZO: what was predicted, what was saved.

One half of a task's examples chooses the scales, the other half says what a step should gain with them. Then runs decide, by
dev examples that are in neither half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zolab.models import load_model
from zolab.probe.blocks import split
from zolab.runs.config import require
from zolab.studies.compare import beside
from zolab.studies.gain_map import base_signal, check_groups, finite
from zolab.studies.gain_transfer import gain_at
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE, Plan, Prepared
from zolab.studies.scales import FROZEN, check_embedding, judging, scales_of, start_of, with_sigma
from zolab.studies.statistics import DRAWS, FEWEST, Estimate, interval
from zolab.theory.judged import chosen
from zolab.theory.signal import Signal

OPTIONS: dict[str, Any] = {"examples": 512, "groups": 16}
BEFORE = "the gradients of some examples on each task, one by one"
SCALES = {
    "by kind": "sigma^2 in proportion to G / V of each kind of tensor",
    "by layer": "the same for each layer",
    "by tensor": "the same for each tensor",
    "permuted": "`by layer`, each tensor's given to another",
    "best": "the best of one step",
    "bound": "the closed form for blocks moved one by one (Theorem 3's, corrected)",
    "density": "sigma_j^2 in proportion to G_j / d_j",
    FROZEN: "one for all blocks but embeddings, which stay as they are",
    "random": "log-normal, one for each tensor",
}
"""Methods of a plan beside MeZO: how the scales are chosen."""


def scales_by(half: Signal, batch: int, seed: int) -> dict[str, np.ndarray]:
    """Sigma of each tensor by all of `SCALES`, off the budget.

    Args:
        half: statistics of the examples that choose.
        batch: examples in a minibatch.
        seed: of what is drawn.
    """
    ways, rng = chosen(half, batch, seed), np.random.default_rng(seed)
    by_layer = ways["G / V by layer"]
    frozen = {FROZEN: ways["embedding frozen"]} if "embedding frozen" in ways else {}
    return {
        **{f"by {name}": ways[f"G / V by {name}"] for name in ("kind", "layer", "tensor")},
        "permuted": rng.permutation(by_layer),
        "best": ways["best of one step"],
        "bound": scales_of(half.terms(batch))["bound"],
        "density": ways["density"],
        **frozen,
        "random": np.exp(rng.normal(size=len(by_layer))),
    }


def check(plan: Plan) -> None:
    """Raise ValueError unless every method is MeZO or a way to choose scales."""
    unknown = [name for name in plan.methods if name not in (BASE, *SCALES)]
    require(not unknown, f"unknown scales {', '.join(unknown)}; choose {BASE}, {', '.join(SCALES)}.")
    require(BASE in plan.methods and len(plan.methods) > 1, f"methods must be {BASE} and some of {', '.join(SCALES)}.")
    own = [name for name, settings in plan.methods.items() if settings]
    require(not own, f"{', '.join(own)} cannot have settings of their own: write the methods as a list.")
    examples, groups = (plan.options[key] for key in OPTIONS)
    check_groups(groups, examples)
    for task in plan.tasks:
        start_of(plan, task)


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """Scales that half of the examples choose, each way's; the other half's prediction goes into the record.

    The search for a learning rate starts where the theory puts it: at MeZO's, times the ratio of the two best rates of a step.

    Raises:
        ValueError: some task, examples or model are not as the plan needs them. Nothing was measured then.
    """
    if task == next(iter(plan.tasks)):  # what is wrong with the last task is said before the first is measured
        for each in plan.tasks:
            judging(plan, each)
        if FROZEN in plan.methods:
            models = {own.model: own for own in (start_of(plan, each) for each in plan.tasks)}
            for own in models.values():
                check_embedding(split(load_model(own.model, own.dtype, own.device)[0]).names, own.model)
    config, groups = start_of(plan, task), plan.options["groups"]
    statistics = base_signal(replace(config, train=plan.options["examples"], dev=1), groups, judging(plan, task))
    half, other = statistics.halves()
    known, terms = scales_by(half, config.batch_size, config.seed), half.terms(config.batch_size)
    methods, predicted, sigmas = {BASE: {"optimizer": "mezo"}}, {}, {}
    for name in plan.methods:
        if name in SCALES:
            sigmas[name] = sigma = terms.on_budget(known[name])
            methods[name] = with_sigma(sigma, terms, config.lr)
            gain, error = other.gain(sigma, config.batch_size)
            predicted[name] = finite({"gain": gain, "error": error})
    kept = {name: [float(f"{s:.4g}") for s in sigma] for name, sigma in sigmas.items()}
    whole = statistics.merged(lambda name: "all")
    of = {"examples": int(statistics.counts.sum()), "balanced": statistics.balanced}
    total = {"G": [float(whole.estimates[0, 0]), float(whole.errors[0, 0])]}
    return Prepared(methods, {"predicted": predicted, "sigma": kept, "total": total, **of})


@dataclass(frozen=True)
class Outcome:
    """One way's scales on one task.

    Args:
        task, way: names in the record.
        gain, error: predicted descent of a step over MeZO's, by examples that did not choose the scales; its standard error.
            NaN where those examples leave it open (`zolab.studies.gain_transfer.gain_at`).
        saving: MeZO's forward passes to its mean final loss, over those with the scales.
        final: final dev loss minus MeZO's.
    """

    task: str
    way: str
    gain: float
    error: float
    saving: Estimate
    final: Estimate

    @property
    def predicted(self) -> str:
        """The prediction as text; a dash where it is open."""
        return "–" if np.isnan(self.gain) else f"{self.gain:.2f} ± {self.error:.2f}"


def outcomes(record: Record) -> list[Outcome]:
    """What was predicted and what came of it, of each task and way that ran beside MeZO.

    Args:
        record: of a study of this kind.
    """
    rows = []
    for way in record.methods():
        if way == BASE or not record.pairs(way):  # while a study runs, or where runs failed
            continue
        for row in beside(record, way):
            gain, error = _prediction(record.measured[row.task], way)
            ratio, flipped = row.forwards, {"≤": "≥", "≥": "≤"}.get(row.forwards.bound, row.forwards.bound)
            saving = replace(ratio, value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low, bound=flipped)
            rows.append(Outcome(row.task, way, gain, error, saving, row.final))
    return rows


def _prediction(measured: Mapping[str, Any], way: str) -> tuple[float, float]:
    """The gain and its standard error, by the rules of the gain map; NaN where the examples leave it open."""
    one = measured["predicted"][way]
    point = {"total": measured["total"], "gains": {way: {"other": one["gain"], "error": one["error"]}}}
    return gain_at(point, way) or (np.nan, np.nan)


def concordance(rows: Sequence[Outcome], key: Literal["saving", "final"] = "saving") -> Estimate:
    """Rank correlation of predicted gains with what came of them: Goodman and Kruskal's gamma, which bounds do not mislead.

    Of the pairs of outcomes whose order is known, the share that was predicted in that order, less the share in the other one.
    Runs that do not arrive leave a bound, and some pairs without an order; scales of which more runs diverged than of MeZO have
    the worst final loss. The interval draws tasks anew, and is open with one task.

    Args:
        rows: of one study; those whose prediction is open do not count.
        key: "saving" in forward passes, or "final", by how much the final loss is lower.
    """
    rows = [row for row in rows if np.isfinite(row.gain)]
    tasks = sorted({row.task for row in rows})
    if not tasks:
        return Estimate(np.nan, -np.inf, np.inf, least=FEWEST)
    least, most, beyond = np.array([_came(row, key) for row in rows]).T
    gains = np.array([row.gain for row in rows])
    of = np.array([[float(row.task == task) for task in tasks] for row in rows])
    above = least[:, None] > np.where(of @ of.T > 0, most, beyond)
    order = above.astype(float) - above.T
    signs = order * np.sign(gains[:, None] - gains)
    sums, pairs = of.T @ signs @ of, of.T @ np.abs(signs) @ of

    def gamma(weights: np.ndarray) -> np.ndarray:
        """With each task so many times, weights of shape (draws, tasks)."""
        known = ((weights @ pairs) * weights).sum(1)
        return np.divide(((weights @ sums) * weights).sum(1), known, out=np.full(len(weights), np.nan), where=known > 0)

    (value,), n = gamma(np.ones((1, len(tasks)))), len(tasks)
    drawn = gamma(np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float))
    drawn = drawn[np.isfinite(drawn)]
    ends = interval(drawn) if n > 1 and len(drawn) else (-np.inf, np.inf)
    return Estimate(float(value), *ends, n=n, least=FEWEST)


def concordances(rows: Sequence[Outcome]) -> dict[str, str]:
    """Both rank correlations as text, by what came of the predictions: "saving" and "final"."""
    keys: tuple[Literal["saving", "final"], ...] = ("saving", "final")
    return {key: concordance(rows, key).text(sign=True) for key in keys}


def _came(row: Outcome, key: Literal["saving", "final"]) -> tuple[float, float, float]:
    """What came of scales, larger is better: the least it may be, the most beside others of the task, and beside other tasks.

    NaN where nothing is known. Within a task savings have the same forward passes of MeZO in them, so that it does not matter
    whether MeZO itself arrives.
    """
    if key == "final":
        better = {"≥": -np.inf, "≤": np.inf}.get(row.final.bound, -row.final.value)
        return better, better, better
    value, bound = row.saving.value, row.saving.bound
    return 0.0 if bound in ("≤", "–") else value, value, np.inf if bound in ("≥", "–") else value
