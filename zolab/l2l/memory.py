"""Peak memory of a meta-training's step, predicted as that of other steps is (`zolab.runs.memory`)."""

import numpy as np

from zolab.l2l.config import MEASURED, MetaConfig
from zolab.runs.config import Config, require
from zolab.runs.memory import PARTS, Memory, Tokens, grown, in_place, peak, weights_of
from zolab.runs.passes import differentiated


def predicted_meta(config: MetaConfig, tokens: Tokens) -> Memory:
    """The peak of a meta-training's steps, what PertNN itself takes left out.

    Args:
        config: of the training: its model, dtype, device, momentum, fused, recompute, exact, gradient and eps count.
        tokens: of a batch.

    Raises:
        OSError: the model's configuration is not on this machine.
        ValueError: its gradient is of measured terms, which take passes of their own.
    """
    require(config.gradient not in MEASURED, f"gradient {config.gradient} measures terms first: memory is not predicted.")
    name, dtype, weights = config.model, config.dtype, sum(tensor.nbytes for tensor in weights_of(config.model, config.dtype))
    own = {"recompute": config.recompute, **({"momentum": config.momentum} if config.momentum else {})}
    ways = [{"fused": config.fused, **own}]  # the backward pass at the weights, with the model's own step
    if config.gradient in ("sample", "complete"):  # and that after a zeroth-order step, each gradient of which is used at once
        ways.append({"fused": True, **own})
    rows = [grown(differentiated(name, dtype, "sgd", tuple(way.items())), tokens) for way in ways]
    if not config.exact:
        velocity = np.array([weights * (part == "states" and config.momentum > 0) for part in PARTS], np.int64)
        rows.append(in_place(Config(name, dtype=dtype, device=config.device, eps=config.eps), tokens) + velocity)
    return peak(np.concatenate(rows), weights=weights)
