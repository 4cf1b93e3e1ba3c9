"""The controls of slider panels: each knows its range, refuses a start outside it, and tells a test what to try."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import numpy as np
import traitlets

WIDTH = "34em"  # of which the track has at least 250 pixels
CONTROL = ipywidgets.Layout(width=WIDTH)
LABEL = {"description_width": "7em"}


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


class Rates(ipywidgets.VBox):
    """A learning rate for each of several methods, of which some are shown; `value` maps names to rates. Made by `rates`."""

    value = traitlets.Dict()

    def __init__(self, values: Mapping[str, float], low: float, high: float, methods: Several):
        self.sliders = {name: log_number(f"lr of {name}", value, low, high) for name, value in values.items()}
        super().__init__(list(self.sliders.values()))
        for slider in self.sliders.values():
            slider.layout, slider.style.description_width = ipywidgets.Layout(width="36em"), "9em"
            slider.observe(self._read, "value")
        self.observe(self._move, "value")
        methods.observe(self._show, "value")
        self._read(None)
        self._show({"new": methods.value})

    def _read(self, change: Any) -> None:
        self.value = {name: slider.value for name, slider in self.sliders.items()}

    def _move(self, change: Any) -> None:
        for name, slider in self.sliders.items():
            slider.unobserve(self._read, "value")
            slider.value = change["new"][name]
            slider.observe(self._read, "value")

    def _show(self, change: Any) -> None:
        for name, slider in self.sliders.items():
            slider.layout.display = None if name in change["new"] else "none"


def rates(values: Mapping[str, float], low: float, high: float, methods: Several) -> Rates:
    """A slider over [low, high] for each method that is ticked in another control.

    Args:
        values: where each begins.
        low, high: the least and the largest learning rate.
        methods: the control in which methods are ticked.
    """
    return Rates(values, low, high, methods)


def extremes(control: ipywidgets.Widget) -> list:
    """The values that a test or a benchmark should try: ends and middle of a slider, every option of a choice."""
    if isinstance(control, Several):
        return [control.options[:1], control.options[: control.most], control.options[-control.most :]]
    if isinstance(control, Rates):
        each = {name: extremes(slider) for name, slider in control.sliders.items()}
        return [{name: values[place] for name, values in each.items()} for place in range(3)]
    if isinstance(control, ipywidgets.Dropdown):
        return list(control.options)
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    slider: Any = control
    middle = (slider.min + slider.max) / 2
    if isinstance(control, ipywidgets.FloatLogSlider):
        return [slider.base**exponent for exponent in (slider.min, middle, slider.max)]
    return [type(slider.value)(value) for value in (slider.min, middle, slider.max)]


def _slider(kind: type, label: str, value: float, **options: Any) -> Any:
    return kind(value=value, description=label, layout=CONTROL, style=LABEL, **options)


def _check(label: str, value: Any, holds: bool, requirement: str) -> None:
    if not holds:
        raise ValueError(f"{label} must be {requirement}, got {value!r}.")
