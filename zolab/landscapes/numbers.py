"""The methods in plain numbers: what an optimizer does to all weights of a model, done to two, in float64 and without torch.

A step takes a fiftieth of an optimizer's time, so that a panel can walk thousands while a slider moves. Each method is a
function of its learning rate and of `draw`, where the directions come from, and returns a function that takes a step: that gets
the number of the step and `slope`, which measures the slope along a direction, and says how the point changes.
"""

import math
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from operator import mul

import numpy as np

from zolab.landscapes.functions import Landscape, Point
from zolab.landscapes.walk import Descent, check_steps, stopped_in, value_at
from zolab.noise import Direction, direction
from zolab.optim.zo_adamu import Mix, annealed, check_phases

Draw = Callable[..., Point]
"""(step, sample = 0) to the direction with this address."""
Step = Callable[[int, Callable], Point]
MIX = Mix(0.5, 0.9, 0.01)
AHEAD = 256  # directions that are made at once


def sgd(lr: float) -> Step:
    """Down the gradient, which `slope()` gives."""

    def step(number: int, slope: Callable) -> Point:
        g = slope()
        return -lr * g[0], -lr * g[1]

    return step


def adam(lr: float) -> Step:
    """Adam (arXiv 1412.6980) with torch's settings."""
    change = _adam(lr)
    return lambda number, slope: change(number, slope())


def mezo(lr: float, draw: Draw) -> Step:
    """MeZO (arXiv 2305.17333): - lr p z."""

    def step(number: int, slope: Callable) -> Point:
        z = draw(number)
        p = slope(z)
        return -lr * p * z[0], -lr * p * z[1]

    return step


def mezo_momentum(lr: float, draw: Draw, momentum: float = 0.9) -> Step:
    """Heavy-ball momentum on p z."""
    m = [0.0, 0.0]

    def step(number: int, slope: Callable) -> Point:
        z = draw(number)
        p = slope(z)
        m[:] = (momentum * m_i + p * z_i for m_i, z_i in zip(m, z, strict=True))
        return -lr * m[0], -lr * m[1]

    return step


def mezo_adam(lr: float, draw: Draw) -> Step:
    """Adam on p z, its moments stored."""
    change = _adam(lr)

    def step(number: int, slope: Callable) -> Point:
        z = draw(number)
        p = slope(z)
        return change(number, (p * z[0], p * z[1]))

    return step


def adamezo(lr: float, draw: Draw, betas: tuple[float, float] = (0.7, 0.9), horizon: int = 10, delta: float = 1e-8) -> Step:
    """AdaMeZO (arXiv 2605.00650) in the paper's scaling: moments of the last `horizon` steps."""
    past = deque(maxlen=horizon), deque(maxlen=horizon)  # of each coordinate's p z, the latest first
    first, second = ([beta**k * (1 - beta) for k in range(horizon)] for beta in betas)

    def step(number: int, slope: Callable) -> Point:
        z = draw(number)
        p = slope(z)
        changes = []
        for one, z_i in zip(past, z, strict=True):
            one.appendleft(p * z_i)
            m, v = sum(map(mul, first, one)), sum(w * g * g for w, g in zip(second, one, strict=False))
            changes.append(-lr * m / math.sqrt(v + delta))
        return changes[0], changes[1]

    return step


def meazo(lr: float, draw: Draw, beta: float = 0.99, delta: float = 1e-8) -> Step:
    """MEAZO (arXiv 2605.03869): p over the root of its own mean square."""
    v = 0.0

    def step(number: int, slope: Callable) -> Point:
        nonlocal v
        z = draw(number)
        p = slope(z)
        v = beta * v + (1 - beta) * p * p
        length = lr * p / (math.sqrt(v / (1 - beta ** (number + 1))) + delta)
        return -length * z[0], -length * z[1]

    return step


