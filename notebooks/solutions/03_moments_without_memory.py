"""Solutions of notebook 03: `python notebooks/solutions/03_moments_without_memory.py` prints what the checks say to them."""

import math

from zolab.widgets import check


def horizon():
    return (math.ceil(math.log(0.1) / math.log(0.99)),)  # 1 - 0.99^h >= 0.9


def error():
    # what is left out over the whole: the root of sum_{k >= h} beta^(2k) / sum_k beta^(2k) is beta^h
    return (math.ceil(math.log(0.01) / math.log(0.9)),)


def steepest():
    return (3,)  # |g|² + 2 |g|² over |g|²


SOLUTIONS = {1: horizon, 2: error, 3: steepest}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("03", number, *solution()))
