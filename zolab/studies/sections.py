"""Sections of RESULTS.md that are not of runs: what a GPU said, and the gain map."""

from collections.abc import Iterable, Sequence
from typing import Any

from zolab.studies.gain_transfer import ALONG, GAINS, TRANSFERS, along_rows, gain_rows, points_at, transfer_rows, with_signal
from zolab.studies.outcomes import Record
from zolab.studies.predicted import concordances, outcomes

Section = tuple[str, list[str]]
"""Title and lines."""


def table_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    return [row_of(head), row_of(["---"] * len(head)), *(row_of(row) for row in rows)]


def row_of(cells: Sequence[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def gpu_section(content: dict[str, Any]) -> Section:
    """What `make gpu-check` measured on a card."""
    rows = []
    for part in content["parts"].values():
        for row in part.get("rows", []):
            if row.get("seconds") is None:
                continue
            keys = ("over_forwards", "over_published", "over_mezo", "peak_over_weights", "steps_a_second")
            numbers = (row.get(key) for key in keys)
            cells = ["–" if number is None else f"{number:.3g}" for number in numbers]
            rows.append([row["name"].replace(": ours", ": in place"), f"{row['seconds']:.4f}", *cells])
    exact = content["parts"].get("exactness", {}).get("rows", [])
    right = sum(row["exact"] and row["replay"] for row in exact)
    message = (
        f"{right} of {len(exact)} combinations of method, dtype and probe return to the same bits and replay to the same bits; "
    )
    message += (
        f"kernels' tests: {content['native_tests']}. LLaMA shapes have random weights; *beyond the weights* is peak memory."
    )
    head = ["measured", "seconds", "two forwards = 1", "published = 1", "MeZO = 1", "beyond the weights", "steps a second"]
    return f"On a GPU: {content['machine']['gpu']}", [message, "", *table_of(head, rows)]


def map_section(content: dict[str, Any]) -> Section:
    """What one sigma per block may gain."""
    config, points = content["config"], content["result"]["points"]
    head, *rows = gain_rows(points)
    lines = [f"{config['groups']} groups of examples. {GAINS}", "", *table_of(head, rows)]
    if len(base := with_signal(points_at(content, 0))) > 1:
        head, *rows = transfer_rows(base, config["batch_size"])
        lines += ["", TRANSFERS, "", *table_of(head, rows)]
    if any(point["step"] for point in points) and base:
        head, *rows = along_rows(content)
        lines += ["", ALONG, "", *table_of(head, rows)]
    return f"Gain map of {config['model']}", lines


def predicted_lines(record: Record) -> list[str]:
    """What was predicted of scales, and what runs with them saved."""
    rows = outcomes(record)
    both = concordances(rows)
    message = (
        f"Rank correlation (Goodman and Kruskal's gamma, over pairs whose order is known) of the predicted gain of a step with "
        f"the saving of forward passes {both['saving']}, with how much lower the final loss is {both['final']}; intervals from "
        "tasks drawn anew. A dash for a prediction: the examples leave it open, and no correlation counts it."
    )
    head = ["task", "scales", "predicted gain ± standard error", "forward passes saved (ratio)", "final loss minus MeZO's"]
    cells = ([row.task, row.way, row.predicted, row.saving.text(), row.final.text(3, sign=True)] for row in rows)
    return [message, "", *table_of(head, cells)]
