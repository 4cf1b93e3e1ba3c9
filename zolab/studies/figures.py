"""Figures of studies: pure functions of their records, in zolab's look."""

from collections.abc import Mapping, Sequence
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zolab.plots import BLACK, COLOURS, GREY, METHOD_COLOURS, look, plain_log
from zolab.studies.compare import beside, overall
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE

MARKS = "os^Dv<>PX*"


def colour_of(name: str, place: int) -> str:
    """A method's own colour, or the next of the palette."""
    return METHOD_COLOURS.get(name, COLOURS[place % len(COLOURS)])


def loss_curves(record: Record, task: str, colours: Mapping[str, str], title: str, axes: Axes | None = None) -> Figure:
    """Dev loss against forward passes, mean and standard deviation over the seeds that did not diverge.

    The drawn range begins where the middle method is after a fifth of the run, since the fall before it would flatten the rest,
    or higher, where every method is seen at its lowest.

    Args:
        record: of a study.
        task: its name in the record.
        colours: of the methods that are drawn; those that did not run are left out.
        title: of the figure.
        axes: where to draw.
    """
    with look():
        axes = axes or plt.figure().subplots()
        means = []
        for name in [name for name in colours if record.cells(task, name)]:
            runs = record.runs(task, name)
            losses = runs.losses[np.isfinite(runs.final)]
            if len(losses):
                mean, every = losses.mean(0), (len(means), 5)  # one method's bars beside another's
                style = {"errorevery": every if len(mean) > 5 else 1, "elinewidth": 1, "capsize": 2}
                axes.errorbar(runs.forwards, mean, losses.std(0), color=colours[name], label=name, **style)
                means.append(mean)
        if means:
            floor, usual = min(mean.min() for mean in means), np.median([mean[len(mean) // 5] for mean in means])
            top = max(usual, *(mean.min() for mean in means), floor)
            axes.set_ylim(floor - 0.15 * (top - floor), top + 0.15 * (top - floor))
        axes.set(xlabel="forward passes", ylabel="dev loss (nats)", title=title)
        return cast(Figure, axes.figure)


def beside_base(record: Record, title: str, methods: Sequence[str] | None = None, base: str = BASE) -> Figure:
    """Every method beside the base method: forward passes to its mean final loss, and final loss at equal forward passes.

    A mark is a task, hollow where censored runs leave only a bound or nothing; a bar is the mean over the tasks (geometric for
    ratios), its line the 95 % interval that draws tasks and seeds anew, or of one task's seeds alone.

    Args:
        record: of a study.
        title: of the figure.
        methods: those that are shown, from top to bottom; all by default.
        base: what they stand beside.
    """
    names = [name for name in methods or record.methods() if name != base]
    tasks = record.tasks
    with look():
        figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(9.4, 0.5 * len(names) + 1.9))
        for place, name in enumerate(names):
            whole, rows = overall(record, name, base), beside(record, name, base)
            for axes, estimate in ((left, whole.forwards), (right, whole.final)):
                axes.plot(
                    [estimate.low, estimate.high], [place, place], color=GREY, linewidth=6, alpha=0.4, solid_capstyle="butt"
                )
                axes.plot(estimate.value, place, "|", color=BLACK, markersize=17, markeredgewidth=3)
            for row in rows:
                number = tasks.index(row.task)
                style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)], "markersize": 6}
                shift = place + 0.5 * (number / max(1, len(tasks) - 1) - 0.5) if len(tasks) > 1 else place
                filled = {} if not row.forwards.bound else {"markerfacecolor": "white"}
                left.plot(row.forwards.value, shift, linestyle="", **style, **filled)
                right.plot(row.final.value, shift, linestyle="", **style)
        for number, task in enumerate(tasks):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)]}
            left.plot([], [], linestyle="", label=task, **style)
        left.axvline(1, color=GREY, linewidth=1)
        right.axvline(0, color=GREY, linewidth=1)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set(xscale="log", xlabel=f"forward passes to {base}'s final loss,\ndivided by {base}'s (left is better)")
        right.set(xlabel=f"final dev loss minus {base}'s (nats)\nat equal forward passes (left is better)")
        plain_log(left.xaxis)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        if len(tasks) > 1:
            figure.legend(*left.get_legend_handles_labels(), loc="outside right center", fontsize=9)
        return figure


def searched_rates(record: Record, task: str, title: str, axes: Axes | None = None) -> Figure:
    """Final dev loss against the learning rate over the method's best one, from the search.

    Args:
        record: of a study.
        task: its name in the record.
        title: of the figure.
        axes: where to draw.
    """
    with look():
        axes = axes or plt.figure().subplots()
        for place, name in enumerate(record.methods(task)):
            found = record.search(task, name)
            losses = {float(rate): loss for rate, loss in found["rounds"][-1]["losses"].items() if loss is not None}
            rates = np.array(sorted(losses))
            style = {"color": colour_of(name, place), "marker": MARKS[place % len(MARKS)]}
            axes.semilogx(rates / found["lr"], [losses[rate] for rate in rates], label=name, **style)
        axes.set(xlabel="learning rate / the method's best", ylabel="final dev loss (nats)", title=title)
        axes.legend(ncols=2, fontsize=9)
        return cast(Figure, axes.figure)
