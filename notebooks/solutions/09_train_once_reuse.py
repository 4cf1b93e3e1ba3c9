"""Solutions of notebook 09: `python notebooks/solutions/09_train_once_reuse.py` prints what the checks say to them."""

from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from zolab.models import load_model
from zolab.pertnn import PertNN
from zolab.probe.blocks import kind_of
from zolab.studies.controls import first_sigma
from zolab.studies.outcomes import Record
from zolab.widgets import check

RECORD = Path(__file__).parents[2] / "figures" / "records" / "09_tiny.json"


def another_seed():
    return ((2 - 2**0.5) * 5**-0.5,)  # |difference| of two draws from U(-a, a) has the density (2 a - x) / (2 a^2)


def three_seeds():
    study = Record.load(RECORD)
    apart = study.runs("passage", "trained").final - study.runs("passage", "MeZO").final
    t = np.array([stats.ttest_1samp(apart[list(triple)], 0).statistic for triple in combinations(range(5), 3)])
    return study, int((np.abs(t) > stats.t.ppf(0.975, 2)).sum()), int((np.abs(t) > 2).sum())


def another_order():
    model, _ = load_model("tiny-reviews")
    pertnn = PertNN.load("tiny-reviews", model)
    sigma, owner = first_sigma(pertnn, model), np.array([kind_of(name) for name in pertnn.blocks.tensors])
    shuffled = sigma.copy()
    for kind in set(owner):
        shuffled[owner == kind] = np.roll(sigma[owner == kind], 1)
    return sigma, owner, shuffled


SOLUTIONS = {1: another_seed, 2: three_seeds, 3: another_order}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("09", number, *solution()))
