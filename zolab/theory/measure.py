"""Block statistics of models too large for a Hessian: gradients example by example, curvature by products."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from zolab import noise
from zolab.models.gradients import consumed, squares, wide
from zolab.noise import Direction
from zolab.probe.blocks import Rule, kind_of, split, weights_of
from zolab.tasks import Example, Task, by_class
from zolab.tasks.scoring import option_log_probs
from zolab.theory.terms import StepTerms

Kind = TypeVar("Kind")


class Recorded:
    """What statistics of blocks have in common: they go into a record and come out of it."""

    def record(self) -> dict[str, Any]:
        """As JSON takes it; `of` reads it."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()}

    @classmethod
    def of(cls: type[Kind], record: dict[str, Any]) -> Kind:
        arrays = {key: np.array(value) for key, value in record.items() if isinstance(value, list) and key != "names"}
        settings: dict[str, Any] = {**record, "names": tuple(record["names"]), **arrays}
        return cls(**settings)


@dataclass(frozen=True)
class BlockStatistics(Recorded):
    """Measured at one point of a model, an entry a block.

    Args:
        names: of the blocks.
        sizes: d_j.
        squares: G_j, squared norm of the mean gradient, the examples' own noise taken off.
        variances: V_j, trace of the covariance of one example's gradient.
        traces: t_j, trace of the Hessian's block, by Hutchinson's estimator.
        errors: standard error of t_j over the probes.
        examples, probes: how many there were.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    squares: np.ndarray
    variances: np.ndarray
    traces: np.ndarray
    errors: np.ndarray
    examples: int
    probes: int

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Sums over the layers: for each kind of tensor its size, G, V, t and the density G / d."""
        kinds: dict[str, dict[str, float]] = {}
        for j, name in enumerate(self.names):
            entry = kinds.setdefault(kind_of(name), dict.fromkeys(("size", "square", "variance", "trace"), 0.0))
            for key, values in zip(entry, (self.sizes, self.squares, self.variances, self.traces), strict=True):
                entry[key] += float(values[j])
        return {kind: {**entry, "density": entry["square"] / entry["size"]} for kind, entry in kinds.items()}

    def table(self) -> str:
        """By kind of tensor, the densest gradient first."""
        lines = [f"{'kind':26} {'weights':>11} {'G':>9} {'G/d':>9} {'V':>9} {'t':>9}"]
        for kind, e in sorted(self.by_kind().items(), key=lambda item: -item[1]["density"]):
            values = f"{e['square']:9.2e} {e['density']:9.2e} {e['variance']:9.2e} {e['trace']:9.2e}"
            lines.append(f"{kind:26} {int(e['size']):11,} {values}")
        return "\n".join(lines)


def block_statistics(
    model: PreTrainedModel, task: Task, tokenizer, examples: Sequence[Example], probes: int = 8, rule="tensor", seed: int = 0
) -> BlockStatistics:
    """G_j and V_j from every example's gradient, t_j from Hessian-vector products with random signs.

    A probe v sets all weights at once: v_j' (H v)_j has t_j as its mean, and the other blocks add to its variance, not to its
    mean. So all blocks share the products, of which one by block would take hundreds of times as many. Needs memory for the
    weights and four more of their size.

    Args:
        model: in eval mode.
        task, tokenizer: they make an example's loss.
        examples: at least 2.
        probes: at least 2.
        rule: how the weights are split, as in `zolab.probe.blocks.split`.
        seed: of the signs.

    Raises:
        ValueError: too few examples or probes.
    """
    if len(examples) < 2 or probes < 2:
        raise ValueError(f"a spread needs at least 2 examples and 2 probes, got {len(examples)} and {probes}.")
    blocks, params = split(model, rule), weights_of(model)

    def loss_of(chosen: Sequence[Example]) -> Tensor:
        return task.loss(model, task.encode(tokenizer, chosen).to(params[0].device))

    total, lengths = zeros_like(params), np.zeros(len(params))
    for example in examples:
        slopes = torch.autograd.grad(loss_of([example]), params)
        lengths += squares(slopes)
        for mean, slope in zip(total, slopes, strict=True):
            mean += wide(slope) / len(examples)
    mean_squares = squares(total)
    variances = (lengths / len(examples) - mean_squares) * len(examples) / (len(examples) - 1)
    del total, slopes
    traces = np.array([_signed_curvature(loss_of, params, examples, Direction(seed, probe)) for probe in range(probes)])
    by_block = blocks.totals(traces)
    clean, spread = blocks.totals(np.stack([mean_squares - variances / len(examples), variances]))
    errors = by_block.std(0, ddof=1) / probes**0.5
    sizes, means = np.array(blocks.sizes), by_block.mean(0)
    return BlockStatistics(blocks.names, sizes, clean, spread, means, errors, len(examples), probes)


