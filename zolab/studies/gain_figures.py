"""The gain map as a table and two figures: functions of the record that `zolab map` writes."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from zolab.plots import BLACK, BLUE, COLOURS, GREEN, GREY, ORANGE, PURPLE, RED, look
from zolab.studies.gain_transfer import Points, along_rows, gain_at, gain_text, has_signal, transfer

WAYS = {
    "signal to noise by kind": (BLUE, "o"),
    "G / V by kind": (BLUE, "<"),
    "G / V by layer": (GREEN, "<"),
    "G / V by tensor": (ORANGE, "<"),
    "signal to noise by layer": (GREEN, "s"),
    "signal to noise by tensor": (ORANGE, "D"),
    "best of one step": (RED, "v"),
    "density": (PURPLE, "^"),
    "embedding frozen": (BLACK, "P"),
    "the same, permuted": (GREY, "x"),
}
"""Colour and marker of each way to choose scales."""

LABELS = {"the same, permuted": "other layers"}
"""What a legend calls a way whose name in a record says too little beside others."""


def gain_table(points: Points) -> str:
    """A row a task: signal, noise and gains, in sample and on the other half, with standard errors.

    Args:
        points: of a record.
    """
    ways = [way for way in WAYS if any(way in point["gains"] for point in points)]
    head = f"{'task':24}{'step':>5}{'G':>18}{'V/G':>8}{'rank':>6}  " + "".join(f"{way:>29}" for way in ways)
    lines = [head, " " * 63 + "".join(f"{'in sample -> other half':>29}" for _ in ways)]
    for point in points:
        (g, g_error), (v, _) = point["total"]["G"], point["total"]["V"]
        row = f"{point['task'][:23]:24}{point['step']:5}{g:9.3g} ± {g_error:<6.2g}{v / g:8.0f}{point['noise_rank']:6.0f}  "
        for way in ways:
            one = point["gains"].get(way)
            own = f"{one['own']:.2f}" if one and one["own"] is not None else "–"
            row += f"{own:>12} -> {gain_text(point, way):<13}"
        lines.append(row)
    return "\n".join(lines)


def along_table(record: Mapping[str, Any]) -> str:
    """`along_rows` as text, a row a task.

    Args:
        record: of a gain map along a run.
    """
    head, *rows = along_rows(record)
    return "\n".join(f"{row[0]:22}" + "".join(f"{cell:>18}" for cell in row[1:]) for row in (head, *rows))


def gain_figure(points: Points, title: str, ways: Sequence[str] = tuple(WAYS)) -> Figure:
    """Per task the predicted gain on the examples that did not choose the scales, with its standard error, if known.

    Args:
        points: one for each task.
        title: of the figure.
        ways: which ways to choose scales are drawn.
    """
    with look():
        figure, axes = plt.subplots(figsize=(8.2, 0.42 * len(points) + 1.7))
        drawn = [way for way in ways if any(way in point["gains"] for point in points)]
        for number, way in enumerate(drawn):
            colour, marker = WAYS[way]
            rows = [(row, gain) for row, point in enumerate(points) if (gain := gain_at(point, way))]
            places = [row + 0.7 * ((number + 0.5) / len(drawn) - 0.5) for row, _ in rows]
            values, errors = ([gain[number] for _, gain in rows] for number in (0, 1))
            style: dict[str, Any] = {"color": colour, "markersize": 5, "elinewidth": 1.1}
            axes.errorbar(values, places, xerr=errors, fmt=marker, label=LABELS.get(way, way), **style)
        for row, point in enumerate(points):
            if not has_signal(point):
                axes.text(-0.95, row, "no signal in these examples", color=GREY, fontsize=8, va="center")
        axes.axvline(1, color=BLACK, linewidth=1)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(-1, 30)
        axes.set_xticks([-1, 0, 1, 2, 5, 10, 20], ["-1", "0", "1", "2", "5", "10", "20"])
        axes.set_yticks(range(len(points)), [point["task"] for point in points])
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="predicted descent of a step over that of σ = 1, on the other half of the examples (± standard error)")
        axes.set_title(title)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def signal_figure(points: Points, title: str) -> Figure:
    """G / V of each layer and of each kind of tensor, over that of all weights, with standard errors: which blocks learn.

    Args:
        points: one for each task.
        title: of the figure.
    """
    with look():
        figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.8), sharey=True, width_ratios=(3, 2))
        for axes, name in zip(panels, ("layer", "kind"), strict=True):
            names = list(points[0][name])
            for number, point in enumerate(points):
                whole = abs(point["total"]["G"][0] / point["total"]["V"][0])
                signals, noises = (np.array([point[name][one][key] for one in names]) for key in ("G", "V"))
                ratio, error = (signals / np.abs(noises[:, :1]) / whole).T
                style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "markersize": 3, "elinewidth": 0.8}
                axes.errorbar(np.arange(len(names)), ratio, yerr=error, fmt="o-", linewidth=1, label=point["task"], **style)
            axes.axhline(1, color=BLACK, linewidth=1)
            axes.set_xticks(range(len(names)), [_brief(one) for one in names], rotation=90, fontsize=8)
            axes.set(xlabel=name)
            axes.set_yscale("symlog", linthresh=1)
        panels[0].set_ylabel("G / V, over that of all weights")
        panels[0].legend(fontsize=8)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def transfer_figure(points: Points, batch: int, title: str) -> Figure:
    """What scales by G / V of each kind of tensor, chosen on one task, gain on each: a mean over the halves of both tasks.

    Args:
        points: one for each task, of one model.
        batch: examples in a minibatch.
        title: of the figure.
    """
    names = [point["task"].removeprefix("reviews_") for point in points]
    gains = np.nanmean(transfer(points, batch), (2, 3))
    with look():
        figure, axes = plt.subplots(figsize=(0.62 * len(points) + 2.4, 0.5 * len(points) + 1.8))
        logs = np.log2(np.maximum(gains, 0.25))
        image = axes.imshow(logs, cmap="PuOr_r", vmin=-2, vmax=2, aspect="auto")
        for row, column in np.ndindex(gains.shape):
            dark = abs(logs[row, column]) > 1.3
            style: dict[str, Any] = {"color": "white" if dark else BLACK, "ha": "center", "va": "center", "fontsize": 8}
            axes.text(column, row, f"{gains[row, column]:.2g}", **style)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.grid(visible=False)
        axes.set(xlabel="judged on", ylabel="scales chosen on")
        axes.set_title(title)
        bar = figure.colorbar(image, label="predicted gain of a step")
        bar.set_ticks([-2, -1, 0, 1, 2], labels=["≤ 1/4", "1/2", "1", "2", "≥ 4"])
    return figure


def _brief(name: str) -> str:
    return name.removeprefix("model.").removeprefix("layers.").removesuffix(".weight").replace("self_attn.", "")
