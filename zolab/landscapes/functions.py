"""The landscapes: functions of two variables with known minima."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float]
_TINY = 1e-30


@dataclass(frozen=True)
class Protocol:
    """How AdaMeZO's figure walks on a landscape (arXiv 2605.00650, and the notebook published with it).

    Args:
        steps: of every method.
        lr_adam: learning rate of Adam, which sees exact gradients.
        lr: learning rate of MeZO and AdaMeZO.
        lengths: published length of each method's path, by class name.
        eps: radius of the probes.
        betas, horizon: of AdaMeZO.
        directions: the only two directions, used in turn.
    """

    steps: int
    lr_adam: float
    lr: float
    lengths: dict[str, float]
    eps: float = 1e-3
    betas: tuple[float, float] = (0.7, 0.9)
    horizon: int = 20
    directions: tuple[Point, ...] = ((1.5409961, -0.2934289), (0.6613521, 0.2669241))


@dataclass(frozen=True)
class Landscape:
    """A function of two variables, where it is lowest, where to begin and where to look.

    Args:
        title: for plots.
        formula: in LaTeX.
        function: f(x, y) in plain arithmetic, so that numbers (complex ones too), arrays and tensors go through it; |u| is
            `magnitude(u)`.
        minima: where f is lowest.
        minimum: the value of f there.
        start: where walks begin.
        window: ((left, right), (bottom, top)) of a plot.
        blocks: sizes of the parameter blocks: (2,), both coordinates in one, or (1, 1).
        protocol: the published walk, if there is one.

    Raises:
        ValueError: the blocks are others, or the start or a minimum lies outside the window.
    """

    title: str
    formula: str
    function: Callable[[Any, Any], Any]
    minima: tuple[Point, ...]
    minimum: float
    start: Point
    window: tuple[Point, Point]
    blocks: tuple[int, ...] = (2,)
    protocol: Protocol | None = None

    def __post_init__(self):
        if self.blocks not in ((2,), (1, 1)):
            raise ValueError(f"{self.title}: blocks must be (2,) or (1, 1), got {self.blocks}.")
        for point in (self.start, *self.minima):
            if not all(low <= at <= high for at, (low, high) in zip(point, self.window, strict=True)):
                raise ValueError(f"{self.title}: {point} lies outside the window {self.window}; widen the window.")

    def __call__(self, x: Any, y: Any) -> Any:
        """f(x, y): a number from numbers (NaN where f has none), an array from arrays, a tensor from tensors."""
        try:
            value = self.function(x, y)
        except (OverflowError, ZeroDivisionError):
            return math.nan
        return math.nan if isinstance(value, complex) else value  # Python's roots of negative numbers

    def gradient(self, x: float, y: float) -> Point:
        """The exact gradient at a point: Im f(x + ih) / h has no difference to round (Squire and Trapp, SIAM Review 1998).

        Raises:
            ValueError: f is not in plain arithmetic, so that complex numbers do not go through it.
        """
        try:
            exact = self.function(complex(x, _TINY), y).imag / _TINY, self.function(x, complex(y, _TINY)).imag / _TINY
        except (OverflowError, ZeroDivisionError):
            return math.nan, math.nan
        except TypeError as error:
            raise ValueError(f"{self.title} has no gradient here ({error}); write f in plain arithmetic.") from error
        return exact


def magnitude(u: Any) -> Any:
    """|u|, also for numbers on their way through `Landscape.gradient`."""
    return (u * u) ** 0.5


_SQUARE: dict[str, Any] = {"minima": ((0, 0),), "minimum": 0, "start": (-2.5, 1.5), "window": ((-3, 3), (-3, 3))}
LANDSCAPES = {
    "sophia": Landscape(
        "Sophia's toy",
        r"8\,(x-1)^2\,(1.3\,x^2+2\,x+1)+\frac{1}{2}\,(y-4)^2",
        lambda x, y: 8 * (x - 1) ** 2 * (1.3 * x**2 + 2 * x + 1) + (y - 4) ** 2 / 2,
        minima=((1, 4),),
        minimum=0,
        start=(0.25, 6.75),
        window=((0, 1.5), (3, 7)),
        protocol=Protocol(600, 0.01, 0.01, {"Adam": 3.0227, "MeZO": 4.6659, "AdaMeZO": 4.5078}),
    ),
    "beale": Landscape(
        "Beale",
        r"(1.5-x+xy)^2+(2.25-x+xy^2)^2+(2.625-x+xy^3)^2+10^{-3}",
        lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2 + 1e-3,
        minima=((3, 0.5),),
        minimum=1e-3,
        start=(-1, -1),
        window=((-2, 5), (-2, 2)),
        protocol=Protocol(2500, 0.01, 0.002, {"Adam": 4.3550, "MeZO": 5.5405, "AdaMeZO": 5.3207}),
    ),
    "ellipse": Landscape(
        "Long ellipse",
        r"100\,x^2+y^2",
        lambda x, y: 100 * x**2 + y**2,
        minima=((0, 0),),
        minimum=0,
        start=(-1, 1),
        window=((-1, 1), (-0.5, 1.5)),
        protocol=Protocol(500, 0.01, 0.002, {"Adam": 1.4142, "MeZO": 1.4243, "AdaMeZO": 1.8577}),
    ),
    "diamond": Landscape("Diamond", "|x|+|y|", lambda x, y: magnitude(x) + magnitude(y), **_SQUARE),
    "flat_diamond": Landscape("Flat diamond", "|x|/10+|y|", lambda x, y: magnitude(x) / 10 + magnitude(y), **_SQUARE),
    "tilted_diamond": Landscape(
        "Tilted diamond", "|x+y|+|x-y|/10", lambda x, y: magnitude(x + y) + magnitude(x - y) / 10, **_SQUARE
    ),
    "tilted_ellipse": Landscape(
        "Tilted ellipse", "(x+y)^2+(x-y)^2/10", lambda x, y: (x + y) ** 2 + (x - y) ** 2 / 10, **_SQUARE
    ),
    "rosenbrock": Landscape(
        "Rosenbrock",
        r"100\,(x-y^2)^2+(1-y)^2",
        lambda x, y: 100 * (x - y**2) ** 2 + (1 - y) ** 2,
        minima=((1, 1),),
        minimum=0,
        start=(1, -1.2),
        window=((-4.5, 4.5), (-4.5, 4.5)),
    ),
    "saddle": Landscape(
        "Saddle",
        r"\frac{1}{2}\,x^2-\frac{1}{2}\,y^2+\frac{1}{4}\,y^4",
        lambda x, y: x**2 / 2 - y**2 / 2 + y**4 / 4,
        minima=((0, -1), (0, 1)),
        minimum=-0.25,
        start=(1.2, 0),
        window=((-1.5, 1.5), (-1.6, 1.6)),
    ),
    "two_blocks": Landscape(
        "Two blocks",
        r"\frac{1}{2}\,(25\,x^2+y^2)",
        lambda x, y: (25 * x**2 + y**2) / 2,
        minima=((0, 0),),
        minimum=0,
        start=(0.8, 4),
        window=((-1.5, 1.5), (-2, 5)),
        blocks=(1, 1),
    ),
}
"""The landscapes by key: AdaMeZO's three, the other five of ZO-AdaMU (arXiv 2312.15184), a saddle, and two blocks."""
