"""Processes that share a run over a network: what an exchange of gradients takes there, and one of losses."""

from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from zolab.plots import BLACK, BLUE, GREY
from zolab.studies.expected import MEASURED, SHAPES
from zolab.widgets.controls import choice, log_number, whole
from zolab.widgets.drawing import canvas, decades, drawing, frame
from zolab.widgets.panel import Level, Panel, View, check_ranges, explore, settings

MODELS = {
    "SmolLM2-135M": 134_515_008.0,
    **{SHAPES[name].printed: SHAPES[name].weights for name in ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B")},
    **{SHAPES[name].printed: SHAPES[name].weights for name in ("facebook/opt-13b", "facebook/opt-30b")},
}
"""Weights of each."""
LINKS, LATENCIES, WORTHS, MOST_RANKS = (1, 1e6), (1e-3, 1000), (1, 1000), 64
A_WEIGHT, A_LOSS = 2, 8  # bytes
ENOUGH, TIMES, FAST = 100, 10, 10_000
HINTS = (
    "In a data centre gradients travel well. Try the network of an office, 1,000 Mbit/s, or of a home.",
    "Ten times slower. Another model changes little: passes and gradients both grow with its weights.",
    "More processes share the passes, and wait for more messages. With a large model the waiting counts less.",
)


class Seconds(NamedTuple):
    """Of a step.

    Args:
        passes: forward and backward passes, on an H100 for each process.
        waiting: for messages to arrive, however short.
        sending: bytes.
    """

    passes: float
    waiting: float
    sending: float


def exchange_view(
    model: str = "Llama-3.2-1B", link: float = 1e5, latency: float = 0.1, ranks: int = 2, worth: float = 100.0
) -> View:
    """Seconds of a step by gradients, and of as many steps by losses as are worth it, against the speed of the network.

    Passes are those measured on an H100 on 16 x 256 tokens, in proportion to the weights, which the processes share out; a
    backward pass takes as long as two forward passes. Gradients in bfloat16 are summed around a ring (Thakur, Rabenseifner and
    Gropp 2005): each process sends 2 (n - 1) / n of their bytes, in 2 (n - 1) messages. A step by losses gathers two losses
    around the same ring. Passes and messages take turns here; good software lets some of them overlap.

    The goals: losses ahead at a worth of 100; ten times ahead; and that on a fast network.

    Args:
        model: key of `MODELS`.
        link: speed of the network, 1 to 1e6 Mbit/s.
        latency: of a message, 1e-3 to 1000 milliseconds.
        ranks: processes, 2 to 64.
        worth: steps by losses that bring as far as one by gradients, 1 to 1000.

    Raises:
        ValueError: an argument is out of range.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}.")
    check_ranges(link=(link, *LINKS), latency=(latency, *LATENCIES), ranks=(ranks, 2, MOST_RANKS), worth=(worth, *WORTHS))
    gradients, losses = seconds(MODELS[model], link, latency, ranks)
    ratio = sum(gradients) / (worth * sum(losses))
    with drawing():
        figure = canvas(3.9)
        _draw_links(figure.add_axes((0.08, 0.14, 0.47, 0.75)), MODELS[model], link, latency, ranks, worth)
        _draw_parts(figure.add_axes((0.68, 0.14, 0.3, 0.75)), gradients, Seconds(*(worth * part for part in losses)))
    ahead, far, fast = worth >= ENOUGH and ratio > 1, worth >= ENOUGH and ratio >= TIMES, link >= FAST
    levels = (
        Level(f"losses ahead where one step by gradients is worth {ENOUGH} of theirs", ahead, HINTS[0]),
        Level(f"{TIMES} times ahead", far, HINTS[1]),
        Level(f"{TIMES} times ahead on a network of {FAST:,} Mbit/s or more", far and fast, HINTS[2]),
    )
    who, times = ("losses", ratio) if ratio >= 1 else ("gradients", 1 / ratio)
    return View(figure, levels, f"{who} are {times:.3g} times as fast, at {sum(gradients):.3g} s a step by gradients")


def exchange_panel(**start) -> Panel:
    """A panel over `exchange_view`; its arguments, given here, are where the controls begin."""
    at = settings(exchange_view, start)
    return explore(
        exchange_view,
        link=log_number("Mbit/s", at.link, *LINKS),
        latency=log_number("latency (ms)", at.latency, *LATENCIES),
        ranks=whole("processes", at.ranks, 2, MOST_RANKS),
        worth=log_number("worth", at.worth, *WORTHS),
        model=choice("model", at.model, list(MODELS)),
    )


def seconds(weights: float, link: float, latency: float, ranks: int) -> tuple[Seconds, Seconds]:
    """Of a step by gradients, and of one by losses; arguments as `exchange_view` has them."""
    measured_weights, pair_seconds = MEASURED["8B, bfloat16"]  # two forward passes
    forward = pair_seconds / 2 * weights / measured_weights / ranks
    waiting, speed = 2 * (ranks - 1) * latency / 1e3, link * 1e6 / 8
    return (
        Seconds(3 * forward, waiting, 2 * (ranks - 1) / ranks * A_WEIGHT * weights / speed),
        Seconds(2 * forward, waiting, 2 * (ranks - 1) * A_LOSS / speed),
    )


def _draw_links(axes: Axes, weights: float, link: float, latency: float, ranks: int, worth: float) -> None:
    low, high = np.log10(LINKS)
    links = np.logspace(low, high, 61)
    steps = [seconds(weights, float(each), latency, ranks) for each in links]
    gradients, losses = np.array([[sum(one), worth * sum(other)] for one, other in steps]).T
    axes.plot(np.log10(links), np.log10(gradients), color=GREY, linewidth=2.4, label="one step by gradients")
    axes.plot(
        np.log10(links),
        np.log10(losses),
        color=BLUE,
        linewidth=2.4,
        label=f"{float(f'{worth:.2g}'):g} step{'s' * (worth > 1)} by losses",
    )
    axes.fill_between(np.log10(links), np.log10(losses), np.log10(gradients), where=losses < gradients, color=BLUE, alpha=0.12)
    axes.axvline(np.log10(link), color=BLACK, linestyle=":", linewidth=1.2)
    one, other = seconds(weights, link, latency, ranks)
    for value, colour in ((sum(one), GREY), (worth * sum(other), BLUE)):
        axes.plot(np.log10(link), np.log10(value), "o", color=colour, markeredgecolor=BLACK, markersize=9)
    axes.set(xlim=(low, high), ylim=(-4, 9))
    axes.legend(fontsize=10, frameon=True, loc="upper right")
    frame(axes, "seconds for the same progress", "speed of the network (Mbit/s; dotted: yours)")
    decades(axes.xaxis, 0, 6)
    decades(axes.yaxis, -4, 8, 6)


def _draw_parts(axes: Axes, gradients: Seconds, losses: Seconds) -> None:
    least = -6
    for shift, parts, colour in ((-0.2, gradients, GREY), (0.2, losses, BLUE)):
        for place, value in enumerate(parts):
            length = max(np.log10(value) - least, 0.0)
            axes.barh(place + shift, length, 0.36, left=least, color=colour)
            axes.text(least + length + 0.15, place + shift, f"{value:.2g}", va="center", fontsize=10)
    frame(axes, "where the seconds go", "seconds")
    decades(axes.xaxis, least, 6, 4)
    axes.set(xlim=(least, 9.5), ylim=(2.6, -0.6))
    axes.set_yticks(range(3), ["passes", "waiting", "sending"])
    axes.grid(visible=False, axis="y")
