"""Solutions of notebook 02: `python notebooks/solutions/02_landscapes.py` prints what the checks say to them."""

from functools import partial

import numpy as np

from zolab import MEAZO
from zolab.landscapes import LANDSCAPES, Landscape
from zolab.widgets import check


def stability():
    hessian, directions = np.diag([25.0, 1.0]), np.array(LANDSCAPES["sophia"].protocol.directions)

    def grows(lr):
        first, second = (np.eye(2) - lr * np.outer(z, z) @ hessian for z in directions)
        return max(abs(np.linalg.eigvals(second @ first))) > 1

    low, high = 1e-4, 1.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if grows(middle) else (middle, high)
    return (low,)


class Falling(MEAZO):
    """MEAZO whose rate falls to zero in 1,000 steps."""

    def step(self, closure):
        for group in self.param_groups:
            group["lr"] = group.setdefault("first_lr", group["lr"]) * (1 - self.steps / 1000)
        return super().step(closure)


def shrinking_steps():
    return partial(Falling, lr=0.05), partial(MEAZO, lr=0.05)


def own_map():
    """A wide bowl with a narrow, shallow pit on its side."""

    def height(x, y):
        return 0.5 * (x**2 + y**2) - 0.8 * 2.718281828 ** (-20 * ((x - 2) ** 2 + y**2))

    across = np.linspace(1.7, 2.1, 401)
    floor = float(across[np.argmin(height(across, 0.0))])
    place = Landscape("bowl and pit", "", height, ((0, 0), (floor, 0)), 0, (2.0, 0.3), ((-3, 3), (-3, 3)))
    return place, 0.2


SOLUTIONS = {1: stability, 2: shrinking_steps, 3: own_map}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("02", number, *solution()))
