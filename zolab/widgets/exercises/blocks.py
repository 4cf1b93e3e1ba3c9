"""Exercises of notebooks 06 and 08: blocks of a model, each with a scale of its own."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from zolab.theory.measure import BlockStatistics
from zolab.widgets.exercises.entry import Entry, need


def more_probes(stat: BlockStatistics, n: float) -> tuple[bool, str]:
    """The statistics of the record, and the number of probes."""
    j = next(j for j, name in enumerate(stat.names) if "embed_tokens" in name)
    trace, error = abs(float(stat.traces[j])), float(stat.errors[j]) * (stat.probes / n) ** 0.5
    return abs(error / (0.1 * trace) - 1) < 0.05, f"{n:,.0f} probes leave a standard error of {error / trace:.2f} of the trace"


def larger_part(first: Sequence[float], second: Sequence[float]) -> tuple[bool, str]:
    """Eigenvalues of two blocks."""
    one, other = (np.abs(np.array(values, float)) for values in (first, second))
    need(
        min(len(one), len(other)) > 0 and len(one) + len(other) <= 50,
        "give at least one eigenvalue of each, 50 in all at most.",
    )
    whole = np.concatenate((one, other))
    need(bool(np.isfinite(whole).all() and one.max() > 0 and other.max() > 0), "each block needs an eigenvalue that is not 0.")
    rank, parts = whole.sum() / whole.max(), [block.sum() / block.max() for block in (one, other)]
    return bool(max(parts) >= 10 * rank), f"r = {rank:.2f}, and of the blocks {parts[0]:.2f} and {parts[1]:.2f}"


def best_rate(rate: Callable[[np.ndarray, np.ndarray, np.ndarray], float]) -> tuple[bool, str]:
    """A function of the gradient, the Hessian and the squared scale of each weight."""
    rng, met, messages = np.random.default_rng(0), True, []
    for scales in (np.ones(4), np.array([2.0, 0.5, 1.0, 0.1])):
        g, root = rng.normal(size=4), rng.normal(size=(4, 4))
        hessian = root @ root.T
        u = rng.normal(size=(400_000, 4)) * np.sqrt(scales)
        slope = u @ g
        measured = (slope**2).mean() / (slope**2 * np.einsum("ni,ij,nj->n", u, hessian, u)).mean()
        answer = rate(g, hessian, scales)
        met &= bool(abs(answer / measured - 1) < 0.03)
        messages.append(f"you say {answer:.4f}, 400,000 steps say {measured:.4f}")
    return met, "; ".join(messages)


def directions_needed(n: Callable[[float], float]) -> tuple[bool, str]:
    """A function of the block's share q of the squared gradient, at sigma = 1."""
    rng, met, messages = np.random.default_rng(0), True, []
    for q in (0.1, 0.5):
        mine, rest = (rng.normal(size=1_000_000) * part**0.5 for part in (q, 1 - q))
        slope = mine * (mine + rest)
        measured = float((2 * slope.std() / slope.mean()) ** 2)
        met &= bool(abs(n(q) / measured - 1) < 0.05)
        messages.append(f"q = {q:g}: you say {n(q):.1f}, a million directions say {measured:.1f}")
    return met, "; ".join(messages)


def held_constant(ratio: float) -> tuple[bool, str]:
    rng, lr = np.random.default_rng(0), 1e-6
    hessian, theta, z = np.diag([3.0, 1.0, 0.2]), rng.normal(size=3), rng.normal(size=3)

    def after(sigma: np.ndarray, p: float) -> float:
        moved = theta - lr * p * sigma * z
        return float(moved @ hessian @ moved / 2)

    def slope(follows: bool) -> np.ndarray:
        ends, fixed = [], float(theta @ hessian @ z)
        for j in range(3):
            sides = [np.ones(3) + side * 0.5 * np.eye(3)[j] for side in (1, -1)]
            plus, minus = (after(s, float(theta @ hessian @ (s * z)) if follows else fixed) for s in sides)
            ends.append(plus - minus)
        return np.array(ends)

    measured = float(np.linalg.norm(slope(True)) / np.linalg.norm(slope(False)))
    return abs(ratio / measured - 1) < 0.05, f"you say {ratio:g}, on a quadratic it is {measured:.3f}"


def enough_seeds(differences: Sequence[float], n: int) -> tuple[bool, str]:
    """Differences paired by seed, and how many such seeds it would take."""
    values = np.array(differences, float)
    need(len(values) > 1 and type(n) is int and n > 2, "give two or more differences, and a whole number of seeds above 2.")

    def half(seeds: int) -> float:
        return float(stats.t.ppf(0.975, seeds - 1) * values.std(ddof=1) / seeds**0.5)

    now = f"{n} seeds give {values.mean():+.3f} ± {half(n):.3f}, one less ± {half(n - 1):.3f}"
    return bool(half(n) < abs(values.mean()) <= half(n - 1)), now


BLOCKS: dict[str, Sequence[Entry]] = {
    "06": (
        (
            *("More probes", 1, 10, "the probes for a standard error of a tenth of the embedding's trace, within 5 %"),
            *("a standard error falls with the root of the number of probes", more_probes),
        ),
        (
            *(
                "A part larger than the whole",
                1,
                10,
                "two blocks of 50 weights in all, one of them of ten times the rank of both",
            ),
            *("one steep direction sets the norm of the whole; what has many flat ones?", larger_part),
        ),
        (
            *(
                "The best rate",
                3,
                20,
                "the learning rate at which a step along u, of scales s, lowers a parabola most, within 3 %",
            ),
            *("the parabola of section 3 has its lowest point at a / b; g^T D H D g stands there twice", best_rate),
        ),
    ),
    "08": (
        (
            *(
                "How many directions?",
                2,
                10,
                "the directions until a block's mean slope is two standard errors from zero, within 5 %",
            ),
            *("signal over noise is sqrt(q / (1 + q)), and grows with the root of the number of directions", directions_needed),
        ),
        (
            *(
                "What is held constant",
                1,
                10,
                "the length of the gradient with p's dependence over that without, for short steps",
            ),
            *("p is linear in sigma: the product rule meets the same product a second time", held_constant),
        ),
        (
            *(
                "How many seeds?",
                2,
                15,
                "the least number of seeds at which the t interval would leave out zero, spread unchanged",
            ),
            *("the half width is t(0.975, n - 1) s / sqrt(n), and t itself falls with n", enough_seeds),
        ),
    ),
}
