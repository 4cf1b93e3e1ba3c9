"""A slider panel is a view of a pure function: a control moves, the function is called, its picture takes the old one's place.

The panels' functions are called plainly first, in notebooks and tests alike, so nothing can be wrong only inside a panel. An
error is both shown as a sentence in the panel and raised, so it is neither hidden from the reader nor from a test.
"""

import base64
import gc
import html
import inspect
import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import ipywidgets
from matplotlib.figure import Figure

from zolab.plots import GREEN, ORANGE, RED
from zolab.studies.compare import LINE
from zolab.widgets.drawing import drawing

GREY, AMBER = "#888888", "#B8860B"
BUSY = """<style>
.zolab-busy { display: none; color: #B8860B; }
.jp-NotebookPanel:has(.jp-Notebook-ExecutionIndicator[data-status="busy"]) .zolab-busy {
    display: block; opacity: 0; animation: zolab-appear 0s 0.8s forwards; }
@keyframes zolab-appear { to { opacity: 1; } }
</style><div class="zolab-busy">The kernel is busy: the panel answers as soon as the cell that runs has ended.</div>"""
"""The page itself knows when the kernel is busy, and the kernel could not say so. A redraw is over before the delay is."""


class Level(NamedTuple):
    """One of the goals of a panel, each harder than the one before it.

    Args:
        goal: what to reach, with a number.
        met: whether the current settings reach it.
        hint: what to try.
    """

    goal: str
    met: bool
    hint: str


def reached(levels: Sequence[Level]) -> int:
    """How many goals are met, up to the first that is not."""
    return next((number for number, level in enumerate(levels) if not level.met), len(levels))


def ahead(levels: Sequence[Level]) -> int:
    """The place of the goal to reach next, or of the last."""
    return min(reached(levels), len(levels) - 1)


@dataclass(frozen=True)
class View:
    """A picture, and how far it is from its goals. Jupyter shows the picture; str() is what `line` says, in short lines.

    Args:
        figure: the picture, sized in inches at its own dpi.
        levels: goals, from the easiest to the hardest.
        now: where the current settings stand.
        notes: what the reader should know of parts of the picture, a sentence each.
    """

    figure: Figure
    levels: Sequence[Level]
    now: str
    notes: tuple[str, ...] = ()

    @property
    def reached(self) -> int:
        """How many goals are met, up to the first that is not."""
        return reached(self.levels)

    @property
    def met(self) -> bool:
        """Whether all goals are."""
        return self.reached == len(self.levels)

    @property
    def level(self) -> Level:
        """The goal to reach next, or the last."""
        return self.levels[ahead(self.levels)]

    @property
    def line(self) -> str:
        """The goal to reach next, and where the current settings stand."""
        return standing(self.met, self.level.goal, self.now, (self.reached, len(self.levels)))

    def __str__(self) -> str:
        return wrapped(self.line)

    def png(self) -> bytes:
        """The picture as a PNG file."""
        content = io.BytesIO()
        with drawing():
            self.figure.savefig(content, format="png", dpi="figure", pil_kwargs={"compress_level": 1})
        return content.getvalue()

    _repr_png_ = png


def standing(met: bool, goal: str, now: str, levels: tuple[int, int] = (0, 1)) -> str:
    """How panels and exercises say where a reader stands.

    Args:
        met: whether the goal, and all others, are reached.
        goal, now: what to reach, and what is.
        levels: goals that are reached, and how many there are.
    """
    reached, count = levels
    if met:
        return f"✓ Goal met{f', the last of {count}' if count > 1 else ''}: {goal}. Now: {now}."
    return f"○ Goal{f' {reached + 1} of {count}' if count > 1 else ''}: {goal}. Now: {now}."


def wrapped(text: str) -> str:
    """Lines that a notebook shows without a scroll bar."""
    shape = {"width": LINE, "subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, **shape, replace_whitespace=False) for line in text.splitlines())


class Panel(ipywidgets.VBox):
    """Controls, a line of goals with a hint, and the picture of the controls' values; made by `explore`."""

    def __init__(self, view_of: Callable[..., View], controls: dict[str, ipywidgets.Widget]):
        self.view_of, self.controls = view_of, controls
        self.goal, self.hint = ipywidgets.HTML(), ipywidgets.HTML()
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        rows = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([rows, ipywidgets.HTML(BUSY), self.goal, self.hint, self.image])
        for control in controls.values():
            control.observe(self.redraw, "value")
        self.redraw()

    def redraw(self, change: Any = None) -> None:
        """Draw the picture of the controls' values."""
        try:
            with _no_collection():
                view = self.view_of(**{name: control.value for name, control in self.controls.items()})
                picture = view.png()
        except Exception as error:
            self.goal.value = _line(f"✗ {error} The picture is the last that could be drawn.", RED)
            raise
        self.image.value = picture
        notes = [_line(f"⚠ {note}", ORANGE) for note in view.notes]
        colour = GREEN if view.met else AMBER if view.reached else GREY
        self.goal.value = "".join([_line(view.line, colour, view.met), *notes])
        self.hint.value = "" if view.met else f"<details><summary>Hint</summary>{html.escape(view.level.hint)}</details>"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        """What Jupyter shows: the panel, and, where no kernel answers it, its picture."""
        bundle = super()._repr_mimebundle_(**options)
        return {**bundle, "image/png": base64.b64encode(self.image.value).decode()}


def explore(view_of: Callable[..., View], **controls: ipywidgets.Widget) -> Panel:
    """A panel that shows `view_of(**values)` and draws it again while a control is moved.

    While a picture is drawn the page sends no value, and then the latest, so that the panel keeps up with the mouse.

    Args:
        view_of: a pure function of the controls' values.
        controls: one for each argument, by its name: `number`, `log_number`, `whole`, `choice`, `several`, `switch`.

    Raises:
        Whatever `view_of` raises; moved by a reader, the panel says the error's sentence as well.
    """
    return Panel(view_of, controls)


def check_ranges(**ranges: tuple[float, float, float]) -> None:
    """Raise ValueError unless each value, the first of three numbers, lies between the other two or on one of them."""
    for name, (value, low, high) in ranges.items():
        if not low <= value <= high:
            raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got {value}.")


def settings(view_of: Callable[..., View], start: dict[str, Any]) -> SimpleNamespace:
    """Where a panel's controls begin: the defaults of its function, with what the caller wants otherwise.

    Raises:
        ValueError: the function has no such argument.
    """
    known = {name: parameter.default for name, parameter in inspect.signature(view_of).parameters.items()}
    for name in start.keys() - known.keys():
        raise ValueError(f"{view_of.__name__} has no {name}; it has {', '.join(known)}.")
    return SimpleNamespace(**{**known, **start})


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python looks for cyclic garbage after the picture, not before it: with torch loaded, that takes as long as drawing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _line(text: str, colour: str, strong: bool = False) -> str:
    style = f"border-left: 6px solid {colour}; padding: 2px 10px; line-height: 1.4"
    return f'<div role="status" style="{style}">{"<b>" * strong}{html.escape(text)}{"</b>" * strong}</div>'
