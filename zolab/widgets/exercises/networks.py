"""Exercises of notebook 07."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from zolab.pertnn import PertNN, features
from zolab.probe.blocks import Blocks, split
from zolab.theory.terms import StepTerms
from zolab.widgets.exercises.entry import Entry, need

NETWORKS = 20_000


def without_budget(terms: StepTerms, steep: float, flat: float) -> tuple[bool, str]:
    """`terms` of section 1, and each block's learning rate with free scales over the best one of sigma = 1."""
    free = terms.best_sigma()  # at its best rate the budget only fixes the common factor
    measured = terms.best_lr(free) * free**2 / terms.best_lr(np.ones(len(terms.sizes)))
    now = f"you say {steep:.2f} and {flat:.2f}, the optimum says {measured[0]:.2f} and {measured[1]:.2f}"
    return bool(np.abs(measured - (steep, flat)).max() < 0.05), now


def lottery_width(width: float) -> tuple[bool, str]:
    names = tuple(map(str, range(NETWORKS)))
    blocks = Blocks(names, (1,) * NETWORKS, names, tuple(range(NETWORKS)), (1,) * NETWORKS, {})
    still = np.zeros(NETWORKS)
    with torch.no_grad():
        raw = PertNN(blocks)(features(still, still, (0.0, 0.0), np.ones(NETWORKS)))
    measured = float(raw.square().mean().sqrt())
    return abs(width / measured - 1) < 0.03, f"you say {width:.4f}, {NETWORKS:,} untrained networks say {measured:.4f}"


def by_layer(model: nn.Module, blocks: int, share: float) -> tuple[bool, str]:
    """A model, the number of its blocks by the rule "layer", and the share of all weights in the largest one."""
    need(type(blocks) is int and 0 < share < 1, "give a whole number of blocks, and a share between 0 and 1.")
    partition = split(model, "layer")
    largest = max(partition.sizes) / sum(partition.sizes)
    now = f"you say {blocks} blocks and {share:.1%}, the rule gives {len(partition)} and {largest:.1%}"
    return blocks == len(partition) and abs(share - largest) < 0.01, now


NETS: dict[str, Sequence[Entry]] = {
    "07": (
        (
            *(
                "Layers",
                1,
                5,
                "the number of blocks that the rule gives, and the largest one's share of the weights within a point",
            ),
            *("a numbered layer is one block, and what stands outside of layers is a block a tensor", by_layer),
        ),
        (
            *(
                "No budget",
                2,
                15,
                "the learning rates that free scales give to both blocks, over the best one of σ = 1, within 0.05",
            ),
            *(
                "the change depends on v = η s alone: go down its slope in v, which cannot become negative",
                without_budget,
            ),
        ),
        (
            *(
                "The width of the lottery",
                3,
                20,
                "the root mean square of raw σ of untrained networks at the first step, within 3 %",
            ),
            *(
                "the squares of 64 products w2 tanh(w + b) add up; U(-a, a) has variance a² / 3; average tanh² over draws",
                lottery_width,
            ),
        ),
    ),
}
