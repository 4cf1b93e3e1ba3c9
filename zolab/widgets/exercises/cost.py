"""Exercises of notebook 10."""

from collections.abc import Sequence
from math import ceil
from typing import Any

from zolab.runs.memory import Tokens, fits
from zolab.studies.step_memory import LABELS, expected
from zolab.widgets.exercises.entry import Entry, need

CARD, LENGTH, MODEL = 24, 256, "meta-llama/Llama-3.2-1B"
STATES = ("mezo_adam", "hizoo", "adam", "adamezo")


def largest_batch(batch: int) -> tuple[bool, str]:
    need(type(batch) is int and 0 < batch < 100_000, f"batch must be a whole number between 1 and 99,999, got {batch!r}.")
    now, more = (
        expected(MODEL, "sgd", Tokens(count, LENGTH), dtype="bfloat16", device="cuda").total for count in (batch, batch + 1)
    )
    return fits(now, CARD) and not fits(more, CARD), f"{batch} texts take {now / 1e9:.2f} GB, one more {more / 1e9:.2f}"


def state_bytes(mezo_adam: float, hizoo: float, adam: float, adamezo: float) -> tuple[bool, str]:
    """Bytes for each weight."""
    met, messages = True, []
    for way, answer in zip(STATES, (mezo_adam, hizoo, adam, adamezo), strict=True):
        parts = expected("tiny-reviews", way, Tokens(1, 8), dtype="bfloat16", device="cuda").parts
        measured = parts.get("states", 0.0) / (parts["weights"] / 2)
        met &= abs(answer - measured) < 0.1
        messages.append(f"{LABELS[way]} {measured:.1f}, you say {answer:g}")
    return met, "bytes a weight: " + "; ".join(messages)


def mostly_forward(seconds: Any, batch: int, larger: int) -> tuple[bool, str]:
    """The table of section 4, its batch, and the batch from which 95 % of MeZO's step are forward passes."""
    row = seconds.loc["MeZO"].drop("step", errors="ignore")
    forward, rest = float(row["forward passes"]), float(row.drop("forward passes").sum())
    least = ceil(19 * rest * batch / forward)
    now = f"with {batch} texts forward passes are {forward / (forward + rest):.0%} of a step, 95 % from {least} on"
    return larger == least, now


COST: dict[str, Sequence[Entry]] = {
    "10": (
        (
            *(
                "The largest batch",
                1,
                10,
                f"the largest batch of {LENGTH} tokens with which SGD trains Llama-3.2-1B in bfloat16 on {CARD} GB",
            ),
            *("a peak grows by the same for every text: two predictions give the line, `fits` leaves room", largest_batch),
        ),
        (
            *("Bytes of a state", 2, 10, "the bytes a bfloat16 weight that four methods keep, within 0.1"),
            *(
                "divide the part `states` by the number of weights; a moment in float32 takes four bytes, in bfloat16 two",
                state_bytes,
            ),
        ),
        (
            *("Mostly forward", 2, 10, "the batch from which forward passes are 95 % of MeZO's step"),
            *("forward passes grow with the batch, passes over the weights do not: 19 rest = forward", mostly_forward),
        ),
    ),
}
