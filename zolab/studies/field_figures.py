"""Figures of the field of methods: the family tree, every method in a row, learning rates, and equal cost."""

from collections.abc import Mapping, Sequence
from typing import cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zolab.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, headline, legend_below, look, plain_log
from zolab.studies.family import FAMILY, Member, family, is_first_order, name_of
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE
from zolab.studies.statistics import difference, smoothed

KINDS = {
    "gradient": (BLACK, "a gradient, or an exact slope"),
    "estimate": (BLUE, "an estimate from losses"),
    "direction": (GREEN, "which directions are probed"),
    "moments": (RED, "moments of past estimates"),
    "length": (PURPLE, "how far a step goes"),
}
WIDTH, HEIGHT, COLUMN = 2.15, 0.74, 2.45  # of a box, in rows and in inches; inches from one column to the next
WIDEST = 8.6  # inches of a picture that fits a notebook's column


def colour_of(label: str) -> str:
    """Of a method by its label: that of what it changes."""
    return KINDS[FAMILY[name_of(label)].kind][0]


def _places(members: Mapping[str, Member]) -> dict[str, tuple[int, float]]:
    """Column and row of each: a leaf has a row of its own, a parent stands in the middle of its children."""
    children = {name: [other for other, member in members.items() if member.parent == name] for name in members}
    places: dict[str, tuple[int, float]] = {}
    rows = iter(range(len(members)))

    def place(name: str, column: int) -> float:
        below = [place(child, column + 1) for child in children[name]]
        row = (below[0] + below[-1]) / 2 if below else float(next(rows))
        places[name] = column, row
        return row

    for name, member in members.items():
        if not member.parent:
            place(name, 0)
    return places


def family_tree(title: str) -> Figure:
    """Who descends from whom: a box for each method, coloured by what it changes of the one to its left.

    Args:
        title: of the figure.
    """
    members = family()
    places = _places(members)
    columns, rows = (1 + max(int(place[k]) for place in places.values()) for k in (0, 1))
    with look():
        figure, axes = plt.subplots(figsize=(COLUMN * columns, 0.46 * rows + 1.1))
        for name, member in members.items():
            column, row = places[name]
            colour, left = KINDS[member.kind][0], column * COLUMN
            box = plt.Rectangle((left, row - HEIGHT / 2), WIDTH, HEIGHT, facecolor="white", edgecolor=colour, linewidth=1.8)
            axes.add_patch(box)
            axes.add_patch(plt.Rectangle((left, row - HEIGHT / 2), 0.09, HEIGHT, facecolor=colour, edgecolor=colour))
            axes.text(left + 0.16, row - 0.14, member.label, weight="bold", va="center", fontsize=9.5)
            axes.text(left + 0.16, row + 0.18, member.idea, va="center", fontsize=8)
            if member.parent:
                (before, above), bend = places[member.parent], left - (COLUMN - WIDTH) / 2
                axes.plot(
                    [before * COLUMN + WIDTH, bend, bend, left], [above, above, row, row], color=GREY, linewidth=1.1, zorder=0
                )
        for colour, label in KINDS.values():
            axes.plot([], [], "s", color=colour, label=label)
        axes.set(xlim=(-0.05, COLUMN * columns - (COLUMN - WIDTH) + 0.05), ylim=(rows - 0.5, -0.55))
        axes.axis("off")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1), title="changes", title_fontsize=9, alignment="left", fontsize=9)
        axes.set_title(title)
        return figure


