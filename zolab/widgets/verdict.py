"""A verdict over tasks: which control a fine-tuner is compared with, which tasks count, and what that does to the mean."""

import os
from functools import cache, partial

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, GREEN, GREY, RED
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE
from zolab.studies.statistics import FEWEST_TASKS, Estimate, difference, mean_difference
from zolab.widgets.controls import choice, several
from zolab.widgets.drawing import canvas, drawing, frame
from zolab.widgets.panel import Level, Panel, View, explore

RECORD = "figures/records/09_tiny.json"
HINTS = (
    "Some controls are worse than MeZO itself. The grey interval of the mean has to leave out 0.",
    "The right picture shows the mean without each task: where does the interval reach over 0?",
)


def verdict_view(
    other: str = BASE, left_out: tuple[str, ...] = (), method: str = "trained", record: str | os.PathLike = RECORD
) -> View:
    """Final loss of a method minus another's, task by task and in the mean, with 95 % intervals.

    The goals: a comparison whose mean over all tasks is decided; then the one task without which it is undecided.

    Args:
        other: what the method is compared with, a method of the record.
        left_out: tasks that do not count.
        method: of the record.
        record: file of a study.

    Raises:
        OSError: there is no such file.
        ValueError: the record lacks the method, or fewer than three tasks are left.
    """
    pairs = _pairs(os.fspath(record), method, other)
    included = {task: pair for task, pair in pairs.items() if task not in left_out}
    if len(included) < FEWEST_TASKS:
        raise ValueError(
            f"{len(included)} of {len(pairs)} tasks are left; keep {FEWEST_TASKS} at least, since the interval is over tasks."
        )
    over_all, mean = _mean(tuple(pairs.items())), _mean(tuple(included.items()))
    with drawing():
        figure = canvas(4.0)
        _draw(figure.add_axes((0.13, 0.13, 0.4, 0.76)), pairs, included, mean, f"{method} minus {other}")
        _draw_without(figure.add_axes((0.68, 0.13, 0.3, 0.76)), included, mean)
    undone = over_all.word != "undecided" and mean.word == "undecided" and len(pairs) - len(included) == 1
    levels = (
        Level(
            f"a control beside which the mean over all {len(pairs)} tasks is decided", over_all.word != "undecided", HINTS[0]
        ),
        Level("one task without which that is undecided", undone, HINTS[1]),
    )
    now = f"{method} minus {other}: {mean.text(3, sign=True)} nats over {len(included)} tasks, {mean.word}"
    return View(figure, levels, now)


def verdict_panel(record: str | os.PathLike = RECORD, method: str = "trained", other: str = BASE) -> Panel:
    """A panel over `verdict_view`; arguments as there."""
    read = Record.load(record)
    return explore(
        partial(verdict_view, method=method, record=record),
        other=choice("beside", other, [name for name in read.methods() if name != method]),
        left_out=several("leave out", (), read.tasks, len(read.tasks) - FEWEST_TASKS),
    )


@cache
def _pairs(record: str, method: str, other: str) -> dict[str, tuple]:
    pairs = Record.load(record).pairs(method, other)
    if not pairs:
        raise ValueError(f"{record} has no task on which both {method} and {other} ran.")
    return {task: (tuple(ours.final), tuple(theirs.final)) for task, (ours, theirs) in pairs.items()}


@cache
def _mean(items: tuple) -> Estimate:
    return mean_difference([(np.array(ours), np.array(theirs)) for _, (ours, theirs) in items])


def _draw(axes: Axes, pairs: dict, included: dict, mean: Estimate, title: str) -> None:
    for place, (task, (ours, theirs)) in enumerate(pairs.items()):
        gap, counts = difference(np.array(ours), np.array(theirs)), task in included
        axes.plot([gap.low, gap.high], [place, place], color=BLUE if counts else GREY, linewidth=1.5)
        axes.plot(gap.value, place, "o", color=BLUE, markerfacecolor=BLUE if counts else "white", markersize=7)
    colour = {"lower": GREEN, "higher": RED}.get(mean.word, GREY)
    axes.plot([mean.low, mean.high], [len(pairs)] * 2, color=colour, linewidth=5)
    axes.plot(mean.value, len(pairs), "D", color=BLACK, markersize=7)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    frame(axes, title, "final loss, difference (nats)")
    axes.set_yticks(range(len(pairs) + 1), [*pairs, "mean"])
    axes.set_ylim(len(pairs) + 0.6, -0.6)


def _draw_without(axes: Axes, included: dict, mean: Estimate) -> None:
    for place, task in enumerate(included):
        rest = tuple(item for item in included.items() if item[0] != task)
        without = _mean(rest)
        colour = {"lower": GREEN, "higher": RED}.get(without.word, GREY)
        axes.plot([without.low, without.high], [place, place], color=colour, linewidth=3)
        axes.plot(without.value, place, "D", color=BLACK, markersize=5)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.axvline(mean.value, color=BLACK, linewidth=0.8, linestyle=":")
    frame(axes, "the mean without one more", "final loss, difference (nats)")
    axes.set_yticks(range(len(included)), [f"no {task}" for task in included])
    axes.set_ylim(len(included) - 0.4, -0.6)
