"""The published bounds, as they are printed and with each correction by name (arXiv 2510.00419, appendix D).

Every function bounds the expected change of the loss in one step from above; the learning rate is `lr`.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

# What the printed sum over blocks can be corrected in, and what each correction puts there.
CORRECTIONS = {
    "noise": "V_j, the block's own gradient variance, where the last displays carry that of all blocks in each",
    "curvature": "l_j, the block's own operator norm, where one l of all blocks stands; with it l_j r_j = t_j",
    "dimension": "d_j in C(r_j), where d stands",
}


@dataclass(frozen=True)
class BoundTerms:
    """What the bounds depend on.

    Args:
        sizes: d_j, shape (blocks,), as all the following.
        squares: G_j = |grad_j L|^2.
        variances: V_j, trace of the covariance of one example's gradient.
        norms: l_j, largest eigenvalue of the Hessian's block in absolute value.
        ranks: r_j = t_j / l_j, effective rank.
        norm: l of the whole Hessian.
        rank: r = tr H / l.
        batch: B, examples in a minibatch.
    """

    sizes: np.ndarray
    squares: np.ndarray
    variances: np.ndarray
    norms: np.ndarray
    ranks: np.ndarray
    norm: float
    rank: float
    batch: int


def rank_factor(rank: float | np.ndarray, dimension: float | np.ndarray) -> float | np.ndarray:
    """C(r) = (d r + d - 2) / (d + 2) + 1 = d (r + 2) / (d + 2): how much a direction's noise costs beside a gradient's."""
    return dimension * (rank + 2) / (dimension + 2)


def mezo_bound(terms: BoundTerms, lr: float | np.ndarray) -> float | np.ndarray:
    """Theorem 2, for sigma = 1: -lr G + lr^2 l / 2 C(r) (G + V / B)."""
    g, v = terms.squares.sum(), terms.variances.sum()
    return -lr * g + lr**2 * terms.norm / 2 * rank_factor(terms.rank, terms.sizes.sum()) * (g + v / terms.batch)


def block_bound(
    terms: BoundTerms, sigma: np.ndarray, lr: float | np.ndarray, corrections: Collection[str] = ()
) -> float | np.ndarray:
    """Theorem 3: the sum over j of -lr s_j G_j + lr^2 s_j^2 l / 2 C(r_j) (G_j + V / B), s_j = sigma_j^2.

    It is proved for blocks that are probed and moved one after the other, with 2 forward passes each; the algorithm moves
    all at once, and its expected change can lie above the bound even when every correction is made.

    Args:
        terms: of the model.
        sigma: shape (blocks,).
        lr: learning rate, or several.
        corrections: names from `CORRECTIONS`; none is the bound as printed.

    Raises:
        ValueError: an unknown correction.
    """
    s, costs = np.square(sigma), _costs(terms, corrections)
    lr = np.asarray(lr)
    return -lr * (s @ terms.squares) + lr**2 / 2 * (s**2 @ costs)


def best_for_bound(
    terms: BoundTerms, lr: float, budget: bool = False, corrections: Collection[str] = tuple(CORRECTIONS)
) -> np.ndarray:
    """The sigma at which `block_bound` is lowest, in closed form.

    Without budget s_j = G_j / (lr k_j), with k_j = l C(r_j) (G_j + V / B). With sum_j d_j s_j = d it is
    s_j = max(0, (lr G_j - m d_j) / (lr^2 k_j)), m such that the budget holds: blocks are left out, the worst
    gradient for each weight first, until m fits the ones that are left.

    Raises:
        ValueError: lr is not positive, a block has curvature or noise of zero, or no block has a gradient.
    """
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}.")
    d, g, k = terms.sizes.astype(float), terms.squares, _costs(terms, corrections)
    if not (k > 0).all() or not (g > 0).any():
        raise ValueError("the bound has no lowest point: every block needs curvature, and one of them a gradient.")
    if not budget:
        return np.sqrt(g / (lr * k))
    order = np.argsort(-g / d)  # blocks enter in this order, since s_j > 0 where G_j / d_j > m / lr
    spent, square = np.cumsum((d * g / k)[order]) / lr, np.cumsum((d**2 / k)[order]) / lr**2
    multipliers = (spent - d.sum()) / square
    active = int(np.flatnonzero(lr * (g / d)[order] > multipliers)[-1])
    return np.sqrt(np.maximum(0, (lr * g - multipliers[active] * d) / (lr**2 * k)))


def _costs(terms: BoundTerms, corrections: Collection[str]) -> np.ndarray:
    """k_j of the bound as it is asked for."""
    if unknown := set(corrections) - set(CORRECTIONS):
        raise ValueError(f"unknown correction {', '.join(sorted(unknown))}; choose among {', '.join(CORRECTIONS)}.")
    noise = terms.variances if "noise" in corrections else np.full_like(terms.variances, terms.variances.sum())
    norm = terms.norms if "curvature" in corrections else np.full_like(terms.norms, terms.norm)
    factor = rank_factor(terms.ranks, terms.sizes if "dimension" in corrections else terms.sizes.sum())
    return norm * factor * (terms.squares + noise / terms.batch)
