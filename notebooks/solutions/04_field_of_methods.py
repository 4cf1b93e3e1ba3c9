"""Solutions of notebook 04: `python notebooks/solutions/04_field_of_methods.py` prints what the checks say to them."""

from pathlib import Path

import numpy as np
from scipy import stats

from zolab.studies.field_figures import rate_table
from zolab.studies.outcomes import Record
from zolab.widgets import check

RECORD = Path(__file__).parents[2] / "figures" / "records" / "04_field.json"


def between_rates():
    study = Record.load(RECORD)
    names, places, losses = rate_table(study, study.tasks[0])
    falls = {}
    for name, row in zip(names, losses, strict=True):
        a, b = (row[list(places).index(k)] for k in (-1, 1))
        if max(a, b) < 0.5 and a + b > 0:
            falls[name] = (b - a) ** 2 / (8 * (a + b))  # the vertex of (a + b) x² / 2 + (b - a) x / 2
    name = max(falls, key=falls.__getitem__)
    return study, name, falls[name]


def luck_of_many():
    rng, found, studies = np.random.default_rng(1), 0, 2000
    for _ in range(studies):
        mezo, others = rng.normal(size=5), rng.normal(size=(20, 5))
        found += bool((stats.ttest_1samp(others - mezo, 0, axis=1).pvalue < 0.05).any())
    return (found / studies,)


def holm_by_hand():
    def adjust(p):
        order = np.argsort(p)
        times = p[order] * np.arange(len(p), 0, -1)
        adjusted = np.empty(len(p))
        adjusted[order] = np.maximum.accumulate(np.minimum(times, 1))
        return adjusted

    return (adjust,)


SOLUTIONS = {1: between_rates, 2: luck_of_many, 3: holm_by_hand}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("04", number, *solution()))