def gauss_newton_terms(
    model: PreTrainedModel,
    task: Task,
    tokenizer,
    examples: Sequence[Example],
    batch: int,
    minibatches: int = 4,
    rule: Rule = "tensor",
    seed: int = 0,
    balanced: bool = False,
) -> tuple[StepTerms, dict[str, float]]:
    """What the exact expected change depends on, with the Gauss-Newton matrix for the Hessian; and that matrix's rank.

    For a softmax over candidates the matrix is the mean of sum_c p_c a_c a_c', a_c the gradient of candidate c's
    log-probability. So t_j and the curvature Q_jk along any gradients follow from inner products with the a_c, without
    second derivatives, and Q has no negative eigenvalue. Needs memory for the weights and `minibatches` + 3 more of their size.

    Args:
        model: in eval mode.
        task, tokenizer: a task whose loss is a softmax over candidates.
        examples: they are taken as the whole of the data.
        batch: examples in a minibatch.
        minibatches: how many are drawn for A_j and Q_jk.
        rule: how the weights are split, as in `zolab.probe.blocks.split`.
        seed: of the minibatches.
        balanced: draw as many examples of each class for each of them, as balanced batches have.

    Returns:
        The terms, and `trace`, `largest` and `ratio` (the effective rank) of the matrix, the largest eigenvalue bounded from
        below by its quotient along the gradient.

    Raises:
        ValueError: the task is no choice between candidates.
    """
    if task.objective != "options":
        raise ValueError(f"the Gauss-Newton matrix is that of a task with options, and {task.name} has none; use another.")
    blocks, params = split(model, rule), weights_of(model)
    order = np.random.default_rng(seed)
    batches: list[Sequence[Example]] = [examples]
    batches += [_minibatch(examples, batch, order, balanced) for _ in range(minibatches)]
    gradients = [_mean_gradient(model, task, tokenizer, chosen, params) for chosen in batches]
    seconds = np.array([squares(gradient) for gradient in gradients])
    slopes, trace = [], np.zeros(len(params))
    for weight, row in score_gradients(model, task, tokenizer, examples, params):
        rows = [[dot(a, g) for a, g in zip(row, gradient, strict=True)] for gradient in gradients]
        slopes.append(weight**0.5 * np.array(rows))
        trace += weight * squares(row)
    by_block = blocks.totals(np.array(slopes).swapaxes(0, 1))  # (drawn, scores, blocks)
    curvatures = np.einsum("dsj,dsk->djk", by_block, by_block)
    g = blocks.totals(seconds[0])
    a, q = blocks.totals(seconds[1:].mean(0)), curvatures[1:].mean(0)
    terms = StepTerms(np.array(blocks.sizes), g, a, blocks.totals(trace), q)
    largest = float(curvatures[0].sum() / g.sum())
    return terms, {"trace": float(trace.sum()), "largest": largest, "ratio": float(trace.sum()) / largest}


def score_gradients(
    model: PreTrainedModel, task: Task, tokenizer, examples: Sequence[Example], params: Sequence[Tensor]
) -> Iterator[tuple[float, Sequence[Tensor]]]:
    """Pairs (weight, a) with the Gauss-Newton matrix as the sum of weight * a a' over them.

    Of two candidates the gradients of the log-probabilities are parallel: one pair stands for both.
    """
    for example in examples:
        scores = task.shifted(option_log_probs(model, task.encode(tokenizer, [example]).to(params[0].device)))
        logs = scores.log_softmax(0)
        p = logs.detach().exp().tolist()
        if len(p) == 2:
            yield p[0] * p[1] / len(examples), torch.autograd.grad(scores[1] - scores[0], params)
            continue
        for c, log in enumerate(logs):
            yield p[c] / len(examples), torch.autograd.grad(log, params, retain_graph=c + 1 < len(p))


def zeros_like(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Room for the sums of such tensors, in float32 or wider."""
    return [torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two tensors of one shape."""
    return float(torch.dot(wide(a).flatten(), wide(b).flatten()))


def _minibatch(examples: Sequence[Example], size: int, order: np.random.Generator, balanced: bool) -> list[Example]:
    """Drawn with replacement; balanced, equally many of each class, and what is left over of classes in random order."""
    if not balanced:
        return [examples[i] for i in order.choice(len(examples), size)]
    classes = [members for members in by_class(examples) if members]
    turns = order.permutation(len(classes))
    drawn = [classes[turns[k % len(turns)]] for k in range(size)]
    return [members[order.integers(len(members))] for members in drawn]


def _mean_gradient(model, task: Task, tokenizer, examples: Sequence[Example], params: Sequence[Tensor]) -> list[Tensor]:
    total = zeros_like(params)
    for start in range(0, len(examples), 8):
        part = examples[start : start + 8]
        loss = task.loss(model, task.encode(tokenizer, part).to(params[0].device)) * (len(part) / len(examples))
        for mean, slope in zip(total, torch.autograd.grad(loss, params), strict=True):
            mean += wide(slope)
    return total


def _signed_curvature(
    loss_of: Callable[[Sequence[Example]], Tensor], params: Sequence[Tensor], examples: Sequence[Example], name: Direction
) -> np.ndarray:
    """v_j' (H v)_j of each tensor for one vector v of random signs."""
    curvature = np.zeros(len(params))

    def sign(j: int) -> Tensor:
        return noise.materialise(name, j, params[j]).sign_()

    for start in range(0, len(examples), 8):
        part = examples[start : start + 8]
        share = len(part) / len(examples)

        def meet(j: int, product: Tensor, share: float = share) -> None:
            curvature[j] += share * float((sign(j) * product).sum(dtype=torch.float64))

        with sdpa_kernel(SDPBackend.MATH), consumed(params, meet):  # other attention has no second derivative
            slopes = torch.autograd.grad(loss_of(part), params, create_graph=True)
            slope = sum(((g * sign(j)).sum() for j, g in enumerate(slopes)), slopes[0].new_zeros(()))
            del slopes
            slope.backward(inputs=list(params))
    return curvature
