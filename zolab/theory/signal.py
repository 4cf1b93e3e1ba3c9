"""Signal and noise of each block's gradient with error bars, from the gradients of single examples: what a sigma may gain.

At first almost all of a gradient is one direction, the offset between the answers. So give the task the offsets that
calibration fits (`Task.offsets`): what is measured then is the slow part of fine-tuning, where noise rules and a block's
G_j / V_j counts.

With g_i the gradient of example i and S their sum, in each block,

    G = (|S|^2 - sum_i |g_i|^2) / (n (n - 1))        the mean of g_i'g_k over all pairs: the average product of disjoint halves
    V = (sum_i |g_i|^2 - |S|^2 / n) / (n - 1)        trace of the covariance of one example's gradient
    t = (1 / n) sum_i sum_c p_c |a_ic|^2             trace of the Gauss-Newton matrix, a_ic the gradients of log-probabilities

None of them is biased. Standard errors are the jackknife's: all is estimated without each example in turn, which takes no
further gradients, since |S - g_i|^2 = |S|^2 - 2 g_i'S + |g_i|^2. That of G is up to sqrt(2) too wide where a block's gradient
is all noise, as the jackknife's is for a degenerate U-statistic.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from zolab.probe.blocks import Blocks, Rule, split, weights_of
from zolab.tasks import Example, Task
from zolab.tasks.scoring import option_log_probs
from zolab.theory.measure import squares
from zolab.theory.terms import StepTerms

# Of one example: its gradient as a factor and tensors, and the Gauss-Newton trace in each tensor.
OneExample = tuple[float, Sequence[Tensor], np.ndarray]


@dataclass(frozen=True)
class Signal:
    """What the examples' gradients are among each other, by block.

    Args:
        names, sizes: of the blocks; sizes are d_j.
        lengths: |g_i|^2, shape (examples, blocks).
        products: g_i'S, shape (examples, blocks).
        curvatures: each example's share of the trace, shape (examples, blocks).
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    lengths: np.ndarray
    products: np.ndarray
    curvatures: np.ndarray

    @property
    def estimates(self) -> np.ndarray:
        """G_j, V_j and t_j, shape (3, blocks)."""
        return _estimates(len(self.lengths), self.products.sum(0), self.lengths.sum(0), self.curvatures.sum(0))

    @property
    def without_each(self) -> np.ndarray:
        """The same without each example in turn, shape (examples, 3, blocks)."""
        lengths, curvatures = self.lengths, self.curvatures
        totals = self.products.sum(0) - 2 * self.products + lengths
        rests = [totals, lengths.sum(0) - lengths, curvatures.sum(0) - curvatures]
        return np.swapaxes(_estimates(len(lengths) - 1, *rests), 0, 1)

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of `estimates`, same shape."""
        return jackknife(self.without_each)

    def terms(self, batch: int) -> StepTerms:
        """What the expected change of a step depends on, without the curvature along the gradient.

        That term is small beside the others where noise rules and the Gauss-Newton matrix has many directions.

        Args:
            batch: examples in a minibatch.
        """
        return _terms(self.sizes, self.estimates, batch)

    def gain(self, sigma: np.ndarray, batch: int) -> tuple[float, float]:
        """How many times as much a step is expected to gain with these scales as with one for all; and the standard error.

        Each at its own best learning rate, the former with the same examples: a sigma that was chosen by their statistics looks
        better than it is. Judge it by the `Signal` of others.

        Args:
            sigma: of the blocks, in their order.
            batch: examples in a minibatch.
        """
        rests = [gain(_terms(self.sizes, rest, batch), sigma) for rest in self.without_each]
        return gain(self.terms(batch), sigma), float(jackknife(np.array(rests)))


def gain(terms: StepTerms, sigma: np.ndarray) -> float:
    """The expected descent of a step with scales over that with one for all, each at its own best learning rate.

    Args:
        terms: measured on other examples than sigma was chosen by, or it is too good.
        sigma: of the blocks, in their order.
    """
    return float(terms.best_change(sigma) / terms.best_change(np.ones(len(terms.sizes))))


def jackknife(rests: np.ndarray) -> np.ndarray:
    """Standard errors of what was estimated without each example in turn, along the first axis."""
    n = len(rests)
    return np.sqrt((n - 1) / n * np.square(rests - rests.mean(0)).sum(0))


def signal_of(blocks: Blocks, gradients: Callable[[], Iterable[OneExample]]) -> Signal:
    """The statistics of examples' gradients, which are made twice and kept never: the sum is needed before its products.

    Args:
        blocks: how the tensors are split.
        gradients: gives each example's gradient, the same ones in each call.

    Raises:
        ValueError: there are fewer than 3 examples, of which none could be left out.
    """
    total: list[Tensor] = []
    for factor, tensors, _ in gradients():
        total = total or [torch.zeros_like(tensor) for tensor in tensors]
        for mine, tensor in zip(total, tensors, strict=True):
            mine += factor * tensor
    lengths, products, curvatures = [], [], []
    for factor, tensors, curvature in gradients():
        lengths.append(factor**2 * squares(tensors))
        pairs = zip(tensors, total, strict=True)
        products.append([factor * float(torch.dot(mine.flatten(), whole.flatten())) for mine, whole in pairs])
        curvatures.append(curvature)
    if len(lengths) < 3:
        raise ValueError(f"error bars need at least 3 examples, got {len(lengths)}.")
    by_block = (blocks.totals(np.array(values)) for values in (lengths, products, curvatures))
    return Signal(blocks.names, np.array(blocks.sizes), *by_block)


def signal(model: PreTrainedModel, task: Task, tokenizer, examples: Sequence[Example], rule: Rule = "tensor") -> Signal:
    """Signal and noise of a model's gradients on a task; needs memory for the weights and two more of their size.

    Args:
        model: in eval mode.
        task: of choices between candidates; with `offsets`, so that the slow part of fine-tuning is seen.
        tokenizer: the model's.
        examples: at least 3; those of another half for another `Signal`, by which a sigma is judged.
        rule: how the weights are split, as in `zolab.probe.blocks.split`.

    Raises:
        ValueError: the task is no choice between candidates, or there are too few examples.
    """
    if task.objective != "options":
        raise ValueError(f"signal and noise are those of scores of candidates, and {task.name} has none; use another task.")
    blocks, params = split(model, rule), weights_of(model)
    return signal_of(blocks, lambda: (_of(model, task, tokenizer, example, params) for example in examples))


def _of(model: PreTrainedModel, task: Task, tokenizer, example: Example, params: Sequence[Tensor]) -> OneExample:
    scores = option_log_probs(model, task.encode(tokenizer, [example]).to(params[0].device))
    if task.offsets:
        scores = scores + scores.new_tensor(task.offsets)
    logs = scores.log_softmax(0)
    p = logs.detach().exp().tolist()
    if len(p) == 2:  # both gradients are along that of the difference
        tensors = torch.autograd.grad(scores[1] - scores[0], params)
        return p[1] - example.answer, tensors, p[0] * p[1] * squares(tensors)
    curvature = np.zeros(len(params))
    for share, log in zip(p, logs, strict=True):
        curvature += share * squares(torch.autograd.grad(log, params, retain_graph=True))
    return -1.0, torch.autograd.grad(logs[example.answer], params), curvature


def _estimates(n: int, total: np.ndarray, lengths: np.ndarray, curvatures: np.ndarray) -> np.ndarray:
    return np.stack([(total - lengths) / (n * (n - 1)), (lengths - total / n) / (n - 1), curvatures / n])


def _terms(sizes: np.ndarray, estimates: np.ndarray, batch: int) -> StepTerms:
    squared, variances, traces = estimates
    return StepTerms(sizes, squared, squared + variances / batch, traces, np.zeros(len(sizes)))
