"""What the two papers print, as data: each number of their tables, with what is known to be wrong with some of them.

`papers.csv` has a row for each: paper (arXiv id), table, model, method, task, measure, unit, value, standard deviation, number
of runs and notes. Methods and tasks have the names that they have here; a variant follows a colon, as in zo_finetuner:reset.
An empty value is one that the paper leaves out.
"""

from functools import cache
from importlib.resources import files

import pandas as pd

PAPERS = {"2510.00419": "ZO Fine-tuner", "2605.00650": "AdaMeZO"}
NOTES = {
    "perturbed_loss": "the loss at theta + eps u, averaged over the last epoch of training, not the loss of the weights",
    "confounded_rate": "without the budget f = 1, and the blocks' learning rates are about f^2 smaller, 13 times on 8B",
    "less_than_a_stored_diagonal": "a curvature as large as the weights would take twice their memory",
    "text_says_312": "the paper's text has 312 for the table's 316",
    "below_zero_shot": "the trained model is worse than the untrained one: a run that diverged",
    "copied_from_mezo": "the row of MeZO's paper (arXiv 2305.17333), without deviations",
    "equals_zero_shot": "the number of the untrained model; it lowers the row's average",
    "model_presumed": "the table's caption does not name the model as exactly as its column here does",
    "prefix_presumed": "possibly prefix tuning; the appendix lists it",
    "out_of_memory": "the method did not fit into the GPU's memory",
    "horizon_unknown": "the number of past steps is not told; the code's example has 10",
    "rows_alike": "two rows of the table have the same six numbers: one of them is a copy of the other",
}
AVERAGES = {"average": (), "average_without_squad_drop": ("squad", "drop")}
"""Columns that are means of the other tasks of their row, but for some."""


@cache
def papers() -> pd.DataFrame:
    """All printed numbers; `value`, `sd` and `n` are floats, NaN where there is none, the other columns texts; `notes` are keys
    of `NOTES`, with spaces between several."""
    with (files("zolab.studies") / "papers.csv").open() as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    return table.assign(**{name: table[name].replace("", "nan").astype(float) for name in ("value", "sd", "n")})


def printed(**columns: str) -> pd.DataFrame:
    """The rows that have these values, as `printed(paper="2510.00419", table="1", method="mezo")`.

    Raises:
        ValueError: there is no such column, or no such row.
    """
    rows = papers()
    for name, value in columns.items():
        if name not in rows:
            raise ValueError(f"the papers' numbers have no column {name}; they have {', '.join(map(str, rows.columns))}.")
        left = rows[rows[name] == value]
        if left.empty:
            raise ValueError(
                f"no printed number has {name} {value!r} there; it is one of {', '.join(sorted(set(rows[name])))}."
            )
        rows = left
    return rows


def wins(measure: str, method: str, others: tuple[str, ...] = (), ties: bool = False, **columns: str) -> tuple[int, int]:
    """In how many cells of a table, a cell being a model and a task, a method is best, and of how many.

    Args:
        measure: "train_loss", of which the lowest is best, or "accuracy", of which the highest is, F1 included.
        method: its name.
        others: those it is compared with; all others by default.
        ties: count cells in which another one is as good.
        columns: which table, as for `printed`.
    """
    measures = ("accuracy", "f1") if measure == "accuracy" else (measure,)
    rows = printed(**columns)
    rows = rows[rows.measure.isin(measures) & ~rows.task.isin(AVERAGES)]
    sign, won, cells = (-1 if measure == "train_loss" else 1), 0, 0
    for _, cell in rows.groupby(["model", "task"]):
        values = dict(zip(cell.method, sign * cell.value, strict=True))
        rivals = [value for name, value in values.items() if name != method and (not others or name in others)]
        cells += 1
        won += all(values[method] > value or (ties and values[method] == value) for value in rivals)
    return won, cells


def averages() -> pd.DataFrame:
    """The averages that AdaMeZO's tables print, `printed`, beside the `mean` of what they average; none that lack a number."""
    rows = papers()
    averaged = []
    for (table, model, method), row in rows[rows.paper == "2605.00650"].groupby(["table", "model", "method"]):
        tasks = row[~row.task.isin(AVERAGES) & row.measure.isin(["accuracy", "f1"])]
        for name, left_out in AVERAGES.items():
            (*_, value) = [float("nan"), *row[(row.task == name) & (row.measure == "mean")].value]
            mean = tasks[~tasks.task.isin(left_out)].value.mean(skipna=False)
            averaged.append((table, model, method, name, value, mean))
    return pd.DataFrame(averaged, columns=["table", "model", "method", "average", "printed", "mean"]).dropna()
