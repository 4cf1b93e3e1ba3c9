"""Solutions of notebook 07: `python notebooks/solutions/07_pertnn.py` prints what the checks say to them."""

import numpy as np

from zolab.models import load_model
from zolab.theory.terms import StepTerms
from zolab.widgets import check


def layers():
    model, _ = load_model("smollm2-135m")
    largest = model.get_input_embeddings().weight.numel()  # larger than a layer
    return model, model.config.num_hidden_layers + 2, largest / sum(w.numel() for w in model.parameters())


def no_budget():
    sizes, curvature, squares = np.array([10, 100]), np.array([1.0, 0.1]), np.array([1.0, 0.3])
    traces = sizes * curvature
    terms = StepTerms(sizes, squares, squares, traces, curvature * squares)  # as in section 1
    v = np.full(2, terms.best_lr(np.ones(2)) / 10)  # lr s, all that the change depends on
    for _ in range(20_000):
        slope = -squares + (squares * (traces @ v) + traces * (squares @ v)) / 2 + 2 * terms.curvatures * v
        v = np.maximum(v - 1e-3 * slope, 0)  # s is a square
    steep, flat = v / terms.best_lr(np.ones(2))
    return terms, float(steep), float(flat)


def width():
    rng, a = np.random.default_rng(0), 5**-0.5
    tanh = np.tanh(rng.uniform(-a, a, 1_000_000) + rng.uniform(-a, a, 1_000_000))  # only the last sigma, 1, is not zero
    return (float((np.mean(tanh**2) / 3 + 1 / (3 * 64)) ** 0.5),)


SOLUTIONS = {1: layers, 2: no_budget, 3: width}

if __name__ == "__main__":
    for number, solution in SOLUTIONS.items():
        print(check("07", number, *solution()))
