"""A slider panel is a view of a pure function: a control moves, the function is called, its picture takes the old one's place.

The panels' functions are called plainly first, in notebooks and tests alike, so nothing can be wrong only inside a panel. An
error is both shown as a sentence in the panel and raised, so it is neither hidden from the reader nor from a test.
"""

import gc
import html
import inspect
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ipywidgets
import numpy as np
import traitlets
from matplotlib.figure import Figure

from zolab.plots import GREEN, ORANGE, RED
from zolab.widgets.drawing import drawing

CONTROL = ipywidgets.Layout(width="21em")
LABEL = {"description_width": "7em"}
GREY = "#888888"


@dataclass(frozen=True)
class View:
    """A picture, and how far it is from its goal. Jupyter shows the picture; str() is the goal line.

    Args:
        figure: the picture, sized in inches at its own dpi.
        goal: what to reach, with a number.
        now: where the current settings stand.
        met: whether the goal is reached.
        notes: what the reader should know of parts of the picture, a sentence each.
    """

    figure: Figure
    goal: str
    now: str
    met: bool
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return standing(self.met, self.goal, self.now)

    def png(self) -> bytes:
        """The picture as a PNG file."""
        content = io.BytesIO()
        with drawing():
            self.figure.savefig(content, format="png", dpi="figure", pil_kwargs={"compress_level": 1})
        return content.getvalue()

    _repr_png_ = png


def standing(met: bool, goal: str, now: str) -> str:
    """How panels and exercises say where a reader stands."""
    return f"{'✓ Goal met' if met else '○ Goal'}: {goal}. Now: {now}."


class Panel(ipywidgets.VBox):
    """Controls, a goal line and the picture of the controls' values; made by `explore`."""

    def __init__(self, view_of: Callable[..., View], controls: dict[str, ipywidgets.Widget]):
        self.view_of, self.controls = view_of, controls
        self.goal, self.image = ipywidgets.HTML(), ipywidgets.Image(format="png", layout={"max_width": "100%"})
        rows = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([rows, self.goal, self.image])
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
        self.goal.value = "".join([_line(str(view), GREEN if view.met else GREY, view.met), *notes])


def explore(view_of: Callable[..., View], **controls: ipywidgets.Widget) -> Panel:
    """A panel that shows `view_of(**values)` and draws it again whenever a control is released.

    Args:
        view_of: a pure function of the controls' values.
        controls: one for each argument, by its name: `number`, `log_number`, `whole`, `choice`, `several`, `switch`.

    Raises:
        Whatever `view_of` raises; moved by a reader, the panel says the error's sentence as well.
    """
    return Panel(view_of, controls)


def settings(view_of: Callable[..., View], start: dict[str, Any]) -> SimpleNamespace:
    """Where a panel's controls begin: the defaults of its function, with what the caller wants otherwise.

    Raises:
        ValueError: the function has no such argument.
    """
    known = {name: parameter.default for name, parameter in inspect.signature(view_of).parameters.items()}
    for name in start.keys() - known.keys():
        raise ValueError(f"{view_of.__name__} has no {name}; it has {', '.join(known)}.")
    return SimpleNamespace(**{**known, **start})


def number(label: str, value: float, low: float, high: float, step: float) -> ipywidgets.FloatSlider:
    """A slider over [low, high]."""
    _check(label, value, low <= value <= high, f"between {low:g} and {high:g}")
    return _slider(ipywidgets.FloatSlider, label, value, min=low, max=high, step=step, readout_format=".2f")


def log_number(label: str, value: float, low: float, high: float) -> ipywidgets.FloatLogSlider:
    """A slider over [low, high] with ten positions a decade."""
    _check(label, value, 0 < low <= value <= high, f"between {low:g} and {high:g}")
    ends = {"min": float(np.log10(low)), "max": float(np.log10(high))}
    return _slider(ipywidgets.FloatLogSlider, label, value, **ends, step=0.1, readout_format=".1e")


def whole(label: str, value: int, low: int, high: int, step: int = 1) -> ipywidgets.IntSlider:
    """A slider over the whole numbers low, low + step, ... high."""
    _check(label, value, isinstance(value, int) and low <= value <= high, f"a whole number between {low} and {high}")
    return _slider(ipywidgets.IntSlider, label, value, min=low, max=high, step=step)


def choice(label: str, value: str, options: Sequence[str]) -> ipywidgets.Dropdown:
    """One of several options."""
    _check(label, value, value in options, f"one of {', '.join(options)}")
    return ipywidgets.Dropdown(options=list(options), value=value, description=label, layout=CONTROL, style=LABEL)


def switch(label: str, value: bool) -> ipywidgets.Checkbox:
    """Yes or no."""
    return ipywidgets.Checkbox(value=bool(value), description=label, indent=False, layout=CONTROL)


class Several(ipywidgets.HBox):
    """Some of several options, a box to tick for each; `value` is a tuple in the options' order. Made by `several`."""

    value = traitlets.Tuple()

    def __init__(self, label: str, value: Sequence[str], options: Sequence[str], most: int):
        self.options, self.most = tuple(options), most
        tick = {"indent": False, "layout": {"width": "auto", "margin": "2px 1em 2px 0"}}
        self.boxes = [ipywidgets.Checkbox(description=option, **tick) for option in options]
        super().__init__([ipywidgets.Label(f"{label}, at most {most}:"), *self.boxes], layout={"flex_flow": "row wrap"})
        self.observe(self._tick, "value")
        self.value = tuple(value)

    def _tick(self, change: Any) -> None:
        for option, box in zip(self.options, self.boxes, strict=True):
            box.unobserve_all("value")
            box.value = option in self.value
            box.observe(self._read, "value")

    def _read(self, change: Any) -> None:
        self.value = tuple(option for option, box in zip(self.options, self.boxes, strict=True) if box.value)


def several(label: str, value: Sequence[str], options: Sequence[str], most: int) -> Several:
    """Any of several options; `most` says how many the function can show."""
    _check(label, value, not isinstance(value, str) and set(value) <= set(options), f"some of {', '.join(options)}")
    return Several(label, value, options, most)


def extremes(control: ipywidgets.Widget) -> list:
    """The values that a test or a benchmark should try: ends and middle of a slider, every option of a choice."""
    if isinstance(control, Several):
        return [control.options[:1], control.options[: control.most], control.options[-control.most :]]
    if isinstance(control, ipywidgets.Dropdown):
        return list(control.options)
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    slider: Any = control
    middle = (slider.min + slider.max) / 2
    if isinstance(control, ipywidgets.FloatLogSlider):
        return [slider.base**exponent for exponent in (slider.min, middle, slider.max)]
    return [type(slider.value)(value) for value in (slider.min, middle, slider.max)]


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


def _slider(kind: type, label: str, value: float, **options: Any) -> Any:
    return kind(value=value, description=label, continuous_update=False, layout=CONTROL, style=LABEL, **options)


def _check(label: str, value: Any, holds: bool, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{label} must be {wanted}, got {value!r}.")


def _line(text: str, colour: str, strong: bool = False) -> str:
    style = f"border-left: 6px solid {colour}; padding: 2px 10px; line-height: 1.4"
    return f'<div role="status" style="{style}">{"<b>" * strong}{html.escape(text)}{"</b>" * strong}</div>'
