"""What passes of a model allocate, followed on short texts and tensors without memory (`zolab.models.allocations`)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from zolab.models.allocations import Allocations
from zolab.models.outline import outline
from zolab.runs.first_order import first_order

PASS = ("backward", "saved", "activations", "logits", "gradients", "states", "update")
"""What tensors are made for: in a backward pass; kept for one; in a forward pass that keeps none; logits and what is made of
them; gradients of weights; what an optimizer keeps; and its working memory."""
TEXTS, SHORT = 8, 61  # texts, and tokens of each: a prime, so that no activation is of a weight's size
FEW = 2  # layers that are followed, and one of them alone: the others are like it
SMALL = 1000  # bytes: a loss or a number of them, no logits


def followed(name: str, dtype: str, derivatives: bool = False, length: int = SHORT) -> np.ndarray:
    """What a forward pass of `TEXTS` texts allocates, the last token of each scored.

    Args:
        name, dtype: of the model, as `outline` takes them.
        derivatives: carry the derivative along a direction of the weights beside each value.
        length: tokens of each text.

    Returns:
        Bytes at the moments that may be the peak when texts are longer, int64 of shape (moments, `PASS`).
    """
    return _of_all_layers(name, dtype, partial(_followed, name, dtype, derivatives, length))


def differentiated(name: str, dtype: str, optimizer: str, own: tuple[tuple[str, Any], ...] = ()) -> np.ndarray:
    """The same of a step of a first-order method whose states are there.

    Args:
        name, dtype: of the model.
        optimizer, own: name and settings of the method, as `first_order` takes them.
    """
    return _of_all_layers(name, dtype, partial(_differentiated, name, dtype, optimizer, own))


def _of_all_layers(name: str, dtype: str, rows_of: Callable[[int], np.ndarray]) -> np.ndarray:
    """Moments of a model from those of a few of its layers, which are alike.

    Each further layer adds to the states of every moment; and to the saved activations of one in which its backward pass is yet
    to come, as a layer's is whose own are there, or to the gradients of one in which it is over, as with logits it is not.
    """
    layers = outline(name, dtype).config.num_hidden_layers
    rows = rows_of(min(layers, FEW))
    if layers <= FEW:
        return rows
    each = dict.fromkeys(PASS, 0)
    for part in ("saved", "gradients", "states"):
        each[part] = int(rows[:, PASS.index(part)].max() - rows_of(FEW - 1)[:, PASS.index(part)].max())
    to_come, over = (np.array([size * (part != left) for part, size in each.items()]) for left in ("gradients", "saved"))
    saved, logits = rows[:, PASS.index("saved")], rows[:, PASS.index("logits")]
    before, after = rows[saved >= each["saved"]], rows[logits <= SMALL]
    return np.concatenate([before + (layers - FEW) * to_come, after + (layers - FEW) * over])


@cache
def _followed(name: str, dtype: str, derivatives: bool, length: int, layers: int) -> np.ndarray:
    model = outline(name, dtype, layers)
    with _counted(model, length) as (counted, loss), torch.no_grad():
        if derivatives:
            _with_derivatives(model, counted, loss)
        else:
            loss("activations")
        return counted.peaks()


@cache
def _differentiated(name: str, dtype: str, optimizer: str, own: tuple[tuple[str, Any], ...], layers: int) -> np.ndarray:
    model = outline(name, dtype, layers)
    with _counted(model) as (counted, loss):
        method = first_order(optimizer, model, lr=1e-6, **dict(own))
        for rule in method.rules:
            rule.register_step_pre_hook(lambda *_: setattr(counted, "kind", "update"))
            rule.register_step_post_hook(lambda *_: setattr(counted, "kind", "backward"))
        for rule in method.rules:  # a step along anything makes its states
            for parameter in rule.param_groups[0]["params"]:
                parameter.grad = torch.empty_like(parameter)
            rule.step()
            rule.zero_grad()
            for tensor in (value for state in rule.state.values() for value in state.values() if torch.is_tensor(value)):
                counted.count(tensor, "states")
        counted.moments.clear()
        method.step(lambda: loss("saved"))
        return counted.peaks()


def _with_derivatives(model: PreTrainedModel, counted: Allocations, loss: Callable[[str], Tensor]) -> None:
    """A pass in which each weight has a tangent, as in `zolab.optim.forward_gradient`; the tangents themselves do not count."""
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        with counted.of("update"):
            for parameter in model.parameters():
                parameter.copy_(forward_ad.make_dual(parameter.detach(), torch.empty_like(parameter)))
        counted.live["update"] = 0
        counted.moments.clear()
        loss("activations")


@contextmanager
def _counted(model: PreTrainedModel, length: int = SHORT) -> Iterator[tuple[Allocations, Callable[[str], Tensor]]]:
    """Allocations inside the block, and the loss of texts, which is told what its body's tensors are for."""
    sizes, vocabulary = {parameter.numel() for parameter in model.parameters()}, model.config.vocab_size

    def sort(tensor: Tensor, kind: str) -> str:
        if kind != "backward":
            return kind
        return "gradients" if tensor.numel() in sizes else "logits" if tensor.shape[-1:] == (vocabulary,) else kind

    with next(model.parameters()).fake_mode:  # pyrefly: ignore[missing-attribute]  (of torch's fake tensors)
        ids, target = torch.zeros(TEXTS, length, dtype=torch.int64), torch.zeros(TEXTS, dtype=torch.int64)
        counted = Allocations(PASS, [*model.parameters(), *model.buffers(), ids, target], sort)
        head: Any = getattr(model, "lm_head", None) or model.get_output_embeddings()
        more = {"use_cache": False} if model.can_generate() else {}

        def loss(kind: str) -> Tensor:
            with counted.of(kind):
                hidden = model.base_model(input_ids=ids, **more).last_hidden_state[:, -1]
            with counted.of("logits"):
                return nn.functional.cross_entropy(head(hidden).float(), target)

        with counted:
            yield counted, loss
