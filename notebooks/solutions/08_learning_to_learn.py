"""Solutions of notebook 08: `python notebooks/solutions/08_learning_to_learn.py` prints what the checks say to them."""

from pathlib import Path

import numpy as np
from scipy import stats

from zolab.studies.outcomes import Record
from zolab.widgets import check

RECORD = Path(__file__).parents[2] / "figures" / "records" / "08_recipes.json"


def directions():
    return (lambda q: 4 * (1 + q) / q,)  # two standard errors: 2 = sqrt(n q / (1 + q))


def held_constant():
    return (2,)  # d(p sigma_j)/d sigma_j: p stays in one term, sigma in the other, and both are equal for short steps


def seeds():
    record = Record.load(RECORD)
    (ours, theirs), *_ = record.pairs("gain").values()
    differences = ours.final - theirs.final
    n = 3
    while stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / n**0.5 >= abs(np.mean(differences)):
        n += 1
    return differences, n


SOLUTIONS = {1: directions, 2: held_constant, 3: seeds}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("08", number, *solution()))
