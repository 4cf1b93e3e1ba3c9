"""A study read at any budget of forward passes: who is ahead of MeZO there, and who still is at the end."""

import os
from collections.abc import Sequence
from functools import cache, partial

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY
from zolab.studies.family import is_first_order
from zolab.studies.field import beside_at, losses_at
from zolab.studies.field_figures import rate_table
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE
from zolab.studies.statistics import Estimate, Runs, difference
from zolab.widgets.controls import several, whole
from zolab.widgets.drawing import canvas, drawing, frame
from zolab.widgets.panel import Level, Panel, View, check_ranges, explore

RECORD, TASK = "figures/records/04_field.json", "writer"
START = ("HELENE", "MEAZO", "SGD")
MOST_METHODS, COLOURS, MARKS = 4, (BLUE, ORANGE, PURPLE, SKY), "os^D"
LATE = 300  # forward passes
WIDEST = 0.2  # nats: a difference beyond is marked at the edge
EXCESS = 0.1  # nats above the best rate's loss, the most that is shown
Standings = dict[str, tuple[Estimate, str]]
HINTS = (
    "Steps at a high rate pay at once: look at a budget of 100. Each ticked method is one comparison more.",
    "Hollow marks are the end. Many methods that are ahead at 100 passes are level with MeZO there.",
    "Few leads are decided between 300 passes and the end, and only without further comparisons: tick DiZO alone.",
)


def budget_view(
    methods: Sequence[str] = START, passes: int = 1000, record: str | os.PathLike = RECORD, task: str = TASK
) -> View:
    """Mean dev loss up to a budget, the difference from MeZO's there and at the end, and what another rate would have given.

    The goals: a method that is decidedly below MeZO at the budget, then one whose lead is gone at the end, then a
    zeroth-order one that still has it at 300 passes.

    Args:
        methods: one to four methods of the record, other than MeZO, which is always there.
        passes: forward passes that every run may take, 50 to those of the record.
        record: file of a study.
        task: its name there.

    Raises:
        OSError: there is no such file.
        ValueError: an argument is out of range, or the record lacks a method or the task.
    """
    if not 1 <= len(methods) <= MOST_METHODS:
        raise ValueError(f"{len(methods)} methods are chosen; choose 1 to {MOST_METHODS}, as many as colours can tell apart.")
    pairs = {name: _pair(os.fspath(record), task, name) for name in methods}
    runs = {BASE: _read(os.fspath(record)).runs(task, BASE), **{name: ours for name, (ours, _) in pairs.items()}}
    whole_run = runs[BASE].forwards[-1]
    check_ranges(passes=(passes, 50, whole_run))
    at_budget, at_end = (beside_at(pairs, spent) for spent in (passes, whole_run))
    with drawing():
        figure = canvas(4.0)
        _draw_curves(figure.add_axes((0.075, 0.13, 0.34, 0.76)), runs, passes)
        _draw_gaps(figure.add_axes((0.57, 0.13, 0.19, 0.76)), at_budget, at_end)
        _draw_rates(figure.add_axes((0.845, 0.13, 0.14, 0.76)), os.fspath(record), task, methods)
    ahead = [name for name, (_, word) in at_budget.items() if word == "lower"]
    lost = [name for name in ahead if at_end[name][1] != "lower"]
    late = [name for name in lost if not is_first_order(name) and passes >= LATE]
    levels = (
        Level(f"a method decidedly below {BASE} at your budget", bool(ahead), HINTS[0]),
        Level(f"one that is so no longer at {whole_run:,.0f} passes", bool(lost), HINTS[1]),
        Level(f"one without backpropagation, at {LATE} passes or later", bool(late), HINTS[2]),
    )
    summary = ", ".join(f"{name} {gap.value:+.3f} ({word})" for name, (gap, word) in at_budget.items())
    return View(figure, levels, f"at {passes:,} passes, beside {BASE}: {summary}")


def budget_panel(
    record: str | os.PathLike = RECORD, task: str = TASK, methods: Sequence[str] = START, passes: int = 1000
) -> Panel:
    """A panel over `budget_view`; its arguments, given here, are where the controls begin. Record and task have none."""
    names = [name for name in _read(os.fspath(record)).methods(task) if name != BASE]
    longest = int(_read(os.fspath(record)).runs(task, BASE).forwards[-1])
    return explore(
        partial(budget_view, record=record, task=task),
        passes=whole("passes", passes, 50, longest, 50),
        methods=several("methods", methods, names, MOST_METHODS),
    )


