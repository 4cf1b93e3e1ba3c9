"""A record of ours beside what the papers print: does another model on another task put the methods in the same order?"""

import os
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, RED
from zolab.studies.compare import ERROR
from zolab.studies.outcomes import Record
from zolab.studies.paper_tables import ABSENT, written
from zolab.studies.papers import printed
from zolab.studies.plan import BASE
from zolab.studies.statistics import difference, holm
from zolab.widgets.controls import choice, several
from zolab.widgets.drawing import canvas, drawing, frame
from zolab.widgets.panel import Level, Panel, View, explore, settings

RECORD = "figures/records/11_reproduction.json"
TABLES = {
    **dict.fromkeys(("Llama-3.2-1B", "Llama-3.1-8B", "Qwen2.5-14B", "OPT-30B"), ("2510.00419", "1")),
    **{"OPT-1.3B": ("2605.00650", "3"), "Llama-3.2-3B": ("2605.00650", "5"), "Llama-3-8B": ("2605.00650", "12")},
    **{"OPT-13B": ("2605.00650", "13")},
}
"""The papers' tables of results, by model."""
KINDS = {"sentence": ("sst2", "boolq", "cb", "wsc"), "next": ("copa",), "number": ("squad", "drop")}
"""Our tasks, and the papers' of the same kind: a word is chosen, a text is chosen, an answer is written."""
CELLS = {f"{ours} beside {theirs}": (ours, theirs) for ours, their in KINDS.items() for theirs in their}
MEASURES = {"training loss": ("train_loss",), "test metric": ("accuracy", "f1")}
KEYS = {"training loss": "train_loss_last", "test metric": "test_after"}
METHODS = ("MeZO-Adam", "MeZO-AdamU", "HiZOO", "LOZO", "ZO Fine-tuner", "AdaMeZO")
LEFT, ACROSS = 0.15, 0.36  # of the picture's width
COLUMNS = {0.63: "● ours ± sd (n)", 0.79: "◆ printed", 0.92: "apart, in sd"}
MANY = 4  # methods beside MeZO, so that there are ten pairs
HINTS = (
    "Methods that hardly differ change places easily. Show more of them, and try other models and tasks.",
    "The interval is over seeds, paired. Look for two dots far apart, with short bars, whose diamonds lie the other way.",
    f"Show {MANY} methods. A pair has to be clear enough for ten comparisons.",
)


@dataclass(frozen=True, eq=False)
class Row:
    """A method in the picture.

    Args:
        method: its name.
        ours: a value for each seed, NaN for a run that is not there or diverged.
        value, sd: what the paper prints, and its standard deviation; NaN where it does not.
    """

    method: str
    ours: np.ndarray
    value: float
    sd: float


