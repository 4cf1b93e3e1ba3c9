"""Figures: one look, pure functions of records and numbers, and one place where they are written."""

import io
import json
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from zolab.landscapes import Descent, Landscape
from zolab.records import environment
from zolab.records.files import write_atomically

# Okabe and Ito's palette, distinguishable with every common colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK = COLOURS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00"),
    *("#CC79A7", "#56B4E9", "#F0E442", "#000000"),
)
GREY = "#777777"
MARK_COLOURS = tuple(colour for colour in COLOURS if colour != YELLOW)
"""Of marks on white, on which yellow is hard to see."""
METHOD_COLOURS = {
    **{"Adam": BLACK, "SGD": GREY, "MeZO": BLUE, "AdaMeZO": RED, "MEAZO": GREEN},
    **{"MeZO-Adam": PURPLE, "MeZO-momentum": SKY, "ZO-AdaMU": ORANGE},
}
"""By the names that papers give to methods, as in `zolab.studies.family`."""
PART_COLOURS = {
    **{"weights": GREY, "states": PURPLE, "gradients": RED, "saved": ORANGE},
    **{"activations": BLUE, "logits": SKY, "scratch": GREEN, "journal": YELLOW},
}
"""Of the parts of a step's memory, in the order in which bars stack them."""
LOOK = {
    "figure.figsize": (7.0, 3.6),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.prop_cycle": plt.cycler(color=COLOURS),
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}
LARGEST_FIGURE = 200_000


@contextmanager
def look() -> Iterator[None]:
    """Draw in zolab's look inside this block; the reader's own matplotlib settings come back after it."""
    with plt.rc_context(LOOK):
        yield
        interactive = plt.isinteractive()
    # Jupyter's backend switches this on at the first figure, which may be one of ours: leave it on.
    matplotlib.interactive(interactive)


def save_figure(figure: Figure, name: str, folder: str | os.PathLike, notebook: str) -> Path:
    """Write `folder/name.png` and note in `folder/manifest.json` what made it.

    Args:
        figure: what to write.
        name: file name without suffix, beginning with the notebook's number.
        folder: normally `runs/figures`.
        notebook: name of the notebook that draws it.

    Raises:
        ValueError: the picture is larger than 200 kB.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    if content.tell() > LARGEST_FIGURE:
        raise ValueError(f"{name}.png takes {content.tell() / 1e3:.0f} kB, more than 200; draw fewer points or smaller.")
    write_atomically(folder / f"{name}.png", content.getvalue())
    manifest_path = folder / "manifest.json"
    manifest: dict[str, Any] = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
    origin = environment()
    manifest[name] = {"notebook": notebook, "commit": origin["commit"], "machine": origin["machine"]["processor"]}
    write_atomically(manifest_path, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return folder / f"{name}.png"


def plain_log(axis: Axis, subs: Sequence[float] = (1, 2, 5)) -> None:
    """Write plain numbers, 1, 2 and 5 of each decade or other `subs`, on a logarithmic axis that spans a decade or two."""
    axis.set_major_locator(LogLocator(subs=tuple(subs)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def headline(figure: Figure, finding: str) -> None:
    """Write over a figure what it shows, in as many lines as its width asks for.

    Args:
        figure: all of its panels are there.
        finding: a sentence with the numbers that are drawn, made from them.
    """
    width = int(9.8 * figure.get_figwidth())
    lines = len(textwrap.wrap(finding, width))
    even = textwrap.wrap(finding, min(width, len(finding) // lines + 8))  # no word alone in the last one
    figure.suptitle("\n".join(even), x=0.01, ha="left", weight="bold", size=12)


def legend_below(axes: Axes, ncols: int = 4) -> None:
    """The legend of one panel under its figure, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    cast(Figure, axes.figure).legend(handles, labels, loc="outside lower center", ncols=ncols, fontsize=10)


def changed(before: float, after: float, digits: int = 2) -> str:
    """Such as `falls from 0.63 to 0.57`, or rises, or stays at where the printed digits are the same."""
    first, last = f"{before:.{digits}f}", f"{after:.{digits}f}"
    return f"stays at {first}" if first == last else f"{'falls' if after < before else 'rises'} from {first} to {last}"


