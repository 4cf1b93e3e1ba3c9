"""The papers' tables made again from records: ours beside the published number, and how far apart the two are.

A cell that was not run shows "–". A record of a model that the papers do not have fills no cell of theirs: `own_table` shows
it under its own name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from zolab.studies.expected import SHAPES
from zolab.studies.finding import method_rows
from zolab.studies.outcomes import Record
from zolab.studies.papers import AVERAGES, printed

ABSENT = "–"
SAME = {  # rows of the papers' tables that repeat a row of another one
    **dict.fromkeys(("zo_finetuner:both", "zo_finetuner:block"), "zo_finetuner"),
    **{"adamezo:0.7,0.9": "adamezo", "adamezo:0,0": "mezo"},
}
PER = {"percent": 100.0}
DIGITS = {"percent": 1, "fraction": 3, "nats": 3}


@dataclass(frozen=True)
class Measured:
    """What runs of a method on a task came to.

    Args:
        train_loss: nats, of each seed the mean of the last steps' losses at theta + eps u and theta - eps u.
        metric: accuracy or F1 on the test examples, fractions.
        lr: the best learning rate.
        edge: it is the lowest or highest of those tried.
    """

    train_loss: np.ndarray
    metric: np.ndarray
    lr: float
    edge: bool


Key = tuple[str, str, str]


def measured(records: Iterable[Record]) -> dict[Key, Measured]:
    """All runs of records of kind "reproduction", by model, row and task, as the papers call them; the last one's count."""
    runs: dict[Key, Measured] = {}
    for record in records:
        plan, zero = record.plan, "zero_shot"
        for task in record.tasks:
            settings = {**plan["base"], **plan["tasks"][task]}
            model = SHAPES[settings["model"]].printed if settings["model"] in SHAPES else settings["model"]
            for name in record.methods(task):
                own, search, cells = plan["methods"][name], record.search(task, name), record.cells(task, name)
                row = own.get("row", own.get("optimizer", "mezo"))
                losses, metrics = (_column(cells, key) for key in ("train_loss_last", "test_after"))
                runs[model, row, settings["task"]] = Measured(losses, metrics, search["lr"], search["edge"])
                before = _column(cells, "test_before")
                runs.setdefault((model, zero, settings["task"]), Measured(np.full(len(before), np.nan), before, 0.0, False))
    return runs


def table(paper: str, number: str, records: Iterable[Record], **columns: str) -> pd.DataFrame:
    """A table of a paper, a row for each printed number: `ours` (mean ± sd (n)), `published`, `difference` in sd, `rate`.

    Args:
        paper, number: the paper's arXiv number, and its table's.
        records: of plans of kind "reproduction".
        columns: which of the table's rows, as for `zolab.studies.papers.printed`.

    Raises:
        ValueError: the paper has no such table.
    """
    ours, rows = measured(records), []
    for row in _rows(paper, table=number, **columns):
        if row["task"] not in AVERAGES:
            model, method, task = row["model"], row["method"], row["task"]
            runs = ours.get((model, method, task), ours.get((model, SAME.get(method, method), task)))
            rows.append((model, method, task, row["measure"], *_beside(runs, row)))
    return pd.DataFrame(rows, columns=["model", "method", "task", "measure", "ours", "published", "difference", "rate"])


def _rows(paper: str, **columns: str) -> list[dict[str, Any]]:
    return [dict(zip(map(str, row), row.values(), strict=True)) for row in printed(paper=paper, **columns).to_dict("records")]


def _printed(value: float, sd: float) -> str:
    return ABSENT if np.isnan(value) else f"{value:g}" + ("" if np.isnan(sd) else f" ± {sd:g}")


def _beside(runs: Measured | None, row: dict[str, Any]) -> tuple[str, str, str, str]:
    per, digits, value, sd = PER.get(row["unit"], 1.0), DIGITS.get(row["unit"], 2), row["value"], row["sd"]
    published = _printed(value, sd)
    values = np.array([]) if runs is None else per * (runs.train_loss if row["measure"] == "train_loss" else runs.metric)
    if runs is None or not len(values) or not np.isfinite(values).all():
        return ABSENT if runs is None or not len(values) else "diverged", published, ABSENT, ABSENT
    spread = float(np.hypot(_sd(values), 0.0 if np.isnan(sd) else sd))
    difference = f"{(values.mean() - value) / spread:+.1f}" if spread > 0 and not np.isnan(value) else ABSENT
    rate = f"{runs.lr:g}" + ("*" if runs.edge else "") if runs.lr else ABSENT
    return written(values, digits), published, difference, rate


def own_table(record: Record, measure: str = "metric") -> pd.DataFrame:
    """Methods by tasks of one record, under its model's name: mean ± sd (n), an asterisk at a best rate at the grid's edge.

    Args:
        record: of a study.
        measure: "metric", in percent, or "train_loss", in nats.
    """
    rows = {}
    for name in record.methods():
        rows[name] = dict.fromkeys(record.tasks, ABSENT)
        for task in record.tasks:
            cells = record.cells(task, name)
            if cells:
                key, per, digits = ("test_after", 100, 1) if measure == "metric" else ("train_loss_last", 1, 3)
                values, mark = per * _column(cells, key), "*" if record.search(task, name)["edge"] else ""
                rows[name][task] = (written(values, digits) if np.isfinite(values).all() else "diverged") + mark
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(record.plan["base"]["model"])


