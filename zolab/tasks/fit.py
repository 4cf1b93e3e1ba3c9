"""Whether a model can be given packs of texts: its kind, its context, and that no text changes the scores of another."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zolab.models import context_of
from zolab.tasks.logits import causal_logits, masked_logits
from zolab.tasks.packing import Tokens, lay

_apart: WeakSet[PreTrainedModel] = WeakSet()
"""Models that were seen to keep packed texts apart."""
CARRYING = {"conv", "hybrid", "hybrid_sliding", "linear_attention", "mamba"}  # kinds of layers, as configurations name them
LEAK = 1e-4  # of a log-probability, by a stranger's text: attention masks it to the bit, only experts round otherwise
ELSEWHERE = {torch.float32: 0.01}  # by another place in a row: what rounding does, far below what wrong positions do
ELSEWHERE_IN_HALF = 1.0


def check_causal(model: PreTrainedModel) -> None:
    """Raise ValueError unless a model continues texts."""
    if not model.can_generate():
        kind = type(model).__name__
        raise ValueError(f"this task continues a text: it needs a causal language model, which {kind} is not.")


def check_fits(model: PreTrainedModel, longest: int, largest: int, masked: bool) -> None:
    """Raise ValueError unless a model scores packed texts as it scores each alone.

    Args:
        model: the model; whether it keeps texts apart is measured once for each model.
        longest: number of tokens of the longest text.
        largest: number of the token with the highest one.
        masked: whether a masked language model is wanted, instead of a causal one.
    """
    kind = type(model).__name__
    if not masked:
        check_causal(model)
    elif model.can_generate() or not hasattr(model, "lm_head"):
        raise ValueError(f"this task fills in a mask: it needs a RoBERTa-like masked language model, which {kind} is not.")
    attention = getattr(model.config, "_attn_implementation", "sdpa")
    if attention != "sdpa":  # "eager" would add a mask of zeros and ones to its scores, and be wrong without a word
        cure = "model.set_attn_implementation('sdpa')" if getattr(model, "_supports_sdpa", False) else "another model"
        raise ValueError(f"texts are packed for torch's attention, and {kind} uses {attention}; use {cure}.")
    if longest > (context := context_of(model)):
        raise ValueError(f"a text of {longest} tokens exceeds the {context} of {kind}; encode with max_length={context}.")
    if longest > (window := getattr(model.config, "sliding_window", None) or math.inf):  # the packs' mask has no window
        raise ValueError(f"a text of {longest} tokens exceeds the sliding window of {window}; encode with that max_length.")
    check_embedded(model, largest)
    if model not in _apart:
        _check_apart(model, masked)


def check_embedded(model: PreTrainedModel, largest: int) -> None:
    """Raise ValueError unless a model has a row of embeddings for a token of this number.

    A model may lack those of special tokens, as for pictures; a text becomes one where it spells its name.
    """
    if largest >= (rows := len(cast(nn.Embedding, model.get_input_embeddings()).weight)):
        raise ValueError(
            f"a text holds the token of number {largest}, and the model has {rows} rows of embeddings: take the special token "
            "out of the data, or use a model that knows it."
        )


def _check_apart(model: PreTrainedModel, masked: bool) -> None:
    """One short text after either of two others, and alone: a convolution or a recurrent state runs over their border.

    What a model says of itself comes first: an untrained state may be too small to be seen in half precision.
    """
    kind = type(model).__name__
    refusal = f"{kind} cannot score several texts in one row, as is done here"
    if getattr(model, "_is_stateful", False) or CARRYING & set(getattr(model.config, "layer_types", None) or ()):
        raise ValueError(f"{refusal}: it carries a state from one into the next; use a model of attention layers alone.")
    size = len(cast(nn.Embedding, model.get_input_embeddings()).weight)
    first, second, text = (tuple((start + 7 * k) % size for k in range(4)) for start in (11, 101, 200))
    with torch.no_grad(), _in_eval_mode(model):
        try:
            alone, *packed = (_last(model, texts, masked) for texts in ([text], [first, text], [second, text]))
        except (IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{refusal} ({str(error)[:100]}); use another model.") from error
    leak, off = _distance(packed[0], packed[1]), _distance(packed[0], alone)
    if leak > LEAK or off > ELSEWHERE.get(alone.dtype, ELSEWHERE_IN_HALF):
        raise ValueError(f"{refusal}: what stands before a text changes its scores by {max(leak, off):.1e}; use another model.")
    if math.isfinite(leak + off):  # else nothing was seen, and the caller's losses will tell
        _apart.add(model)


def _last(model: PreTrainedModel, texts: list[Tokens], masked: bool) -> Tensor:
    """Logits at all tokens of the last of some texts in one row."""
    laid, nodes = lay([texts], causal=not masked)
    alike = torch.zeros(1, dtype=torch.long)  # the row counts as the first example's, should that matter to whoever looks on
    part = laid._replace(places=torch.tensor(nodes[-1]), examples=alike).to(next(model.parameters()).device)
    return (masked_logits if masked else causal_logits)(model, part)


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference of two log-probabilities."""
    return float((a.float().log_softmax(-1) - b.float().log_softmax(-1)).abs().max())


@contextmanager
def _in_eval_mode(model: PreTrainedModel) -> Iterator[None]:
    """Without dropout, which would make any two passes differ."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
