"""Do the gains that the map predicts arrive? MeZO with scales of each way, beside MeZO: what was predicted, what was saved.

One half of a task's examples chooses the scales, the other half says what a step should gain with them. Then runs decide.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from zolab.runs.config import require
from zolab.studies.compare import beside
from zolab.studies.gain_map import base_signal, finite
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE, Plan, Prepared
from zolab.studies.scales import start_of, with_sigma
from zolab.studies.statistics import Estimate
from zolab.theory.judged import chosen

OPTIONS: dict[str, Any] = {"examples": 512, "groups": 16}
BEFORE = "the gradients of some examples on each task, one by one"
SCALES = {
    "by kind": "G / V by kind",
    "by layer": "G / V by layer",
    "by tensor": "G / V by tensor",
    "best": "best of one step",
    "density": "density",
    "no embedding": "embedding frozen",
    "permuted": "the same, permuted",
}
"""Methods of a plan: which of the map's ways chooses the scales (`zolab.theory.judged.chosen`)."""
DRAWS = 1000  # of the bootstrap over tasks


def check(plan: Plan) -> None:
    """Raise ValueError unless every method is MeZO or a way to choose scales."""
    unknown = [name for name in plan.methods if name not in (BASE, *SCALES)]
    require(not unknown, f"unknown scales {', '.join(unknown)}; choose {BASE}, {', '.join(SCALES)}.")
    require(BASE in plan.methods and len(plan.methods) > 1, f"methods must be {BASE} and some of {', '.join(SCALES)}.")
    examples, groups = (plan.options[key] for key in OPTIONS)
    require(type(examples) is int and type(groups) is int, "examples and groups must be whole numbers.")
    require(6 <= groups <= examples, f"groups must be between 6 and the {examples} examples, got {groups}.")
    for task in plan.tasks:
        start_of(plan, task)


def names(plan: Plan) -> list[str]:
    return list(plan.methods)


def prepare(plan: Plan, task: str, out: Path) -> Prepared:
    """Scales that half of the examples choose, each way's; the other half's prediction goes into the record.

    The search for a learning rate starts where the theory puts it: at MeZO's, times the ratio of the two best rates of a step.
    """
    config, groups = start_of(plan, task), plan.options["groups"]
    statistics = base_signal(replace(config, train=plan.options["examples"]), groups)
    half, other = statistics.halves()
    ways, terms = chosen(half, config.batch_size, config.seed), half.terms(config.batch_size)
    methods, predicted, sigmas = {BASE: {"optimizer": "mezo"}}, {}, {}
    for name in plan.methods:
        if name in SCALES:
            sigmas[name] = sigma = terms.on_budget(ways[SCALES[name]])
            methods[name] = with_sigma(sigma, terms, config.lr)
            gain, error = other.gain(sigma, config.batch_size)
            predicted[name] = finite({"gain": gain, "error": error})
    kept = {name: [float(f"{s:.4g}") for s in sigma] for name, sigma in sigmas.items()}
    return Prepared(methods, {"predicted": predicted, "sigma": kept, "examples": int(statistics.counts.sum())})


@dataclass(frozen=True)
class Outcome:
    """One way's scales on one task.

    Args:
        task, way: names in the record.
        gain, error: predicted descent of a step over MeZO's, by examples that did not choose the scales; its standard error.
        saving: MeZO's forward passes to its mean final loss, over those with the scales.
        final: final dev loss minus MeZO's.
    """

    task: str
    way: str
    gain: float
    error: float
    saving: Estimate
    final: Estimate


def outcomes(record: Record) -> list[Outcome]:
    """What was predicted and what came of it, of each task and way; those without a prediction are left out.

    Args:
        record: of a study of this kind.
    """
    rows = []
    ways = [name for name in record.methods() if name != BASE]
    for way in ways:
        for row in beside(record, way, family=ways):
            predicted: Mapping[str, float | None] = record.measured[row.task]["predicted"][way]
            if (gain := predicted["gain"]) is not None:
                ratio, error = row.forwards, predicted["error"]
                flipped = {"≤": "≥", "≥": "≤"}.get(ratio.bound, ratio.bound)
                saving = replace(ratio, value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low, bound=flipped)
                rows.append(Outcome(row.task, way, gain, np.nan if error is None else error, saving, row.final))
    return rows


def agreement(rows: list[Outcome], key: str = "saving") -> Estimate:
    """Rank correlation of predicted gains with what came of them, with a bootstrap that draws tasks anew.

    Args:
        rows: of one study.
        key: "saving" in forward passes, or "final", by how much the final loss is lower.
    """
    known = [row for row in rows if np.isfinite(_came(row, key))]
    tasks = sorted({row.task for row in known})
    by_task = [np.array([[row.gain, _came(row, key)] for row in known if row.task == task]) for task in tasks]
    rng = np.random.default_rng(0)
    drawn = [np.concatenate([by_task[i] for i in rng.integers(len(tasks), size=len(tasks))]) for _ in range(DRAWS)]
    values = np.array([_correlation(pairs) for pairs in drawn])
    known_values = values[np.isfinite(values)]
    low, high = np.quantile(known_values, [0.025, 0.975]) if len(known_values) else (np.nan, np.nan)
    return Estimate(_correlation(np.concatenate(by_task)), float(low), float(high), n=len(tasks))


def _came(row: Outcome, key: str) -> float:
    """Larger is better; NaN where runs left nothing to compare."""
    if key == "final":
        return -row.final.value
    return np.nan if row.saving.bound == "–" else row.saving.value


def _correlation(pairs: np.ndarray) -> float:
    """Spearman's: predictions span decades, and some are negative."""
    return float(stats.spearmanr(*pairs.T).statistic) if (np.ptp(pairs, 0) > 0).all() else float("nan")
