"""One forward pass of a model over a pack of texts, with logits only where they are needed."""

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar, copy_context
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from zolab.models import first_position
from zolab.noise import ROWS, rows_of
from zolab.tasks.packing import Pack

_places: ContextVar[Tensor | None] = ContextVar("places", default=None)
"""The tokens whose logits the pass under way needs."""


def causal_logits(model: PreTrainedModel, part: Pack) -> Tensor:
    """Logits at the places of a pack, of shape (places, tokens of the vocabulary)."""
    head = model.get_output_embeddings()
    assert head is not None  # of a causal model
    if _choose not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_choose)
    inputs = {"input_ids": part.input_ids, "position_ids": part.position_ids, "attention_mask": part.attention_mask}
    # The hook stays and does nothing outside this context, which ends with the pass whatever interrupts it: a hook that is
    # taken off again can be left behind by a second interrupt.
    context = copy_context()
    context.run(_places.set, part.places)
    if part.examples is not None:
        context.run(ROWS.set, part.examples)
    logits = context.run(model, **inputs, use_cache=False).logits
    if logits.dim() != 2:  # else wrong rows would be read below, without a word
        raise ValueError(
            f"{type(model).__name__} does not make its logits with its output embeddings alone; use another model."
        )
    return logits


def masked_logits(model: PreTrainedModel, part: Pack) -> Tensor:
    """The same of a RoBERTa-like masked model."""
    positions = part.position_ids + first_position(model)
    inputs = {"input_ids": part.input_ids, "position_ids": positions, "attention_mask": part.attention_mask}
    if part.examples is None:
        return model.lm_head(model.base_model(**inputs).last_hidden_state.flatten(0, 1)[part.places])
    with rows_of(part.examples):
        hidden = model.base_model(**inputs).last_hidden_state
    with rows_of(_of_places(part.examples, part.places, hidden)):
        return model.lm_head(hidden.flatten(0, 1)[part.places])


def autocasting(enabled: bool, device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast if wanted, without its cache: that would keep a copy of all weights, stale after they moved."""
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False) if enabled else nullcontext()


def _choose(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Let the head see the needed tokens alone; of rows of tokens, so that a second call of this hook changes nothing."""
    places, examples = _places.get(), ROWS.get()
    if places is None or inputs[0].dim() != 3:
        return None
    if examples is not None:  # for the rest of the pass's context, in which nothing comes after the head
        ROWS.set(_of_places(examples, places, inputs[0]))
    return (inputs[0].flatten(0, 1)[places],)


_choose.reads_only_inputs = True  # pyrefly: ignore[missing-attribute]  # a probe need not show it a moved weight


def _of_places(examples: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
    """The example of each place in rows of hidden states."""
    return examples[(places // hidden.shape[1]).cpu()]
