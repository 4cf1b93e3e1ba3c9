"""What one zeroth-order step is expected to change, exactly, when all blocks move at once; and the best scales.

In the limit of small eps, with z ~ N(0, I), u_j = sigma_j z_j, s_j = sigma_j^2, D = diag(s_j I), gradient g_B of a random
minibatch and a quadratic loss with Hessian H, the fourth moments of the normal distribution give

    E[L(theta - lr (u'g_B) u)] - L = -lr sum_j s_j G_j + lr^2/2 [(sum_j s_j A_j)(sum_k s_k t_k) + 2 sum_jk s_j s_k Q_jk]

    G_j = |g_j|^2,  A_j = E|g_B,j|^2,  t_j = tr H_jj,  Q_jk = E[g_B,j' H_jk g_B,k]

The blocks do not separate: the slope is made in all of them, and multiplies the noise of each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import minimize


@dataclass(frozen=True)
class StepTerms:
    """What the expected change depends on, an entry a block.

    Args:
        sizes: d_j, number of weights, shape (blocks,).
        squares: G_j, squared norm of the gradient's part, shape (blocks,).
        seconds: A_j, expected squared norm of a minibatch's gradient; G_j without minibatch noise.
        traces: t_j, trace of the Hessian's block.
        curvatures: Q_jk, shape (blocks, blocks), or (blocks,) for a block-diagonal Hessian.
    """

    sizes: np.ndarray
    squares: np.ndarray
    seconds: np.ndarray
    traces: np.ndarray
    curvatures: np.ndarray

    @classmethod
    def isotropic(cls, sizes: np.ndarray, squares: np.ndarray, variances: np.ndarray, norms: np.ndarray) -> "StepTerms":
        """Of blocks whose Hessians are multiples of the identity.

        Args:
            sizes, squares: as of the class.
            variances: of a minibatch's gradient, A_j - G_j, shape (blocks,).
            norms: those multiples, shape (blocks,).
        """
        seconds = squares + variances
        return cls(sizes, squares, seconds, norms * sizes, norms * seconds)

    @cached_property
    def matrix(self) -> np.ndarray:
        """Q as a symmetric matrix."""
        q = np.asarray(self.curvatures, dtype=float)
        return np.diag(q) if q.ndim == 1 else (q + q.T) / 2

    def gain(self, sigma: np.ndarray) -> np.ndarray:
        """sum_j s_j G_j: the descent for each unit of learning rate. sigma has shape (..., blocks)."""
        return np.square(sigma) @ self.squares

    def noise(self, sigma: np.ndarray) -> np.ndarray:
        """The bracket: twice the ascent for each unit of squared learning rate."""
        s = np.square(sigma)
        return (s @ self.seconds) * (s @ self.traces) + 2 * np.einsum("...j,jk,...k", s, self.matrix, s)

    def noise_slope(self, sigma: np.ndarray) -> np.ndarray:
        """Derivative of `noise` in each s_j = sigma_j^2, for one sigma of shape (blocks,)."""
        return _noise(self.seconds, self.traces, self.matrix, np.square(sigma))[1]

    def change(self, sigma: np.ndarray, lr: float | np.ndarray) -> np.ndarray:
        """Expected change of the loss in one step."""
        return -lr * self.gain(sigma) + np.square(lr) / 2 * self.noise(sigma)

    def best_lr(self, sigma: np.ndarray) -> np.ndarray:
        """The learning rate with the largest expected descent; infinite where the expected loss falls without end."""
        gain, noise = self.gain(sigma), self.noise(sigma)
        endless = np.where((noise < 0) | (gain > 0), np.inf, 0.0)
        return np.where(noise > 0, gain / np.where(noise > 0, noise, 1), endless)[()]

    def best_change(self, sigma: np.ndarray) -> np.ndarray:
        """Expected change at `best_lr`."""
        lr = self.best_lr(sigma)
        endless = np.isinf(lr)
        return np.where(endless, -np.inf, -np.where(endless, 0, lr) * self.gain(sigma) / 2)[()]

    def on_budget(self, sigma: np.ndarray) -> np.ndarray:
        """sigma, scaled so that sum_j d_j sigma_j^2 = sum_j d_j."""
        return sigma * np.sqrt(self.sizes.sum() / (np.square(sigma) @ self.sizes))[..., None]

    def best_sigma(self, lr: float | None = None) -> np.ndarray:
        """The scales with the largest expected descent that keep the budget sum_j d_j sigma_j^2 = sum_j d_j.

        Args:
            lr: the learning rate, > 0; None chooses the best for each sigma. The budget then only fixes the common factor of
                sigma, which the learning rate undoes: it is the optimum without budget, too.

        Raises:
            ValueError: no block has a gradient, a statistic is not finite, or lr is not positive; or without lr, the curvature
                is zero or negative along some sigma.
        """
        if lr is not None and not lr > 0:
            raise ValueError(f"lr must be > 0, got {lr}.")
        check_finite(self)
        shares = self.squares > 0
        if not shares.any():
            raise ValueError("no block has a gradient: every sigma is as good; measure at a point that is not a minimum.")
        # Unknowns y_j = d_j s_j / d, shares of the budget: they are all of one size, and sum to one.
        scale = np.where(shares, self.sizes.sum() / self.sizes, 0.0)
        g, a, t = self.squares * scale, self.seconds * scale, self.traces * scale
        q = self.matrix * np.outer(scale, scale)

        def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = _noise(a, t, q, y)
            if lr is not None:
                return float(lr**2 / 2 * value - lr * (g @ y)) / unit, (lr**2 / 2 * slope - lr * g) / unit
            if value <= 0:
                raise ValueError(
                    "the expected loss falls without end along some sigma: use Gauss-Newton curvatures that are not zero, or "
                    "give lr."
                )
            # log of noise / gain^2, whose least is where the descent gain^2 / (2 noise) is largest
            return float(np.log(value) - 2 * np.log(g @ y)), slope / value - 2 * g / (g @ y)

        even = np.where(shares, self.sizes, 0.0) / self.sizes[shares].sum()
        unit = max(abs(lr * (g @ even)), lr**2 * abs(_noise(a, t, q, even)[0])) if lr is not None else 1.0
        alone = np.where(shares, g**2 / np.maximum(a * t + 2 * np.diag(q), 1e-300), 0.0)
        starts = [even] + [_simplex(np.where(shares, w, 0.0)) for w in (g, g / np.maximum(t, 1e-12 * t.max()), alone)]
        starts += [0.1 * even + 0.9 * vertex for vertex in np.eye(len(g))[np.argsort(-alone)[:5]]]
        return np.sqrt(scale * _least(objective, starts, [(0.0, 1.0 if share else 0.0) for share in shares]))


def check_finite(terms: StepTerms) -> None:
    """Raise ValueError unless every statistic is a finite number: no scales follow from others."""
    for name in ("squares", "seconds", "traces", "curvatures"):
        values = np.asarray(getattr(terms, name))
        if len(bad := np.argwhere(~np.isfinite(values))):
            raise ValueError(f"{name} of block {bad[0][0]} are {values[tuple(bad[0])]}: measure in float32, or other examples.")


def shared_sigma(terms: Sequence[StepTerms]) -> np.ndarray:
    """One sigma for several tasks: the largest product over them of the expected descents, each at its own best learning rate.

    Args:
        terms: of each task, the blocks being the same; negative G count as 0, and so do negative A, which few examples leave.

    Returns:
        On the budget, shape (blocks,); ones where no task has a gradient and curvature.

    Raises:
        ValueError: a statistic is not finite.
    """
    for each in terms:
        check_finite(each)
    sizes = terms[0].sizes
    scale = sizes.sum() / sizes
    parts = []
    for t in terms:
        squares, seconds = np.maximum(t.squares, 0), np.maximum(t.seconds, 0)
        parts.append((squares * scale, seconds * scale, t.traces * scale, t.matrix * np.outer(scale, scale)))
    parts = [(g, a, t, q) for g, a, t, q in parts if g.any() and (t.any() or q.any())]
    if not parts:
        return np.ones(len(sizes))

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        total, slope = 0.0, np.zeros(len(y))
        for g, a, t, q in parts:
            value, own = _noise(a, t, q, y)
            total += np.log(value) - 2 * np.log(g @ y)
            slope += own / value - 2 * g / (g @ y)
        return float(total), slope

    even = sizes / sizes.sum()
    starts = [even] + [
        _simplex(1e-3 * even + w / w.sum()) for w in (g / np.maximum(t, 1e-12 * t.max()) for g, _, t, _ in parts)
    ]
    return np.sqrt(scale * _least(objective, starts, [(1e-9, 1.0)] * len(sizes)))


def _noise(a: np.ndarray, t: np.ndarray, q: np.ndarray, s: np.ndarray) -> tuple[float, np.ndarray]:
    """(sum a s)(sum t s) + 2 s'Qs and its slope in s, for a symmetric Q."""
    return float((a @ s) * (t @ s) + 2 * s @ q @ s), a * (t @ s) + t * (a @ s) + 4 * q @ s


def _least(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]], starts: Sequence[np.ndarray], bounds: list[tuple[float, float]]
) -> np.ndarray:
    """Shares that sum to one with the least value of an objective, which gives its slope too; the best of several starts."""
    options = {"method": "SLSQP", "bounds": bounds, "jac": True, "options": {"maxiter": 500, "ftol": 1e-12}}
    options |= {"constraints": {"type": "eq", "fun": lambda y: y.sum() - 1, "jac": np.ones_like}}
    best = min((minimize(objective, start, **options) for start in starts), key=lambda result: result.fun)
    return _simplex(np.maximum(best.x, 0))


def _simplex(y: np.ndarray) -> np.ndarray:
    return y / y.sum()