def standings(record: Record, task: str, order: Sequence[str], title: str, axes: Axes) -> Figure:
    """Final dev loss of every method: a dot for each seed, and their mean with its 95 % interval.

    The range holds every interval, and ends a little above the loss before training, which a grey line marks; a mean beyond
    that is written.

    Args:
        record: of a study, or of runs at given rates.
        task: its name in the record.
        order: the methods, from top to bottom; the place of one without runs stays empty, and one that diverged is written.
        title: of the panel.
        axes: where to draw.
    """
    starts, lowest, highest = [], np.inf, -np.inf
    for place, name in enumerate(order):
        if not record.cells(task, name):
            continue
        runs = record.runs(task, name)
        final = runs.final[np.isfinite(runs.final)]
        starts += list(runs.losses[np.isfinite(runs.final), 0])
        if len(final) < len(runs.final):
            message = f"{len(runs.final) - len(final)} diverged"
            axes.text(0.99, place, message, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=8)
        if not len(final):
            continue
        colour, mean = colour_of(name), difference(final, np.zeros(len(final)))
        several = len(final) > 1
        lowest = min(lowest, final.min(), *([mean.low] if several else []))
        if mean.value > np.mean(starts):
            beyond = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 8}
            axes.text(0.99, place, f"{mean.value:.2f} →", **beyond)
        else:
            highest = max(highest, final.max(), *([mean.high] if several else []))
        if several:
            axes.plot([mean.low, mean.high], [place, place], color=colour, linewidth=7, alpha=0.3, solid_capstyle="butt")
            axes.plot(mean.value, place, "|", color=colour, markersize=13, markeredgewidth=2.5)
        axes.plot(final, [place] * len(final), "o", color=colour, markersize=3 if several else 6)
        if name == BASE:
            axes.axvline(mean.value, color=BLUE, linewidth=1, linestyle=":")
    before = float(np.mean(starts))
    axes.axvline(before, color=GREY, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(order)), order)
    fall = before - lowest
    right = min(max(before + 0.15 * fall, highest + 0.05 * fall), before + 0.6 * fall)
    axes.set(xlim=(lowest - 0.05 * fall, right), ylim=(len(order) - 0.5, -0.5))
    axes.set(xlabel="final dev loss (nats)")
    axes.set_title(title, fontsize=10)
    axes.locator_params(axis="x", nbins=4)
    return cast(Figure, axes.figure)


def every_method(panels: Mapping[str, tuple[Record, str]], title: str) -> Figure:
    """`standings` side by side, the lowest mean of the first one at the top.

    Args:
        panels: by the panel's title a record and the task in it.
        title: of the figure.
    """
    (first, task), *_ = panels.values()
    means = {name: first.runs(task, name).final.mean() for name in first.methods(task)}
    order = sorted(means, key=means.__getitem__)
    order += [name for record, other in panels.values() for name in record.methods(other) if name not in order]
    order = list(dict.fromkeys(order))
    with look():
        figure, both = plt.subplots(
            1, len(panels), sharey=True, figsize=(min(4.6 * len(panels), WIDEST), 0.29 * len(order) + 2.3)
        )
        for axes, (panel_title, (record, name)) in zip(np.atleast_1d(both), panels.items(), strict=True):
            standings(record, name, order, panel_title, axes)
        for colour, label in KINDS.values():
            np.atleast_1d(both)[0].plot([], [], "s", color=colour, label=label)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, title="changes", title_fontsize=8.5)
        headline(figure, title)
        return figure


def rate_table(record: Record, task: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """What the searches say about learning rates.

    Args:
        record: of a study.
        task: its name in the record.

    Returns:
        The methods whose rate was searched; the places of rates, in steps of the grid from the best one; and the losses above
        the best one's, shape (methods, places), infinite for a rate that diverged, NaN for one that was not tried.
    """
    searches = {name: record.search(task, name) for name in record.methods(task)}
    names = [name for name, search in searches.items() if search["rounds"][-1]["losses"]]
    tried, factor = {}, record.plan["search"]["factor"]
    for name in names:
        search = searches[name]
        losses = {float(rate): np.inf if loss is None else loss for rate, loss in search["rounds"][-1]["losses"].items()}
        place = {rate: round(np.log(rate / search["lr"]) / np.log(factor)) for rate in losses}
        tried[name] = {place[rate]: loss - losses[search["lr"]] for rate, loss in losses.items()}
    places = np.arange(min(map(min, tried.values())), max(map(max, tried.values())) + 1)
    return names, places, np.array([[tried[name].get(int(k), np.nan) for k in places] for name in names])


def _excess(loss: float) -> str:
    """What stands in a tile; beyond ten nats it does not matter how many."""
    return "best" if not loss else f"+{loss:.3f}" if loss < 10 else "> +10"


def rate_sensitivity(record: Record, task: str, title: str) -> Figure:
    """`rate_table` as tiles: how much a learning rate that is a factor off costs each method.

    Args:
        record: of a study.
        task: its name in the record.
        title: of the figure.
    """
    names, places, losses = rate_table(record, task)
    order = np.argsort([-_tolerance(row, places) for row in losses], kind="stable")
    with look():
        figure, axes = plt.subplots(figsize=(1.2 + 0.72 * len(places) + 1.6, 0.29 * len(names) + 1.7))
        tiles = np.ma.masked_invalid(losses[order])
        axes.imshow(tiles, cmap="cividis_r", vmin=0, vmax=0.1, aspect="auto")
        for (row, column), loss in np.ndenumerate(losses[order]):
            if not np.isnan(loss):
                text, dark = ("diverged", False) if np.isinf(loss) else (_excess(loss), loss > 0.05)
                axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else BLACK)
        axes.set_yticks(range(len(names)), [names[k] for k in order])
        factor = record.plan["search"]["factor"]
        axes.set_xticks(range(len(places)), [f"{factor**k:.2g}" for k in places.astype(float)])
        axes.grid(visible=False)
        axes.set(xlabel="learning rate, divided by the method's best")
        headline(figure, title)
        return figure