def printed_view(
    cell: str = "sentence beside cb",
    measure: str = "training loss",
    model: str = "Llama-3.1-8B",
    methods: tuple[str, ...] = ("HiZOO", "LOZO", "ZO Fine-tuner"),
    record: str | os.PathLike = RECORD,
) -> View:
    """Each method's distance from MeZO, ours over seeds and the paper's; and the pairs that the two put in another order.

    Ours are runs of a small model on its own tasks: distances are compared with the paper's, never the numbers themselves.

    The goals: a pair of methods in another order; one of which our seeds are sure, by the paired t interval; then one that
    is left after Holm's correction for all pairs of five methods.

    Args:
        cell: our task and the paper's, a key of `CELLS`.
        measure: key of `MEASURES`; the metric is in percent.
        model: of the papers, a key of `TABLES`.
        methods: of `METHODS`; MeZO is always there, and one that the table lacks is said to be.
        record: file of a study of kind "reproduction".

    Raises:
        OSError: there is no such file.
        ValueError: a name is not one of those.
    """
    for name, value, known in (("cell", cell, CELLS), ("measure", measure, MEASURES), ("model", model, TABLES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    if unknown := [name for name in methods if name not in METHODS]:
        raise ValueError(f"methods must be of {', '.join(METHODS)}, got {unknown[0]!r}.")
    own, theirs = CELLS[cell]
    rows = [_row(os.fspath(record), name, own, theirs, measure, model) for name in (BASE, *methods)]
    comparable = [row for row in rows if np.isfinite([*row.ours, row.value]).all()]
    pairs = {pair: difference(pair[0].ours, pair[1].ours) for pair in combinations(comparable, 2)}
    adjusted = dict(zip(pairs, holm([gap.p for gap in pairs.values()]), strict=True))
    turned = [pair for pair, gap in pairs.items() if gap.value * (pair[0].value - pair[1].value) < 0]
    clear = [pair for pair in turned if pairs[pair].word != "undecided"]
    corrected = [pair for pair in clear if adjusted[pair] < ERROR]
    ours = _study(os.fspath(record)).plan["base"]["model"]
    height = 1.75 + 0.33 * len(rows)
    with drawing():
        figure = canvas(height)
        heading = f"Ours: {ours} on {own}. Printed: {model} on {theirs}, arXiv {TABLES[model][0]}."
        figure.text(0.02, 1 - 0.1 / height, heading, fontsize=11, va="top", weight="bold")
        axes = figure.add_axes((LEFT, 0.62 / height, ACROSS, 1 - 1.37 / height))
        _draw(axes, rows, measure, f"{len(turned)} of {len(pairs)} pairs in another order")
    levels = (
        Level("two methods that ours and the paper put in another order", bool(turned), HINTS[0]),
        Level("two of which the 95 % interval of our seeds leaves out zero", bool(clear), HINTS[1]),
        Level(
            f"two that are left after Holm's correction, with {MANY} methods beside MeZO or more",
            bool(corrected) and len(comparable) > MANY,
            HINTS[2],
        ),
    )
    example = ", ".join(f"{a.method} and {b.method}" for a, b in (corrected or clear or turned)[:1])
    now = f"{len(turned)} of {len(pairs)} pairs in another order, {len(clear)} of them clear, {len(corrected)} after correction"
    lacking = [row.method for row in rows if row not in comparable]
    notes = (f"Not run, diverged or not printed: {', '.join(lacking)}.",) if lacking else ()
    return View(figure, levels, now + (f": {example}" if example else ""), notes)


def printed_panel(record: str | os.PathLike = RECORD, **start) -> Panel:
    """A panel over `printed_view`.

    Args:
        record: as there.
        start: where the controls begin.
    """
    at = settings(printed_view, start)
    return explore(
        partial(printed_view, record=record),
        cell=choice("tasks", at.cell, list(CELLS)),
        measure=choice("measure", at.measure, list(MEASURES)),
        model=choice("their model", at.model, list(TABLES)),
        methods=several("beside MeZO", at.methods, METHODS, len(METHODS)),
    )


@cache
def _study(record: str) -> Record:
    return Record.load(record)


@cache
def _row(record: str, method: str, own: str, theirs: str, measure: str, model: str) -> Row:
    study, (paper, table) = _study(record), TABLES[model]
    settings, per = study.plan["methods"].get(method, {}), 1 if measure == "training loss" else 100
    by_seed = {cell["seed"]: cell.get(KEYS[measure]) for cell in study.cells(own, method)}
    ours = per * np.array([by_seed.get(seed) for seed in study.plan["seeds"]], float)
    rows = printed(paper=paper, table=table, model=model, task=theirs)
    rows = rows[(rows.method == settings.get("row", settings.get("optimizer"))) & rows.measure.isin(MEASURES[measure])]
    if not len(rows):
        return Row(method, ours, float("nan"), float("nan"))
    to_percent = 100 if rows.unit.iloc[0] == "fraction" else 1
    return Row(method, ours, to_percent * float(rows.value.iloc[0]), to_percent * float(rows.sd.iloc[0]))


def _draw(axes: Axes, rows: list[Row], measure: str, title: str) -> None:
    base, digits = rows[0], 3 if measure == "training loss" else 1
    for place, row in enumerate(rows):
        gaps, printed_gap = row.ours - base.ours, row.value - base.value
        spread = gaps.std(ddof=1)
        if place and np.isfinite(spread):
            axes.plot([gaps.mean() - spread, gaps.mean() + spread], [place] * 2, color=BLUE, linewidth=2.5)
        if np.isfinite(spread):
            axes.plot(gaps.mean(), place, "o", color=BLUE, markeredgecolor=BLACK, markersize=8)
        if np.isfinite(printed_gap):
            axes.plot(printed_gap, place, "D", color=RED, markeredgecolor=BLACK, markersize=7)
        apart = _apart(gaps, printed_gap, 0.0 if np.isnan(row.sd + base.sd) else float(np.hypot(row.sd, base.sd)))
        theirs = ABSENT if np.isnan(row.value) else f"{row.value:.{digits - (digits == 3)}f}"
        theirs += "" if np.isnan(row.sd) else f" ± {row.sd:.1f}"
        ours = written(row.ours, digits) if np.isfinite(row.ours).all() else ABSENT
        for at, text in zip(COLUMNS, (ours, theirs, apart if place else ""), strict=True):
            _say(axes, at, place, text)
    for (at, text), colour in zip(COLUMNS.items(), (BLUE, RED, BLACK), strict=True):
        _say(axes, at, -0.9, text, weight="bold", color=colour)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    unit = "nats; lower is better" if measure == "training loss" else "percentage points; higher is better"
    frame(axes, title, f"minus {BASE}, {unit}")
    axes.set_yticks(range(len(rows)), [row.method for row in rows])


def _apart(gaps: np.ndarray, printed_gap: float, sd: float) -> str:
    """How far our distance from MeZO is from the printed one, in standard deviations over seeds, ours and the paper's."""
    spread = float(np.hypot(gaps.std(ddof=1), sd))
    if not np.isfinite([spread, printed_gap]).all() or not spread:
        return ABSENT
    apart = (gaps.mean() - printed_gap) / spread
    return f"{round(apart, 1) + 0.0:+.1f}" if abs(apart) < 100 else "> 100" if apart > 0 else "< -100"


def _say(axes: Axes, at: float, place: float, text: str, **style) -> None:
    """A text beside the axes, at a share of the picture's width and in a row."""
    across = (at - LEFT) / ACROSS
    axes.text(across, place, text, fontsize=10, ha="center", va="center", transform=axes.get_yaxis_transform(), **style)
