"""Gains of one sigma per block in a kept gain map: on the other half of a task's examples, and on other tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zolab.theory.judged import GROUPINGS, all_of, halves_of, noise_scales, transferred
from zolab.theory.signal import gain, terms_of

GAINS = (
    "Predicted descent of a step with one sigma per block, over that with sigma = 1, each at its own best rate, judged on the "
    "half of the examples that did not choose sigma; ± standard error of the judging half. A dash: G is not three standard "
    "errors above 0, or the gain's is larger than 1 and than the gain. *Best of one step* and others that "
    "put everything into a few tensors promise too much: the curvature along the gradient is left out."
)
TRANSFERS = (
    "Scales by G / V of each kind of tensor, chosen on the task of the row and judged on that of the column: mean over the "
    "halves of both tasks' examples, and their extremes; below 1 they lose. Tasks whose G is not three standard errors above 0 "
    "are left out."
)
ALONG = (
    "After so many steps of a run: what scales by G / V of each kind of tensor gain there, chosen at the base model, and, "
    "after the bar, chosen there; means over the halves of the examples. A dash: no signal there, so no gain can be told."
)
Points = Sequence[Mapping[str, Any]]
GROUPED = "kind"  # of the scales that are carried over: few numbers, so that other tasks can share them


def points_at(record: Mapping[str, Any], step: int) -> Points:
    """What was measured after so many steps, a point a task, in the record's order."""
    return [point for point in record["result"]["points"] if point["step"] == step]


def with_signal(points: Points) -> list[Mapping[str, Any]]:
    """Those with a signal: their scales can be carried over."""
    return [point for point in points if has_signal(point)]


def transfer(points: Points, batch: int, grouping: str = GROUPED) -> np.ndarray:
    """Gains of scales by G / V, `zolab.theory.judged.transferred`, shape (tasks, tasks, 2, 2).

    Args:
        points: one for each task, of one model.
        batch: examples in a minibatch.
        grouping: what blocks share a scale, one of `GROUPINGS`.

    Raises:
        ValueError: the points are of different blocks.
    """
    if len({tuple(point["blocks"]) for point in points}) > 1:
        raise ValueError("scales can be carried over between tasks of one model only; these points have other blocks.")
    return transferred([halves_of(point) for point in points], lambda half: noise_scales(half, GROUPINGS[grouping]), batch)


def effective_rates(point: Mapping[str, Any], squares: Mapping[str, float], batch: int) -> dict[str, float]:
    """How much larger a learning rate looks with one sigma for each kind of tensor, at a point of a kept gain map.

    Args:
        point: of the map; negative estimates of G count as 0.
        squares: sigma^2 of each kind of tensor that the point has.
        batch: examples in a minibatch.

    Returns:
        `descent`, sum_j s_j G_j / sum_j G_j, what a step of the same learning rate gains over MeZO's while it is short;
        `curvature`, the same of t_j, what it loses; and `gain`, the ratio of both steps, each at its own best learning rate.
    """
    kept = all_of(point, "kind")
    estimates = np.maximum(kept.estimates, [[0.0], [-np.inf], [-np.inf]])
    s = np.array([squares[kind] for kind in kept.names])
    descent, _, curvature = (estimates @ s) / estimates.sum(1)
    return {"descent": descent, "curvature": curvature, "gain": gain(terms_of(kept.sizes, estimates, batch), np.sqrt(s))}


def has_signal(point: Mapping[str, Any]) -> bool:
    """Whether G over all weights is at least three of its standard errors: without it, no gain can be told."""
    return point["total"]["G"][0] >= 3 * point["total"]["G"][1]


def gain_at(point: Mapping[str, Any], way: str) -> tuple[float, float] | None:
    """A way's gain on the other half with its standard error; None where the examples leave it open.

    They do without a signal, and where the standard error is larger than 1 and than the gain.
    """
    one = point["gains"].get(way)
    if one is None or None in one.values() or not has_signal(point) or one["error"] > max(1.0, abs(one["other"])):
        return None
    return one["other"], one["error"]


def gain_text(point: Mapping[str, Any], way: str) -> str:
    """The same as text, with a dash where it is open."""
    return "–" if (gain := gain_at(point, way)) is None else f"{gain[0]:.2f} ± {gain[1]:.2f}"


def gain_rows(points: Points) -> list[list[str]]:
    """A head and a row a task: its signal and noise, and what each way gains on the other half, with standard errors."""
    ways = list(dict.fromkeys(way for point in points for way in point["gains"]))
    rows = [["task", "examples", "steps", "G", "V / G", "noise rank", "halves agree, by kind and layer", *ways]]
    for point in points:
        (g, error), (v, _) = point["total"]["G"], point["total"]["V"]
        cells = (gain_text(point, way) for way in ways)
        agreed = ("–" if point["agreement"][name] is None else f"{point['agreement'][name]:.2f}" for name in ("kind", "layer"))
        measured = [f"{g:.3g} ± {error:.2g}", f"{v / g:.0f}" if g > 0 else "–", f"{point['noise_rank']:.1f}", ", ".join(agreed)]
        examples = f"{point['examples']}{', balanced' if point.get('balanced') else ''}"  # older records do not say
        rows.append([point["task"], examples, str(point["step"]), *measured, *cells])
    return rows


def transfer_rows(points: Points, batch: int) -> list[list[str]]:
    """A head and a row a task: what scales by G / V that it chooses gain on each task; mean, and extremes over the halves."""
    names = [point["task"] for point in points]
    rows = [["scales chosen on", *names]]
    for name, row in zip(names, transfer(points, batch), strict=True):
        cells = (f"{np.nanmean(cell):.2f} ({np.nanmin(cell):.2f} to {np.nanmax(cell):.2f})" for cell in row)
        rows.append([name, *cells])
    return rows


def along_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """A head and a row a task with a signal at the base model: gains along its run of scales from its beginning.

    Args:
        record: of a map, with the base model (step 0).
    """
    points, batch = record["result"]["points"], record["config"]["batch_size"]
    steps = sorted({point["step"] for point in points} - {0})
    at = {(point["task"], point["step"]): point for point in points}
    rows = [["task", *(f"after {step} steps" for step in steps)]]
    for base in with_signal(points_at(record, 0)):
        cells = []
        for step in steps:
            there = at[base["task"], step]
            kept, own = np.nanmean(transfer([base, there], batch), (2, 3))[:, 1]
            cells.append(f"{kept:.2f} | {own:.2f}" if has_signal(there) else "–")
        rows.append([base["task"], *cells])
    return rows
