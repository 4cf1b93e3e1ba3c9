"""Solutions of notebook 11: `python notebooks/solutions/11_reproduction.py` prints what the checks say to them."""

from math import comb
from pathlib import Path

from zolab.studies.cost import cells
from zolab.studies.plan import load_plan
from zolab.widgets import check

PLAN = Path(__file__).parents[1] / "plans" / "11_reproduction.yaml"


def count_again():
    def count(losses):
        own, others = losses[0], losses[1:]
        return int((own < others.min(0)).sum()), int((own <= others.min(0)).sum())

    return (count,)


def by_luck():
    return (sum(comb(28, k) for k in range(23, 29)) / 2**28,)  # MeZO's loss is the higher one in 23 of 28 cells


def more_seeds():
    plan = load_plan(PLAN)
    rows = sum(task in own.get("only", plan.tasks) for own in plan.methods.values() for task in plan.tasks)
    return plan, len(plan.seeds) + 5, cells(plan)[0] + 5 * rows


SOLUTIONS = {1: count_again, 2: by_luck, 3: more_seeds}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("11", number, *solution()))
