"""The recipes of the shipped small models."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """What decides the weights: the model's sizes, and how it is trained.

    Args:
        vocabulary, width, layers, heads, inner, context: sizes of the LLaMA; heads share nothing, embeddings are tied.
        row: tokens in a row; `rows`: rows in a batch; `steps`: batches.
        lr: its highest value, reached after `warm_up` steps and kept until the last `decay` of them, when it falls to zero.
        weight_decay: of matrices.
        plain: share of rows that are plain text alone (it also fills what questions leave of theirs).
        seed: of weights and texts.
    """

    vocabulary: int = 2048
    width: int = 128
    layers: int = 2
    heads: int = 4
    inner: int = 320
    context: int = 256
    row: int = 128
    rows: int = 16
    steps: int = 4500
    lr: float = 4e-3
    warm_up: int = 100
    decay: float = 0.6
    weight_decay: float = 0.1
    plain: float = 0.15
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.seed < 0:
            raise ValueError(f"steps must be at least 1 and seed at least 0, got {self.steps} and {self.seed}.")


RECIPES = {"tiny-reviews": Recipe(), "tiny-reviews-critic": Recipe(steps=400, lr=1e-3, seed=1)}