def published_table(paper: str, number: str, model: str, measures: Iterable[str]) -> pd.DataFrame:
    """Methods by tasks as a paper prints them for one of its models.

    Args:
        paper, number, model: which.
        measures: such as "train_loss", or "accuracy" and "f1" together.
    """
    rows = printed(paper=paper, table=number, model=model)
    rows = rows[rows.measure.isin(list(measures))]
    text = [_printed(value, sd) for value, sd in zip(rows.value, rows.sd, strict=True)]
    wide = rows.assign(text=text).pivot(index="method", columns="task", values="text")
    return wide.loc[list(dict.fromkeys(rows.method)), list(dict.fromkeys(rows.task))].rename_axis(f"{model}, published")


def win_counts(record: Record, method: str, measure: str = "train_loss", digits: int = 2) -> tuple[int, int, int]:
    """On how many tasks a method's mean is best: strictly, with ties, and of how many.

    Args:
        record: of a study.
        method: its name.
        measure: "train_loss", of which the lowest is best, or "metric".
        digits: to which means are rounded, as the papers print them: only so are there ties.
    """
    sign, key = (-1, "train_loss_last") if measure == "train_loss" else (1, "test_after")
    strictly = with_ties = cells = 0
    for task in record.tasks:
        columns = {name: _column(record.cells(task, name), key) for name in record.methods(task)}
        means = {  # the worst of all, where a run diverged
            name: sign * round(float(column.mean()), digits) if np.isfinite(column).all() else -np.inf
            for name, column in columns.items()
        }
        rivals = [value for name, value in means.items() if name != method]
        if method in means and rivals:
            cells += 1
            strictly += all(means[method] > value for value in rivals)
            with_ties += all(means[method] >= value for value in rivals)
    return strictly, with_ties, cells


def costs(records: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """ZO Fine-tuner's Tables 6 to 8 and AdaMeZO's 4 and 7 beside what was measured, each row with the record that has it.

    Args:
        records: contents of the kept records, by file name without its end; those of a GPU check and of a benchmark are read.
    """
    rows, ours = [], dict(_measured_costs(records))
    for paper, numbers in (("2510.00419", "678"), ("2605.00650", "47")):
        for row in _rows(paper):
            if row["table"] in tuple(numbers):
                what = [row[name] for name in ("table", "model", "method", "task", "measure", "unit")]
                value, source = ours.get((paper, *what[:5]), (None, ABSENT))
                value = ABSENT if value is None else f"{value:.3g}"
                rows.append((*what, value, f"{row['value']:g}", source))
    names = ["table", "model", "method", "task", "measure", "unit", "ours", "published", "record"]
    return pd.DataFrame(rows, columns=names)


def _measured_costs(records: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[tuple[str, ...], tuple[float, str]]]:
    for stem, content in records.items():
        if content.get("kind") != "gpu_check":
            continue
        parts = {row["name"]: row for part in content["parts"].values() for row in part.get("rows", [])}
        step = method_rows(content["parts"])
        weights = SHAPES["meta-llama/Llama-3.2-1B"].weights * 2 / 1e9
        where, small = f"{stem}, 16 x 256 tokens, random weights", "Llama-3.2-1B"
        if "zo_finetuner" in step:
            total, mezo = (step[name]["seconds"] for name in ("zo_finetuner", "mezo"))
            yield ("2510.00419", "6", small, "zo_finetuner", "drop", "step:total"), (total, where)
            yield ("2510.00419", "6", small, "zo_finetuner", "drop", "step:sigma"), (total - mezo, where)
        for name, row in step.items():
            if row["peak_over_weights"] is not None:
                peak = weights * (1 + row["peak_over_weights"])
                yield ("2510.00419", "7", small, name, "sst2", "peak_memory"), (peak, where)
        for hub, shape in SHAPES.items():
            row = parts.get(f"meta-step, {hub.partition('/')[2].lower()}, bfloat16, 16 x 128")
            if row is not None:
                key = ("2510.00419", "8", shape.printed, "meta_training")
                yield (*key, "copa", "peak_memory"), (row["peak_bytes"] / 1e9, f"{stem}, bfloat16, 16 x 128 tokens")
                yield (*key, "copa", "time"), (570 * row["seconds"] / 60, f"{stem}, 570 steps")


def written(values: np.ndarray, digits: int) -> str:
    """Such as 0.512 ± 0.034 (5); one value has no spread."""
    spread = f" ± {_sd(values):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread} ({len(values)})"


def _column(cells: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([cell.get(key, np.nan) if cell.get(key) is not None else np.nan for cell in cells], float)


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
