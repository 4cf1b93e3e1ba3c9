"""Memory: what a step takes of a GPU, method by method, and on which cards it fits."""

from collections.abc import Mapping
from functools import partial

from zolab.plots import PART_COLOURS, stacked_bars
from zolab.runs.config import Config
from zolab.runs.memory import CARDS, CONTEXT, Tokens, fits, predicted
from zolab.widgets.controls import choice, whole
from zolab.widgets.drawing import canvas, drawing
from zolab.widgets.panel import Level, Panel, View, check_ranges, explore, settings

METHODS = {
    **{"mezo": "MeZO", "zo_finetuner": "ZO Fine-tuner", "lozo": "LOZO", "hizoo": "HiZOO", "mezo_adam": "MeZO-Adam"},
    **{"sgd": "SGD", "adam": "Adam"},
}
DTYPES = ("bfloat16", "float32")
ROWS, LENGTH = 64, 1024  # the most
CARD = 24  # GB
GOALS = ((8192, "bfloat16"), (65536, "bfloat16"), (65536, "float32"))
"""Tokens of a batch, and in what the weights are held at least."""
HINTS = (
    "Twice the batch. Adam keeps two numbers beside each weight, and backpropagation all activations: which part grows?",
    "No method with a gradient is left: at 65,536 tokens the activations alone take more than any card has.",
    "Weights of four bytes. Now what a method stores beside the weights counts double, too.",
)


def memory_view(
    method: str = "adam",
    dtype: str = "bfloat16",
    batch: int = 16,
    length: int = 256,
    model: str = "meta-llama/Llama-3.2-1B",
) -> View:
    """Peak memory of a step on a GPU, part by part: the chosen method's above those of others, and cards as dotted lines.

    The goals: ever larger batches, and larger weights, on a card of 24 GB.

    Args:
        method: key of `METHODS`.
        dtype: of the weights, one of `DTYPES`.
        batch, length: texts of a batch, up to 64, and tokens of each, up to 1,024; one token of each text is scored.
        model: as `zolab.models.outline.config_of` takes it.

    Raises:
        ValueError: an argument is out of range.
    """
    for name, value, known in (("method", method, METHODS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    check_ranges(batch=(batch, 1, ROWS), length=(length, 1, LENGTH))
    tokens, order = Tokens(batch, length), (method, *(name for name in METHODS if name != method))
    predictions = {
        METHODS[name]: predicted(Config(model, optimizer=name, dtype=dtype, device="cuda"), tokens) for name in order
    }
    own = predictions[METHODS[method]].total
    with drawing():
        figure = canvas(3.8)
        _draw(figure.add_axes((0.14, 0.14, 0.7, 0.75)), {name: it.parts for name, it in predictions.items()}, model)
    room = [f"{card}" for card in CARDS if fits(own, card)]
    where = f"fits on cards of {', '.join(room)} GB" if room else f"fits on none of {', '.join(map(str, CARDS))} GB"
    now = f"{batch * length:,} tokens with {METHODS[method]} take {own / 1e9:.1f} GB, which {where}"
    levels = [
        Level(
            f"a batch of {tokens:,} tokens in {least} on a card of {CARD} GB, {CONTEXT / 1e9:g} GB of it left to the system",
            batch * length >= tokens and fits(own, CARD) and DTYPES.index(dtype) >= DTYPES.index(least),
            hint,
        )
        for (tokens, least), hint in zip(GOALS, HINTS, strict=True)
    ]
    return View(figure, levels, now)


def memory_panel(**start) -> Panel:
    """A panel over `memory_view`; its arguments, given here, are where the controls begin. The model has none."""
    at = settings(memory_view, start)
    for dtype in DTYPES:
        memory_view(dtype=dtype, model=at.model)  # follows the model's passes, which takes seconds
    return explore(
        partial(memory_view, model=at.model),
        method=choice("method", at.method, list(METHODS)),
        dtype=choice("dtype", at.dtype, DTYPES),
        batch=whole("batch", at.batch, 1, ROWS),
        length=whole("length", at.length, 16, LENGTH, 16),
    )


def _draw(axes, rows: Mapping[str, Mapping[str, float]], model: str) -> None:
    gigabytes = {name: {part: size / 1e9 for part, size in row.items()} for name, row in rows.items()}
    title = f"{model.partition('/')[2] or model}: peak memory of a step"
    stacked_bars(gigabytes, PART_COLOURS, "GB", title, axes=axes, limits={f"{card} GB": card for card in CARDS})
    axes.get_yticklabels()[0].set_weight("bold")