def zo_adamu(lr: float, draw: Draw, phases: tuple[int, int, int], mix: Mix = MIX, delta: float = 1e-8) -> Step:
    """ZO-AdaMU (arXiv 2312.15184, Algorithm 1): a probed direction that has momentum of its own.

    Raises:
        ValueError: the cosine has no such phases.
    """
    check_phases(phases)
    m = [0.0, 0.0]

    def step(number: int, slope: Callable) -> Point:
        alpha, beta1, beta2 = annealed(number, mix, phases)
        fresh = [math.sqrt(alpha) * z for z in draw(number)]
        drift = [m_i + math.sqrt(1 - alpha) * z for m_i, z in zip(m, draw(number, 1), strict=True)]
        m[:] = (beta1 * a + (1 - beta1) * b for a, b in zip(fresh, drift, strict=True))
        p = slope((m[0], m[1]))
        roots = [math.sqrt(beta2 * a * a + (1 - beta2) * b * b + delta) for a, b in zip(fresh, drift, strict=True)]
        return -lr * p * m[0] / roots[0], -lr * p * m[1] / roots[1]

    return step


def take(step: Step, landscape: Landscape, steps: int, eps: float = 0.0) -> Descent:
    """Take steps of a method on a landscape.

    Args:
        step: as a method here gives it.
        landscape: where; the walk begins at its start.
        steps: how many, >= 1.
        eps: radius of the probe, two evaluations a step; 0 hands the method the exact gradient.

    Returns:
        The walk, in float64. It ends where f is NaN or infinite, and then `stopped` says so.

    Raises:
        ValueError: steps are fewer than 1.
    """
    check_steps(steps)
    place = tuple(float(np.float32(at)) for at in landscape.start)
    positions = [place]

    def slope(u: Point) -> float:
        (x, y), (a, b) = place, u
        plus, minus = landscape(x + eps * a, y + eps * b), landscape(x - eps * a, y - eps * b)
        if not math.isfinite(plus - minus):
            side = 1 if not math.isfinite(plus) else -1
            raise FloatingPointError(value_at(x + side * eps * a, y + side * eps * b, plus if side == 1 else minus))
        return (plus - minus) / (2 * eps)

    see, stopped = slope if eps else lambda: landscape.gradient(*place), None
    for number in range(steps):
        try:
            change = step(number, see)
        except (ArithmeticError, ValueError) as error:  # the root of a number beyond float64 has no value
            stopped = stopped_in(number + 1, steps, error)
            break
        place = place[0] + change[0], place[1] + change[1]
        positions.append(place)
    walked = np.array(positions)
    with np.errstate(all="ignore"):
        losses = np.asarray(landscape(*walked.T), float)
    bad = np.flatnonzero(~(np.isfinite(losses) & np.isfinite(walked).all(1)))
    if len(bad):
        end = int(bad[0])
        stopped = stopped_in(end, steps, value_at(walked[end, 0], walked[end, 1], losses[end]))
        walked, losses = walked[:end], losses[:end]
    passes = np.arange(len(walked))
    return Descent(walked, losses, passes * (2 if eps else 1), passes * (0 if eps else 1), stopped)


def draws(seed: int, blocks: tuple[int, ...]) -> Draw:
    """The directions of a seed, those that an optimizer would make for parameters of these blocks.

    Args:
        seed: of the optimizer.
        blocks: sizes of the parameters, (2,) or (1, 1).
    """

    def draw(step: int, sample: int = 0) -> Point:
        return _drawn(seed, blocks, sample, step // AHEAD)[step % AHEAD]

    return draw


def given(directions: tuple[Point, ...]) -> Draw:
    """These directions in turn."""
    return lambda step, sample=0: directions[(step + sample) % len(directions)]


@lru_cache(maxsize=512)
def _drawn(seed: int, blocks: tuple[int, ...], sample: int, part: int) -> list[Point]:
    names = (Direction(seed, step, sample) for step in range(part * AHEAD, (part + 1) * AHEAD))
    return [tuple(x for j, size in enumerate(blocks) for x in direction(name, j, size).tolist()) for name in names]


def _adam(lr: float, betas: tuple[float, float] = (0.9, 0.999), delta: float = 1e-8) -> Callable[[int, Point], Point]:
    (beta1, beta2), m, v = betas, [0.0, 0.0], [0.0, 0.0]

    def change(number: int, g: Point) -> Point:
        changes = []
        for i, g_i in enumerate(g):
            m[i] = beta1 * m[i] + (1 - beta1) * g_i
            v[i] = beta2 * v[i] + (1 - beta2) * g_i * g_i
            root = math.sqrt(v[i] / (1 - beta2 ** (number + 1))) + delta
            changes.append(-lr * m[i] / (1 - beta1 ** (number + 1)) / root)
        return changes[0], changes[1]

    return change