@cache
def _read(record: str) -> Record:
    return Record.load(record)


@cache
def _pair(record: str, task: str, method: str) -> tuple[Runs, Runs]:
    pairs = _read(record).pairs(method, BASE, [task])
    if not pairs:
        raise ValueError(f"{record} has no runs of {method} beside {BASE} on {task}.")
    return pairs[task]


def _draw_curves(axes: Axes, runs: dict[str, Runs], passes: float) -> None:
    top, low = 0.0, np.inf
    for (name, own), colour, mark in zip(runs.items(), (BLACK, *COLOURS), ("s", *MARKS), strict=False):
        mean = own.losses[np.isfinite(own.losses).all(1)].mean(0)  # a run that diverged has no curve
        spent = own.forwards <= passes
        estimate = difference(losses_at(own, passes), np.zeros(len(own.losses)))
        axes.plot(own.forwards, mean, color=colour, linewidth=1, alpha=0.25)
        axes.plot([*own.forwards[spent], passes], [*mean[spent], estimate.value], color=colour, linewidth=1.8)
        axes.plot([passes, passes], [estimate.low, estimate.high], color=colour, linewidth=1.2)
        axes.plot(passes, estimate.value, mark, color=colour, markersize=7, label=name)
        top, low = max(top, float(mean[0])), min(low, float(mean.min()), estimate.low)
    axes.set(xlim=(-20, 1.02 * runs[BASE].forwards[-1]), ylim=(low - 0.02, top + 0.2 * (top - low)))
    axes.legend(fontsize=9.5, frameon=True, loc="upper right")
    frame(axes, f"mean dev loss to {passes:,} passes", "forward passes (a backward pass is two)", "nats")


def _draw_gaps(axes: Axes, at_budget: Standings, at_end: Standings) -> None:
    gaps = [gap for sides in (at_budget, at_end) for gap, _ in sides.values()]
    left, right = max(min(gap.low for gap in gaps), -WIDEST), min(max(gap.high for gap in gaps), WIDEST)
    for place, (name, mark) in enumerate(zip(at_budget, MARKS, strict=False)):
        for shift, (gap, word), filled in ((-0.14, at_budget[name], True), (0.14, at_end[name], False)):
            colour = {"lower": GREEN, "higher": RED}.get(word, GREY)
            axes.plot([gap.low, gap.high], [place + shift] * 2, color=colour, linewidth=3 if filled else 1.5)
            face = colour if filled else "white"
            centre = np.clip(gap.value, left, right)
            axes.plot(centre, place + shift, mark, color=colour, markerfacecolor=face, markersize=8, clip_on=False)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    frame(axes, f"loss minus {BASE}'s", "nats (hollow: at the end)")
    axes.set_yticks(range(len(at_budget)), list(at_budget), fontsize=9.5)
    room = 0.05 * (right - left)
    axes.set(xlim=(min(left, 0) - room, max(right, 0) + room), ylim=(len(at_budget) - 0.5, -0.5))
    axes.locator_params(axis="x", nbins=3)


def _draw_rates(axes: Axes, record: str, task: str, methods: Sequence[str]) -> None:
    names, places, losses = _table(record, task)
    for name, colour, mark in zip((BASE, *methods), (BLACK, *COLOURS), ("s", *MARKS), strict=False):
        if name in names:
            row = np.minimum(losses[names.index(name)], EXCESS)
            tried = np.isfinite(row)
            axes.plot(places[tried], row[tried], marker=mark, color=colour, markersize=4, linewidth=1)
    axes.set(xlim=(-2.3, 2.3), ylim=(-0.004, EXCESS * 1.03))
    frame(axes, "other rates", "rate / best")
    factor = _read(record).plan["search"]["factor"]
    axes.set_xticks([-2, 0, 2], [f"{factor**k:.2g}" for k in (-2, 0, 2)])
    axes.set_yticks([0, EXCESS / 2, EXCESS], ["best", f"+{EXCESS / 2:g}", f"≥ +{EXCESS:g}"])


@cache
def _table(record: str, task: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    return rate_table(_read(record), task)