def training_curve(record: dict[str, Any], chance: float | None = None) -> Figure:
    """Probed training loss and dev loss of a run against forward passes; the title says what became of the dev loss.

    Args:
        record: of a run.
        chance: loss of an answer by chance (nats), a dotted line.
    """
    with look():
        figure, axes = plt.subplots()
        result, begun = record["result"], record.get("calibration", {}).get("forwards", 0)
        losses = np.array([step["loss"] for step in record["steps"]])
        forwards = begun + (result["forwards"] - begun) / result["steps"] * (np.arange(len(losses)) + 1)
        axes.plot(forwards, losses, color=SKY, linewidth=0.9, alpha=0.6, label="training batches")
        window = max(1, min(15, len(losses) // 4))
        smooth = np.convolve(losses, np.full(window, 1 / window), "valid")
        axes.plot(forwards[window - 1 :], smooth, color=BLUE, label=f"mean of {window} batches")
        dev = [entry for entry in record["evaluations"] if entry["split"] == "dev"]
        ends = [entry["loss"] for entry in dev]
        axes.plot([entry["forwards"] for entry in dev], ends, "o:", color=RED, markersize=7, label="dev examples")
        if chance is not None:
            axes.axhline(chance, color=BLACK, linestyle="--", linewidth=1, label=f"chance, {chance:.2f}")
        values = [*np.quantile(losses, (0.02, 0.98)), *ends, *smooth, *([] if chance is None else [chance])]
        room = 0.08 * (max(values) - min(values))
        axes.set(xlabel="forward passes", ylabel="loss (nats)", ylim=(min(values) - room, max(values) + room))
        headline(figure, f"In {result['forwards']:,} forward passes the dev loss {changed(ends[0], ends[-1])} nats")
        legend_below(axes)
        return figure


def meta_training(
    record: dict[str, Any], untrained: dict[str, Any] | None = None, axes: Sequence[Axes] | None = None
) -> Figure:
    """Clean loss, what a zeroth-order step would take off, and sigma of six blocks over the steps of a meta-training.

    Args:
        record: of `zolab.l2l.meta_train` with gradient sample or complete; dashed lines are its resets.
        untrained: the same without learning, dotted; sigma = 1 if it is not given. The three blocks that learning moved most
            are red, the three that it moved least blue.
        axes: three to draw in, from top to bottom.
    """
    with look():
        axes = plt.figure(figsize=(5, 6.6)).subplots(3, sharex=True) if axes is None else axes
        steps = record["result"]["steps"]
        noted = [entry["step"] for entry in steps if "sigma" in entry]
        sigma = np.array([entry["sigma"] for entry in steps if "sigma" in entry])
        still = np.ones_like(sigma)
        if untrained is not None:
            still = np.array([entry["sigma"] for entry in untrained["result"]["steps"] if "sigma" in entry])
        axes[0].plot([entry["loss"] for entry in steps], color=BLUE)
        axes[1].plot([1e3 * (entry["loss"] - entry["meta_loss"]) for entry in steps], ".", color=GREEN)
        order = np.abs(np.log(sigma[-1] / still[-1])).argsort()[::-1]
        labels = dict.fromkeys(order[:3], "moved most by learning") | dict.fromkeys(order[-3:], "moved least")
        labels = {j: text if j in (order[0], order[-1]) else None for j, text in labels.items()}  # once in a legend
        for j in (*order[-3:], *order[:3]):
            axes[2].plot(noted, sigma[:, j], color=RED if j in order[:3] else SKY, linewidth=1.3, label=labels[j])
            axes[2].plot(
                noted, still[:, j], ":", color=BLACK, linewidth=1.2, label="without learning" if j == order[0] else None
            )
        change = np.exp(np.abs(np.log(sigma[-1] / still[-1])).max())
        axes[2].set_title(f"learning changes σ by a factor of up to {change:.3g}", fontsize=10)
        for panel in axes:
            for reset in range(record["config"]["period"], len(steps), record["config"]["period"]):
                panel.axvline(reset, color=BLACK, linestyle="--", linewidth=1)
        axes[0].set_ylabel("clean loss (nats)")
        axes[1].set(ylabel="L(θ) - L(θ') (mnat)", yscale="log")
        axes[2].set(ylabel="σ of six blocks", yscale="log", xlabel="meta-step")
        return cast(Figure, axes[0].figure)


def landscape_map(
    landscape: Landscape, walks: dict[str, Descent], axes: Axes | None = None, window: tuple | None = None
) -> Figure:
    """Contours of a function of two variables, its start (white dot), its minima (stars), and walks with a dot at their end.

    Args:
        landscape: the function; contours rise by half a decade above its minimum.
        walks: by the method's name, a key of `METHOD_COLOURS`; what leaves the window is cut off.
        axes: where to draw.
        window: ((left, right), (bottom, top)), instead of the landscape's own.
    """
    with look():
        axes = axes or plt.figure(figsize=(5, 4)).subplots()
        (left, right), (bottom, top) = window or landscape.window
        x, y = np.meshgrid(np.linspace(left, right, 201), np.linspace(bottom, top, 201))
        height = np.log10(np.maximum(landscape(x, y) - landscape.minimum, 1e-12))
        levels = np.arange(np.floor(2 * max(height.min(), -3)) / 2, height.max() + 0.5, 0.5)
        axes.contourf(x, y, height, levels, cmap="Greys", vmin=levels[0], vmax=2 * levels[-1] - levels[0], extend="min")
        axes.contour(x, y, height, levels, colors="white", linewidths=0.5, linestyles="solid")
        for place, (method, walk) in enumerate(walks.items()):
            width = 1.2 + 0.9 * (len(walks) - 1 - place)  # an earlier path shows on both sides of a later one
            axes.plot(*walk.positions.T, color=METHOD_COLOURS[method], linewidth=width, label=method)
            axes.plot(*walk.positions[-1], "o", color=METHOD_COLOURS[method], markeredgecolor="white", markersize=7, zorder=5)
        axes.plot(*np.transpose(landscape.minima), "*", color=YELLOW, markeredgecolor=BLACK, markersize=15, zorder=4)
        axes.plot(*landscape.start, "o", color="white", markeredgecolor=BLACK, markersize=7, zorder=4, clip_on=False)
        axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="x", ylabel="y", title=landscape.title)
        axes.grid(visible=False)
        return cast(Figure, axes.figure)


def bars(labels: Sequence[str], values: Sequence[float], unit: str, title: str, axes: Axes | None = None) -> Figure:
    """Horizontal bars with their values written beside them; methods have their own colours, the rest share one."""
    with look():
        axes = axes or plt.figure(figsize=(7.0, 0.55 * len(labels) + 1.1)).subplots()
        places = np.arange(len(labels))[::-1]
        colours = [METHOD_COLOURS.get(label, SKY) for label in labels]
        axes.barh(places, values, color=colours, height=0.6)
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f" {value:.3g} {unit}", va="center")
        axes.set_yticks(places, labels)
        axes.set(xlabel=unit, xlim=(0, 1.2 * max(values)))
        axes.grid(axis="y", visible=False)
        axes.set_title(title)
        return cast(Figure, axes.figure)


