"""What made the difference between two recipes of meta-training, and whether their runs tell them apart at all."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from zolab.l2l.train import MetaConfig

QUESTIONS = {  # the setting that is asked about, and those that go with it
    "reset": ("period", "reset_below"),
    "normalisation": ("normalise",),
    "what shares a network": ("rule",),
    "tasks": ("tasks",),
    "gradient": ("gradient", "through_budget", "lr_zo"),
    "through the budget": ("through_budget",),
    "step in the meta-loss": ("lr_zo", "outer", "meta_lr", "identity", "input_scaling"),
    "first sigma": ("identity",),
}


@dataclass(frozen=True)
class Difference:
    """Final dev loss of one method minus that of another, over runs with the same task and seed.

    Args:
        mean, error: of the runs that neither lost, and its standard error; NaN and infinite where there are too few.
        lost: runs that only the first method lost, minus those that only the second lost, to divergence.
    """

    mean: float
    error: float
    lost: int

    @property
    def word(self) -> str:
        """lower or higher by two standard errors, or by runs that the other or it alone lost; undecided otherwise."""
        if self.lost:
            return "higher" if self.lost > 0 else "lower"
        return "lower" if self.mean < -2 * self.error else "higher" if self.mean > 2 * self.error else "undecided"

    def __str__(self) -> str:
        lost = f"; diverged runs {self.lost:+d}" if self.lost else ""
        return f"{self.word} ({self.mean:+.3f} ± {self.error:.3f} nats{lost})"


def difference(record: dict[str, Any], a: str, b: str) -> Difference:
    """Method a minus method b in a record of `zolab.studies.recipes` or `zolab.studies.controls`.

    Raises:
        ValueError: no task has runs of both.
    """
    both = [entry for entry in record["result"].values() if a in entry and b in entry]
    if not both:
        raise ValueError(f"no task has runs of both {a} and {b}; choose methods that ran on the same task.")
    pairs = [[entry[name]["seeds"][seed]["dev_loss"] for name in (a, b)] for entry in both for seed in entry[a]["seeds"]]
    gaps = [x - y for x, y in pairs if x is not None and y is not None]
    lost = sum((x is None) - (y is None) for x, y in pairs)
    error = float(np.std(gaps, ddof=1)) / len(gaps) ** 0.5 if len(gaps) > 1 else math.inf
    return Difference(float(np.mean(gaps)) if gaps else math.nan, error, lost)


def changes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe that are not those of `MetaConfig`, the published ones."""
    published = asdict(MetaConfig())
    return {key: value for key, value in settings.items() if value != published.get(key)}


def single_changes(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, list[tuple[str, str, str]]]:
    """For each of `QUESTIONS` the pairs of recipes that differ in its setting, and in none but those beside it; and how."""
    full = {name: asdict(MetaConfig()) | settings for name, settings in recipes.items()}
    found: dict[str, list[tuple[str, str, str]]] = {question: [] for question in QUESTIONS}
    for a, b in combinations(full, 2):
        keys = [key for key in full[a] if full[a][key] != full[b].get(key)]
        how = ", ".join(f"{key} {full[a][key]} -> {full[b].get(key)}" for key in keys)
        for question, (asked, *beside) in QUESTIONS.items():
            if asked in keys and set(keys) <= {asked, *beside}:
                found[question].append((a, b, how))
    return found