def _tolerance(row: np.ndarray, places: np.ndarray) -> float:
    """Mean loss of the two neighbours of the best rate, with its sign turned: what comes first is most tolerant."""
    near = row[np.isin(places, (-1, 1))]
    near = near[~np.isnan(near)]
    return -float(np.minimum(near, 1).mean()) if len(near) else -np.inf


def at_equal_cost(
    record: Record, task: str, names: Sequence[str], costs: Mapping[str, Mapping[str, float]], title: str
) -> Figure:
    """Dev loss of a few methods against several costs, side by side: mean over the seeds, smoothed as comparisons are.

    The range ends at the loss before training: what is above has learned nothing yet.

    Args:
        record: of a study.
        task: its name in the record.
        names: methods that are drawn.
        costs: by the axis' label what a forward pass of each method costs.
        title: of the figure.
    """
    styles = ("-", "--", "-.", ":")
    with look():
        figure, panels = plt.subplots(1, len(costs), sharey=True, figsize=(4.3 * len(costs), 4.1))
        for axes, (axis_label, each) in zip(np.atleast_1d(panels), costs.items(), strict=True):
            for place, name in enumerate(names):
                runs = record.runs(task, name)
                kept, x = runs.losses[np.isfinite(runs.final)], runs.forwards * each[name]
                if len(kept):
                    colour = BLACK if is_first_order(name) else (BLUE, ORANGE, GREEN, PURPLE, RED)[place % 5]
                    axes.plot(x[1:], smoothed(kept).mean(0)[1:], styles[place % 4], color=colour, label=name)
            axes.set(xscale="log", xlabel=axis_label)
            plain_log(axes.xaxis)
        first = np.atleast_1d(panels)[0]
        before = np.mean([record.runs(task, name).losses[:, 0].mean() for name in names])
        first.set(ylabel="dev loss (nats)", ylim=(None, before))
        legend_below(first, ncols=3)
        headline(figure, title)
        return figure


def memory_frontier(losses: Mapping[str, float], memory: Mapping[str, float], title: str, settings: Sequence[str]) -> Figure:
    """What each amount of memory buys: the methods from the least memory to the most, and the lowest loss down to each row.

    Args:
        losses: final dev loss of each method (nats).
        memory: beyond that of forward passes, as a multiple of the weights; methods without it are left out.
        title: of the figure.
        settings: of what memory and losses are, for the two axes.
    """
    names = sorted((name for name in losses if name in memory and np.isfinite(losses[name])), key=memory.__getitem__)
    x, y = np.array([memory[name] for name in names]), np.array([losses[name] for name in names])
    rows = np.arange(len(names))
    with look():
        figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(8.6, 0.28 * len(names) + 1.5))
        left.barh(rows, x, color=[colour_of(name) for name in names], height=0.6)
        for row, value in enumerate(x):
            left.text(value, row, f" {value:.2f}", va="center", fontsize=8)
        for row, (name, loss) in enumerate(zip(names, y, strict=True)):
            right.plot(loss, row, "s" if is_first_order(name) else "o", color=colour_of(name), markersize=6)
        right.plot(np.minimum.accumulate(y), rows, color=GREY, linewidth=1.2, drawstyle="steps-pre", label="lowest so far")
        left.set_yticks(rows, names)
        left.set(
            ylim=(len(names) - 0.5, -0.5),
            xlim=(0, 1.15 * x.max()),
            xlabel=f"peak memory beyond forward passes\n(× the weights), {settings[0]}",
        )
        right.set(xlabel=f"final dev loss (nats), {settings[1]}")
        right.legend(fontsize=8.5)
        headline(figure, title)
        return figure