def stacked_bars(
    rows: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    unit: str,
    title: str,
    marks: Mapping[str, float] | None = None,
    axes: Axes | None = None,
    limits: Mapping[str, float] | None = None,
) -> Figure:
    """Horizontal bars made of parts, one under the other, with their sums written beside them or, with limits, at the right.

    Args:
        rows: of each bar the size of its parts.
        colours: of each part, in the order in which parts are laid; a part that is nowhere is left out of the legend.
        unit: of the sizes.
        title: of the picture.
        marks: a dot on each bar that has one, such as what was measured.
        axes: where to draw.
        limits: dotted lines with their names, such as the memory of cards; those far beyond all bars are left out.
    """
    with look():
        axes = axes or plt.figure(figsize=(7.4, 0.34 * len(rows) + 1.5)).subplots()
        places, left = np.arange(len(rows)), np.zeros(len(rows))
        largest = max(*(sum(row.values()) for row in rows.values()), *(marks or {}).values(), 0.0)
        for part, colour in colours.items():
            sizes = np.array([row.get(part, 0.0) for row in rows.values()])
            if sizes.max() > 2e-3 * largest:
                axes.barh(places, sizes, left=left, color=colour, height=0.66, label=part)
            left += sizes
        for place, (name, sum_) in enumerate(zip(rows, left, strict=True)):
            dot = (marks or {}).get(name)
            if dot is not None:
                axes.plot(dot, place, "D", color="white", markeredgecolor=BLACK, markersize=6)
            at = 1.2 * largest if limits else max(sum_, dot or 0.0) + 0.015 * largest  # no number on a dotted line
            written = f"{sum_:,.0f}" if sum_ >= 1000 else f"{sum_:.3g}"
            axes.text(at, place, written, ha="right" if limits else "left", va="center", fontsize=9)
        drawn = {name: limit for name, limit in (limits or {}).items() if limit <= 1.1 * largest}
        for number, (name, limit) in enumerate(drawn.items()):
            axes.axvline(limit, color=BLACK, linestyle=":", linewidth=1)
            axes.text(limit, -0.55, name, ha="left" if number else "right", va="bottom", fontsize=9)
        axes.set_yticks(places, list(rows))
        axes.set(xlabel=unit, xlim=(0, (1.2 if limits else 1.12) * largest), ylim=(len(rows) - 0.5, -0.5))
        axes.grid(axis="y", visible=False)
        axes.set_title(title, pad=18 if drawn else None)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=9)
        return cast(Figure, axes.figure)
