"""Figures of studies: pure functions of their records, in zolab's look, with titles that say what is drawn."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from zolab.plots import BLACK, GREY, MARK_COLOURS, METHOD_COLOURS, headline, legend_below, look, plain_log
from zolab.studies.compare import beside, overall
from zolab.studies.outcomes import Record
from zolab.studies.plan import BASE
from zolab.studies.predicted import Outcome, concordances, outcomes
from zolab.studies.statistics import Estimate

MARKS = "os^Dv<>PX*"
SPELLED = {"MeZOAdam": "MeZO-Adam", "MeZOMomentum": "MeZO-momentum", "ZOAdaMU": "ZO-AdaMU"}


def spelled(name: str) -> str:
    """A method of a record as text has it: its paper's spelling, no underscores."""
    return SPELLED.get(name, name.replace("_", " "))


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A method's own colour, or the next of the palette that none of them has."""
    own = [METHOD_COLOURS.get(spelled(name)) for name in names]
    free = cycle([colour for colour in MARK_COLOURS if colour not in own] or MARK_COLOURS)
    return {name: colour or next(free) for name, colour in zip(names, own, strict=True)}


def loss_curves(record: Record, task: str, colours: Mapping[str, str], title: str, axes: Axes | None = None) -> Figure:
    """Dev loss against forward passes: means over the seeds that did not diverge; beside their ends one standard deviation.

    The drawn range begins where the middle method is after a fifth of the run, since the fall before it would flatten the rest,
    or higher, where every method's end is seen whole; the loss before training is then written.

    Args:
        record: of a study.
        task: its name in the record.
        colours: of the methods that are drawn; those that did not run are left out.
        title: what stands before the name of the method that ends lowest, or, where the means lie within a tenth of every
            method's standard deviation, before how far apart they are.
        axes: where to draw.
    """
    with look():
        axes = axes or plt.figure().subplots()
        ends: dict[str, np.ndarray] = {}
        means = []
        for name in [name for name in colours if record.cells(task, name)]:
            runs = record.runs(task, name)
            losses = runs.losses[np.isfinite(runs.final)]
            if len(losses):
                axes.plot(runs.forwards, losses.mean(0), color=colours[name], label=spelled(name))
                apart = 1.03 + 0.035 * len(ends)  # one method's end beside another's
                style = {"color": colours[name], "markersize": 4, "elinewidth": 1.3}
                axes.errorbar(apart * runs.forwards[-1], losses[:, -1].mean(), losses[:, -1].std(), fmt="o", **style)
                ends[name], means = losses[:, -1], [*means, losses.mean(0)]
        if ends:
            low, high = (
                choose(end.mean() + side * end.std() for end in ends.values()) for choose, side in ((min, -1), (max, 1))
            )
            top = max(float(np.median([mean[len(mean) // 5] for mean in means])), high)
            axes.set_ylim(low - 0.08 * (top - low), top + 0.15 * (top - low))
            before = float(np.mean([mean[0] for mean in means]))
            if before > axes.get_ylim()[1]:
                axes.text(0.98, 0.96, f"before: {before:.2f} nats", transform=axes.transAxes, ha="right", va="top", fontsize=9)
            span, spread = np.ptp([end.mean() for end in ends.values()]), min(end.std() for end in ends.values())
            least = spelled(min(ends, key=lambda name: ends[name].mean()))
            level = f"all end within {np.ceil(1000 * span) / 1000:.3f} nats"
            title += "\n" + (level if 0 < 10 * span < spread else f"{least} ends lowest")
        axes.set(xlabel="forward passes", ylabel="dev loss (nats)")
        axes.set_title(title, fontsize=11)
        return cast(Figure, axes.figure)


def aside(estimates: Mapping[str, Estimate], base: str) -> str:
    """Which methods' intervals of the final loss leave out zero, each judged alone, in a sentence."""
    methods = []
    for word in ("lower", "higher"):
        names = [spelled(name) for name, estimate in estimates.items() if estimate.word == word]
        methods.append((", ".join(names) if len(names) < 4 else f"{len(names)} of {len(estimates)}") or "none")
    return f"final loss below {base}'s by its own interval: {methods[0]}; above: {methods[1]}"


def beside_base(record: Record, title: str, methods: Sequence[str] | None = None, base: str = BASE) -> Figure:
    """Every method beside the base method: forward passes to its mean final loss, and final loss at equal forward passes.

    A mark is a task, hollow where censored runs leave only a bound, or nothing, and then at 1; a bar is the mean over the tasks
    (geometric for ratios), its line the 95 % interval over tasks. With one task, marks on the right are its seeds.

    Args:
        record: of a study.
        title: what stands before the methods whose interval of the final loss leaves out zero.
        methods: those that are shown, from top to bottom; all by default.
        base: what they stand beside.
    """
    names = [name for name in methods or record.methods() if name != base]
    tasks, comparisons = record.tasks, {name: overall(record, name, base) for name in names}
    with look():
        width = 9.4 + 0.09 * max(0, max(map(len, names)) - 14)  # room for long names
        figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(width, 0.5 * len(names) + 2.4))
        for place, name in enumerate(names):
            for axes, estimate in ((left, comparisons[name].forwards), (right, comparisons[name].final)):
                _interval(axes, estimate, place)
            beyond = {"transform": right.get_yaxis_transform(), "va": "center", "fontsize": 9}
            right.text(1.02, place, comparisons[name].final.text(3, sign=True), **beyond)
            for row in beside(record, name, base):
                number = tasks.index(row.task)
                shift = place + (0.5 * (number / (len(tasks) - 1) - 0.5) if len(tasks) > 1 else 0)
                ratio = 1.0 if row.forwards.bound == "–" else row.forwards.value
                left.plot(ratio, shift, linestyle="", **_mark(number, hollow=bool(row.forwards.bound)))
                seeds = np.subtract(*(runs.final for runs in record.pairs(name, base)[row.task]))
                values = seeds if len(tasks) == 1 else [row.final.value]
                right.plot(values, [shift] * len(values), linestyle="", **_mark(number))
        for number, task in enumerate(tasks):
            left.plot([], [], linestyle="", label=task if len(tasks) > 1 else f"{task}; right: a seed", **_mark(number))
        left.plot([], [], "|", color=BLACK, markersize=12, markeredgewidth=3, label="mean, 95 % interval")
        left.plot([], [], linestyle="", label="a bound; at 1 none", **_mark(-1, hollow=True))
        left.axvline(1, color=GREY, linewidth=1)
        right.axvline(0, color=GREY, linewidth=1)
        left.set_yticks(range(len(names)), [spelled(name) for name in names])
        left.invert_yaxis()
        left.set(xscale="log", xlabel=f"forward passes to {base}'s final loss,\ndivided by {base}'s (left is better)")
        right.set(xlabel=f"final dev loss minus {base}'s (nats)\nat equal forward passes (left is better)")
        low, high = min(left.get_xlim()[0], 0.88), max(left.get_xlim()[1], 1.14)
        left.set_xlim(low, high)
        plain_log(left.xaxis, (1, 2, 5) if high > 2 * low else (1, 1.1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8, 9))
        headline(figure, f"{title}: {aside({name: each.final for name, each in comparisons.items()}, base)}")
        legend_below(left, ncols=5)
        return figure


def _interval(axes: Axes, estimate: Estimate, place: int) -> None:
    axes.plot([estimate.low, estimate.high], [place, place], color=GREY, linewidth=6, alpha=0.4, solid_capstyle="butt")
    axes.plot(estimate.value, place, "|", color=BLACK, markersize=17, markeredgewidth=3)


def _mark(number: int, hollow: bool = False) -> dict:
    """The look of a task's mark; of none, -1."""
    colour = GREY if number < 0 else MARK_COLOURS[number % len(MARK_COLOURS)]
    fill = {"markerfacecolor": "white"} if hollow else {}
    return {"color": colour, "marker": MARKS[max(number, 0) % len(MARKS)], "markersize": 6, **fill}


def searched_rates(
    record: Record, task: str, title: str, before: float | None = None, methods: Sequence[str] | None = None
) -> Figure:
    """Final dev loss against the learning rate over the method's best one, from the search.

    Args:
        record: of a study.
        task: its name in the record.
        title: what stands before the lowest and the highest loss at the highest rate of a search.
        before: loss before training (nats), a dotted line.
        methods: those that are drawn; all by default.
    """
    with look():
        figure, axes = plt.subplots(figsize=(7.0, 4.4))
        above, names = {}, methods or record.methods(task)
        colours = colours_of(names)
        for place, name in enumerate(names):
            search = record.search(task, name)
            losses = {float(rate): loss for rate, loss in search["rounds"][-1]["losses"].items() if loss is not None}
            rates = np.array(sorted(losses))
            style = {"color": colours[name], "marker": MARKS[place % len(MARKS)]}
            beside_others = 1.03 ** (place - (len(names) - 1) / 2)  # marks that would hide each other
            axes.plot(rates / search["lr"] * beside_others, [losses[rate] for rate in rates], label=spelled(name), **style)
            if len(rates) and rates[-1] > search["lr"]:
                above[name] = losses[rates[-1]]
        axes.set(xscale="log", yscale="log", xlabel="learning rate / the method's best", ylabel="final dev loss (nats)")
        plain_log(axes.xaxis)
        plain_log(axes.yaxis, (1, 1.5, 2, 3, 5, 7))
        if before is not None:
            axes.axhline(before, color=GREY, linestyle=":", label="before training")
        if above:
            least, most = (choose(above, key=above.__getitem__) for choose in (min, max))
            title += (
                f": at the highest rate {spelled(least)} ends at {above[least]:.2f} nats, {spelled(most)} at {above[most]:.2f}"
            )
        headline(figure, title)
        legend_below(axes)
        return figure


def scales_figure(sigma: Mapping[str, Sequence[float]], tensors: Sequence[str]) -> Figure:
    """Sigma of every tensor, a row for each way to choose it; the title says which tensor has the largest one most often.

    Args:
        sigma: of the tensors, by way.
        tensors: short names.
    """
    rows = np.array(list(sigma.values()))
    with look():
        figure, axes = plt.subplots(figsize=(8.4, 1.4 + 0.27 * len(rows)))
        shade = axes.imshow(np.log2(np.maximum(rows, 1e-3)), cmap="PuOr", vmin=-2, vmax=2, aspect="auto")
        axes.set_yticks(range(len(rows)), map(spelled, sigma))
        axes.set_xticks(range(len(tensors)), tensors, rotation=90, fontsize=8)
        axes.grid(visible=False)
        bar = figure.colorbar(shade, ticks=[-2, -1, 0, 1, 2], label="σ")
        bar.ax.set_yticklabels(["1/4 or less", "1/2", "1", "2", "4 or more"])
        most, count = Counter(tensors[place] for place in rows.argmax(1)).most_common(1)[0]
        headline(figure, f"{most} has the largest σ in {count} of {len(rows)} cases")
        return figure


def _cut(axes: Axes, rows: Sequence[Outcome], beyond: float = 3.0) -> None:
    """Limit an axis of final losses to what nine in ten differences stay below, times `beyond`; write what lies outside."""
    ends = [(row.gain, float(row.final.value)) for row in rows if np.isfinite(row.final.value)]
    limit = beyond * np.quantile([abs(end) for _, end in ends] or [0.0], 0.9)
    if limit > 0:
        axes.set(ylim=(-limit, limit))
    for gain, end in ends:
        if abs(end) > limit > 0:
            axes.annotate(
                f"{end:+.3g}", (gain, np.sign(end) * limit), xytext=(5, -10 * np.sign(end)), textcoords="offset points"
            )


def prediction_figure(record: Record) -> Figure:
    """What the gain map predicts of each way's scales on each task, and what runs saved and ended at; the title says how alike.

    A mark is hollow where runs that did not arrive, or diverged, leave only a bound; where they leave nothing there is none. A
    difference of final losses far beyond the others is written at the edge.

    Args:
        record: of a study `predicted`.
    """
    rows = [row for row in outcomes(record) if np.isfinite(row.gain)]
    colours = colours_of(list(dict.fromkeys(row.way for row in rows)))
    with look():
        figure, panels = plt.subplots(1, 2, sharex=True, figsize=(9.6, 4.4), layout="constrained")
        for number, (way, colour) in enumerate(colours.items()):
            mine = [row for row in rows if row.way == way]
            style: dict[str, Any] = {"color": colour, "fmt": MARKS[number % len(MARKS)], "markersize": 5}
            style |= {"elinewidth": 0.8, "linestyle": "none"}
            for axes, ends in zip(panels, ([row.saving for row in mine], [row.final for row in mine]), strict=True):
                axes.errorbar([], [], label=way, **style)
                for row, end in zip(mine, ends, strict=True):
                    if end.bound != "–" and np.isfinite(end.value):
                        spread = np.nan_to_num([[end.value - end.low], [end.high - end.value]], posinf=0.0)
                        fill = {"markerfacecolor": "white"} if end.bound else {}
                        axes.errorbar([row.gain], [end.value], yerr=np.maximum(spread, 0), **style, **fill)
        for axes, level in zip(panels, (1, 0), strict=True):
            axes.axhline(level, color=BLACK, linewidth=1)
            axes.axvline(1, color=BLACK, linewidth=1)
            axes.set(xlabel="predicted descent of a step over MeZO's")
            if all(row.gain > 0 for row in rows):
                axes.set_xscale("log")
                plain_log(axes.xaxis)
            else:
                axes.set_xscale("symlog", linthresh=1)
        _cut(panels[1], rows)
        panels[0].set_yscale("log")
        plain_log(panels[0].yaxis)
        panels[0].set(ylabel="MeZO's forward passes over theirs", title="saving, above 1 fewer passes")
        panels[1].set(ylabel="final dev loss minus MeZO's (nats)", title="final loss, below 0 lower")
        handles, labels = panels[1].get_legend_handles_labels()
        handles += panels[0].plot([], [], linestyle="", **_mark(-1, hollow=True))
        figure.legend(handles, [*labels, "only a bound"], loc="outside lower center", ncols=4, fontsize=9)
        alike = concordances(rows)
        headline(
            figure, f"Rank correlation of predicted gains with savings {alike['saving']}, with lower losses {alike['final']}"
        )
    return figure
