"""Solutions of notebook 06: `python notebooks/solutions/06_block_variance.py` prints what the checks say to them."""

import json
from pathlib import Path

from zolab.theory.measure import BlockStatistics
from zolab.widgets import check

RECORD = Path(__file__).parents[2] / "figures" / "records" / "06_blocks_smollm2.json"


def more_probes():
    stat = BlockStatistics.of(json.loads(RECORD.read_text())["result"]["blocks"])  # `stat` of the notebook
    (j,) = (j for j, name in enumerate(stat.names) if "embed_tokens" in name)
    return stat, stat.probes * (stat.errors[j] / (0.1 * stat.traces[j])) ** 2


def larger_part():
    return [100.0], [0.01] * 49  # one steep direction, and a flat block with many


def best_rate():
    def rate(g, hessian, s):
        square, trace = (s * g**2).sum(), (s * hessian.diagonal()).sum()
        return square / (square * trace + 2 * (s * g) @ hessian @ (s * g))

    return (rate,)


SOLUTIONS = {1: more_probes, 2: larger_part, 3: best_rate}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("06", number, *solution()))
